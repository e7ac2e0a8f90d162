"""Classifiers of code maps and of images, small enough for a cohort of tens of subjects.

Three forms share one head, so that what is compared is what the head reads:

- `CodeClassifier` on code maps (or on their vectors);
- `ImageClassifier(FrozenEncoder(...), CodeClassifier(...))`: the trained encoder in front, fixed;
- `ImageClassifier(PixelStem(...), CodeClassifier(...))`: strided convolutions of its own in front.
"""

import keras
import numpy as np
from keras import layers, ops

from brainvq.arguments import number, seed_of, whole, wholes
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.shapes import channels_spec

# Batches are few, so the moving averages must follow within tens of steps.
MOMENTUM = 0.9
# The pixel classifier's stem may add this share of the head's parameters.
STEM_SHARE = 0.1
MOST_STEM_FILTERS = 64


@keras.saving.register_keras_serializable(package="brainvq")
class CodeClassifier(keras.Model):
    """A small convolutional network from a map of codes to class logits.

    `call(x, training=None)` takes int `(batch, h, w)`, codes that a frozen codebook turns into
    vectors, or float `(batch, h, w, dim)`, the vectors themselves, and returns float32
    `(batch, num_classes)`, logits. The grid may have any size.

    The vectors are standardised by batch normalisation; then a 3×3 convolution for each entry of
    `filters`, all but the first of stride 2, each with batch normalisation and ReLU; then mean and
    maximum over the grid, dropout, and a linear layer. The maximum sees what is small and rare, as
    a lesion is. It computes in float32 whatever the dtype policy.

        >>> classifier = CodeClassifier(2, codebook=model.bottleneck.codebook)
        >>> classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> classifier.fit(model.encode(images), classes)

    Args:
        num_classes: int ≥ 2.
        codebook: float `(num_codes, dim)`, the vector of each code, never trained; None for a
            classifier of vectors alone.
        filters: channels of the convolutions.
        dropout: share of the pooled features dropped while training, in [0, 1).
        class_names: names of the classes, in order; saved with the model. None for none.
        seed: int, seed of initial weights and dropout; None for a random one.
        **kwargs: `name` and others of `keras.Model`; `dtype` is replaced by float32.

    Raises:
        ValueError: if an argument is out of its range; in `call`, if codes come without a codebook.
    """

    def __init__(
        self,
        num_classes: int,
        codebook: np.ndarray | None = None,
        filters: tuple[int, ...] = (32, 64),
        dropout: float = 0.3,
        class_names: tuple[str, ...] | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_classes = whole("num_classes", num_classes, 2)
        several = isinstance(class_names, list | tuple)
        if class_names is not None and not (several and len(class_names) == num_classes):
            raise ValueError(
                f"`class_names` must have {num_classes} entries. "
                f"Received: class_names={class_names}"
            )
        self.codebook = None if codebook is None else _checked_codebook(codebook)
        self.filters = wholes("filters", filters, least=1)
        self.dropout = number("dropout", dropout, most=1.0, below=True)
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.seed = seed_of(seed)
        self.norm = layers.BatchNormalization(momentum=MOMENTUM, dtype="float32")
        self.convolutions, self.norms = [], []
        for level, channels in enumerate(self.filters):
            self.convolutions.append(
                layers.Conv2D(
                    channels,
                    3,
                    strides=2 if level else 1,
                    padding="same",
                    use_bias=False,
                    kernel_initializer=keras.initializers.HeNormal(_seed(seed, level)),
                    dtype="float32",
                )
            )
            self.norms.append(layers.BatchNormalization(momentum=MOMENTUM, dtype="float32"))
        self.drop = layers.Dropout(dropout, seed=_seed(seed, 100), dtype="float32")
        # Small weights: an untrained classifier finds all classes about equally likely.
        start = keras.initializers.RandomNormal(stddev=0.01, seed=_seed(seed, 101))
        self.logits = layers.Dense(num_classes, kernel_initializer=start, dtype="float32")

    def build(self, input_shape):
        """Builds for `(batch, h, w)` codes or `(batch, h, w, dim)` vectors."""
        if self.codebook is not None:
            self.embeddings = self.add_weight(
                name="codebook",
                shape=self.codebook.shape,
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(self.codebook, dtype),
                trainable=False,
            )
            dim = self.codebook.shape[1]
        else:
            if len(input_shape) != 4:
                raise ValueError(
                    "A classifier without a codebook takes vectors (batch, h, w, dim). "
                    f"Received: input_shape={tuple(input_shape)}"
                )
            dim = input_shape[-1]
        self.norm.build((None, None, None, dim))
        for channels, convolution, norm in zip(
            self.filters, self.convolutions, self.norms, strict=True
        ):
            convolution.build((None, None, None, dim))
            norm.build((None, None, None, channels))
            dim = channels
        self.drop.build((None, 2 * dim))
        self.logits.build((None, 2 * dim))

    def call(self, x, training: bool | None = None):
        """Returns the logits of `x`; see the class for shapes."""
        if len(x.shape) == 3:
            if self.codebook is None:
                raise ValueError(
                    "Codes need a codebook: CodeClassifier(..., codebook=...). "
                    f"Received: x.shape={tuple(x.shape)}"
                )
            x = ops.take(self.embeddings, ops.cast(x, "int32"), axis=0)  # (batch, h, w, dim)
        x = self.norm(ops.cast(x, "float32"), training=training)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = ops.relu(norm(convolution(x), training=training))
        x = ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], axis=-1)
        return self.logits(self.drop(x, training=training))  # (batch, num_classes)

    def compute_output_shape(self, input_shape):
        """Returns `(batch, num_classes)`."""
        return (input_shape[0], self.num_classes)

    def get_config(self):
        """Returns the constructor's arguments, the codebook as nested lists."""
        codebook = self.codebook
        if codebook is not None:
            # The shortest text that gives back the same float32.
            codebook = [[float(str(value)) for value in row] for row in codebook]
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "codebook": codebook,
            "filters": list(self.filters),
            "dropout": self.dropout,
            "class_names": None if self.class_names is None else list(self.class_names),
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="brainvq")
class FrozenEncoder(layers.Layer):
    """The encoder and bottleneck of a trained autoencoder, as a layer that never changes.

    `call(x)` takes float `(batch, rows, cols, channels)` and returns float32 `(batch, h, w, dim)`:
    the codebook's vectors where there are codes, else the bottleneck's output without noise.
    Nothing in it is trained, whatever surrounds it: its weights are not trainable, the parts never
    run in training mode, no gradient passes, and the bottleneck's losses are dropped. The parts
    are copies, so the autoencoder they come from stays as it is.

    Args:
        encoder: `keras.Model` or layer, such as `model.encoder`.
        bottleneck: `brainvq.layers.Bottleneck`, such as `model.bottleneck`.
        **kwargs: `name`; `dtype` is replaced by float32 and `trainable` by False.

    Raises:
        ValueError: if a part is of another kind.
    """

    def __init__(self, encoder: layers.Layer, bottleneck: layers.Layer, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32", "trainable": False})
        if not isinstance(encoder, layers.Layer) or not isinstance(bottleneck, Bottleneck):
            raise ValueError(
                "`encoder` must be a Keras layer, `bottleneck` a brainvq.layers.Bottleneck. "
                f"Received: encoder={encoder}, bottleneck={bottleneck}"
            )
        self.encoder = copy_layer(encoder)
        self.bottleneck = copy_layer(bottleneck)
        self.encoder.trainable = False
        self.bottleneck.trainable = False

    def build(self, input_shape):
        """Builds the parts for `(batch, rows, cols, channels)`."""
        if not self.encoder.built:
            self.encoder.build(input_shape)
        if not self.bottleneck.built:
            self.bottleneck.build(self.encoder.compute_output_shape(input_shape))

    def call(self, x):
        """Encodes images; see the class for shapes."""
        # In a scope of its own, no variable can change and no layer can add a loss to the model
        # around it.
        mapping = [(variable, variable.value) for variable in self.variables]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = self.bottleneck(self.encoder(x, training=False), training=False)
            if "codes" in outputs:
                vectors = self.bottleneck.codes_to_vectors(outputs["codes"])
            else:
                vectors = outputs["quantized"]
        return ops.stop_gradient(ops.cast(vectors, "float32"))

    def compute_output_shape(self, input_shape):
        """Returns `(batch, h, w, dim)`."""
        return self.encoder.compute_output_shape(input_shape)

    def get_config(self):
        """Returns the constructor's arguments, the parts in serialised form."""
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "bottleneck": keras.saving.serialize_keras_object(self.bottleneck),
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds the layer and its parts from `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("encoder", "bottleneck")
        }
        return cls(**{**config, **parts})


@keras.saving.register_keras_serializable(package="brainvq")
class PixelStem(layers.Layer):
    """Strided convolutions from pixels to a grid of vectors, in the place of a frozen encoder.

    `call(x, training=None)` takes float `(batch, rows, cols, channels)` and returns float32
    `(batch, rows / stride, cols / stride, dim)`. One 3×3 convolution for each prime factor of the
    stride, each but the last with batch normalisation and ReLU.

    Args:
        stride: int ≥ 2, pixels per vector along each side.
        dim: int ≥ 1, channels of the output.
        filters: int ≥ 1, channels of the convolutions before the last.
        seed: int, seed of the initial weights; None for a random one.
        **kwargs: `name`; `dtype` is replaced by float32.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, stride: int, dim: int, filters: int = 8, seed: int | None = None, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.stride = stride = whole("stride", stride, 2)
        self.dim = dim = whole("dim", dim)
        self.filters = filters = whole("filters", filters)
        self.seed = seed_of(seed)
        factors = _prime_factors(stride)
        self.convolutions, self.norms = [], []
        for level, factor in enumerate(factors):
            last = level == len(factors) - 1
            self.convolutions.append(
                layers.Conv2D(
                    dim if last else filters,
                    max(3, factor),
                    strides=factor,
                    padding="same",
                    use_bias=last,
                    kernel_initializer=keras.initializers.HeNormal(_seed(seed, 200 + level)),
                    dtype="float32",
                )
            )
            if not last:
                self.norms.append(layers.BatchNormalization(momentum=MOMENTUM, dtype="float32"))

    def build(self, input_shape):
        """Builds for `(batch, rows, cols, channels)`."""
        self.input_spec = channels_spec(self, input_shape, ndim=4)
        shape = (None, None, None, input_shape[-1])
        for level, convolution in enumerate(self.convolutions):
            convolution.build(shape)
            shape = (None, None, None, convolution.filters)
            if level < len(self.norms):
                self.norms[level].build(shape)

    def call(self, x, training: bool | None = None):
        """Returns the vectors of `x`; see the class for shapes."""
        x = ops.cast(x, "float32")
        for convolution, norm in zip(self.convolutions[:-1], self.norms, strict=True):
            x = ops.relu(norm(convolution(x), training=training))
        return self.convolutions[-1](x)  # (batch, h, w, dim)

    def compute_output_shape(self, input_shape):
        """Returns `(batch, h, w, dim)`."""
        for convolution in self.convolutions:
            input_shape = convolution.compute_output_shape(input_shape)
        return tuple(input_shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "stride": self.stride,
            "dim": self.dim,
            "filters": self.filters,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="brainvq")
class ImageClassifier(keras.Model):
    """A layer from images to a grid of vectors, and a `CodeClassifier` on it.

    `call(x, training=None)` takes float `(batch, rows, cols, channels)` and returns float32
    `(batch, num_classes)`, logits. With `FrozenEncoder` in front, images go in and only the head
    learns, so that images can be changed at random while training:

        >>> front = FrozenEncoder(model.encoder, model.bottleneck)
        >>> classifier = ImageClassifier(front, CodeClassifier(2))
        >>> classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> classifier.fit(images, classes)

    Args:
        front: `FrozenEncoder`, `PixelStem`, or another layer `(batch, rows, cols, channels)` →
            `(batch, h, w, dim)`.
        head: `CodeClassifier`.
        **kwargs: `name` and others of `keras.Model`; `dtype` is replaced by float32.

    Raises:
        ValueError: if a part is of another kind.
    """

    def __init__(self, front: layers.Layer, head: CodeClassifier, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if not isinstance(front, layers.Layer) or not isinstance(head, CodeClassifier):
            raise ValueError(
                "`front` must be a Keras layer, `head` a CodeClassifier. "
                f"Received: front={front}, head={head}"
            )
        self.front = front
        self.head = head

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.head.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, a tuple of str, or None."""
        return self.head.class_names

    def build(self, input_shape):
        """Builds both parts for `(batch, rows, cols, channels)`."""
        if not self.front.built:
            self.front.build(input_shape)
        if not self.head.built:
            self.head.build(self.front.compute_output_shape(input_shape))

    def call(self, x, training: bool | None = None):
        """Returns the logits of `x`; see the class for shapes."""
        options = {} if isinstance(self.front, FrozenEncoder) else {"training": training}
        return self.head(self.front(x, **options), training=training)

    def compute_output_shape(self, input_shape):
        """Returns `(batch, num_classes)`."""
        return (input_shape[0], self.num_classes)

    def get_config(self):
        """Returns the constructor's arguments, the parts in serialised form."""
        return {
            **super().get_config(),
            "front": keras.saving.serialize_keras_object(self.front),
            "head": keras.saving.serialize_keras_object(self.head),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model and its parts from `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("front", "head")
        }
        return cls(**{**config, **parts})


def pixel_classifier(
    num_classes: int,
    stride: int,
    dim: int,
    *,
    channels: int = 1,
    seed: int | None = None,
    **options,
) -> ImageClassifier:
    """A classifier of pixels of the size of a `CodeClassifier` on vectors of length `dim`.

    The head is the same network; its stem is the widest `PixelStem` that adds no more than a tenth
    to the head's trainable parameters (at least two filters).

    Args:
        num_classes: int ≥ 2.
        stride: int ≥ 2, pixels per grid cell, as the encoder's that it stands beside.
        dim: int, length of the vectors, as the codebook's.
        channels: int, channels of the images.
        seed: int, or None.
        **options: `filters`, `dropout` and `class_names` of `CodeClassifier`.

    Returns:
        `ImageClassifier`, built for any image size that `stride` divides.

    Raises:
        ValueError: if an argument is out of its range.
    """
    dim, stride = whole("dim", dim), whole("stride", stride, 2)
    channels = whole("channels", channels)
    head = CodeClassifier(num_classes, seed=seed, **options)
    head.build((None, None, None, dim))
    allowed = STEM_SHARE * trainable_parameters(head)
    width = 2
    while width < MOST_STEM_FILTERS and _stem_size(stride, dim, width + 1, channels) <= allowed:
        width += 1
    model = ImageClassifier(PixelStem(stride, dim, width, seed), head)
    model.build((None, None, None, channels))
    return model


def trainable_parameters(model: layers.Layer) -> int:
    """Number of trainable parameters of a built model or layer."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def copy_layer(layer: layers.Layer) -> layers.Layer:
    """A copy of a layer or model with the same weights; random seeds start anew.

    Args:
        layer: a registered Keras layer or model, built or not.

    Returns:
        A layer of the same class that shares nothing with `layer`.
    """
    copy = type(layer).from_config(layer.get_config())
    if layer.built:
        if not copy.built:
            copy.build_from_config(layer.get_build_config())
        copy.set_weights([ops.convert_to_numpy(ops.convert_to_tensor(w)) for w in layer.weights])
    return copy


def _checked_codebook(codebook):
    codebook = np.array(ops.convert_to_numpy(codebook), dtype="float32")
    if codebook.ndim != 2 or not np.isfinite(codebook).all():
        raise ValueError(
            "`codebook` must be finite and of shape (num_codes, dim). "
            f"Received: codebook.shape={codebook.shape}"
        )
    return codebook


def _stem_size(stride, dim, filters, channels):
    """Trainable parameters of a `PixelStem`, without making one."""
    factors = _prime_factors(stride)
    size, last = 0, channels
    for factor in factors[:-1]:
        size += max(3, factor) ** 2 * last * filters + 2 * filters
        last = filters
    return size + max(3, factors[-1]) ** 2 * last * dim + dim


def _prime_factors(number):
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def _seed(seed, number):
    """A seed for each layer; equal ones would start layers of one shape with the same weights."""
    return None if seed is None else 1000 * seed + number
