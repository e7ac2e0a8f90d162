"""Encoder → bottleneck → decoder, as one model that trains under plain `fit`."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number
from brainvq.backend import mean_over_replicas, num_replicas
from brainvq.errors import UserError
from brainvq.layers.bottleneck import Bottleneck, BottleneckChain, refuse_tensors
from brainvq.models.code_usage import CodeUsage, MaskOf
from brainvq.models.latent import LatentModel, Vector
from brainvq.models.own_target import OwnTarget

# Many divisors: the strides of an encoder that takes any size are read off this size.
PROBE_SIZE = 80640


@keras.saving.register_keras_serializable(package="brainvq")
class Autoencoder(OwnTarget, LatentModel):
    """Any encoder, bottleneck and decoder, trained to give back its input.

    `call(x, training=None)` takes float `(batch, *spatial, channels)` and returns a dict:
    `reconstruction` (float32, the shape of `x`), `losses` (name → scalar, the bottleneck's terms)
    and, where the bottleneck has codes, `codes` (int32 `(batch, *grid)`, or `(batch, *grid, depth)`
    of a `ResidualQuantizer`); with `continuous_weight` also `continuous_reconstruction`.

    `fit(x)` reconstructs `x`; `fit(x, y)` reconstructs `y` from `x`. The loss is the
    reconstruction loss plus what the layers add. One `sample_weight` per image weighs the former.

    The history has `loss`, `reconstruction_loss`, each loss term of the bottleneck and, where there
    are codes, `codes_used` and `perplexity` counted over the epoch; with validation data also each
    as `val_…`. Metrics given to `compile` compare the reconstruction with the target. The loss is
    an argument of the model, not of `compile`:

        >>> model = Autoencoder(conv_encoder((128, 128, 1)), Identity(), conv_decoder((8, 8, 16)))
        >>> model.compile("adam")
        >>> model.fit(images, epochs=30)

    Args:
        encoder: `keras.Model` or layer, `(batch, *spatial, channels)` → `(batch, *grid, dim)`.
        bottleneck: `brainvq.layers.Bottleneck`, or a list of them, applied in turn (see
            `BottleneckChain`).
        decoder: `keras.Model` or layer, the way back.
        reconstruction_loss: name of a Keras loss such as `"mse"` (default) or `"mae"`, a
            `keras.losses.Loss`, or its serialised form.
        continuous_weight: float in (0, 1], or None (default). The decoder then also decodes the
            vectors as they are before they are quantised, and with this weight γ_e the loss is
            γ_e ℓ(x, x_e) + (1 − γ_e) ℓ(x, x_q) in place of ℓ(x, x_q) (SOM-VAE, Fortuin et al. 2019,
            section 2.1; Kapre, equations 2 and 3). One decoder, one call for both.
        **kwargs: `name` and others of `keras.Model`.

    An encoder may return a list, `[z, skip, ...]`: `z` goes through the bottleneck, and the decoder
    takes the same list with `z` quantised, as in a U-Net. Such a model reconstructs, but its codes
    alone decode to nothing.

    Raises:
        ValueError: if an argument is of another kind, and, in `call`, if the spatial sizes are no
            multiples of the encoder's strides; in `fit`, if `compile` was given a loss.
    """

    arrange = None
    """How samples become what the network knows, where they have several forms; None for as they
    are. A function of samples that returns them arranged, and a function that takes samples
    reconstructed from those back. `encode`, `codes`, `continuous` and `reconstruct` ask it, and
    `reconstruct` takes the way back. It is not saved with the model."""

    _parts = ("encoder", "bottleneck", "decoder")

    def __init__(
        self,
        encoder: keras.layers.Layer,
        bottleneck: Bottleneck | list[Bottleneck],
        decoder: keras.layers.Layer,
        reconstruction_loss: str | dict | keras.losses.Loss = "mse",
        continuous_weight: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(bottleneck, list | tuple):
            bottleneck = BottleneckChain(bottleneck)
        if not isinstance(bottleneck, Bottleneck):
            raise ValueError(
                "`bottleneck` must be a brainvq.layers.Bottleneck or a list of them. "
                f"Received: bottleneck={bottleneck}"
            )
        for part, given in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(given, keras.layers.Layer):
                raise ValueError(
                    f"`{part}` must be a Keras model or layer. Received: {part}={given}"
                )
        if continuous_weight is not None:
            continuous_weight = number("continuous_weight", continuous_weight, most=1.0, above=True)
        if continuous_weight is not None and not bottleneck.has_codes:
            raise ValueError(
                "`continuous_weight` needs a bottleneck with codes. "
                f"Received: bottleneck={bottleneck}"
            )
        refuse_tensors("bottleneck", [bottleneck])
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.reconstruction_loss = reconstruction_loss
        self.continuous_weight = continuous_weight
        self._loss_function = _as_loss(reconstruction_loss)
        names = ("reconstruction_loss", *bottleneck.loss_names)
        if continuous_weight is not None:
            names = (*names, "continuous_reconstruction_loss")
        self._term_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        if bottleneck.has_codes:
            self._code_usage = CodeUsage(bottleneck.num_codes, bottleneck.depth)
        self._stride = None

    def build(self, input_shape):
        """Builds the three parts for `input_shape` `(batch, *spatial, channels)`."""
        input_shape = tuple(input_shape)
        known = _shape(self.encoder, "input_shape") or input_shape
        if not self.encoder.built:
            self.encoder.build(input_shape)
        spatial = tuple(size or PROBE_SIZE for size in known[1:-1])
        grid = _first(self.encoder.compute_output_shape((1, *spatial, input_shape[-1])))
        self._stride = tuple(
            -(-size // cells) for size, cells in zip(spatial, grid[1:-1], strict=True)
        )
        latent_shape = self.encoder.compute_output_shape(input_shape)
        self._latent_size = grid[-1]
        if not self.bottleneck.built:
            self.bottleneck.build(_first(latent_shape))
        if not self.decoder.built:
            self.decoder.build(latent_shape)

    @property
    def stride(self) -> tuple[int, ...]:
        """Pixels per grid cell along each spatial axis, a tuple of ints."""
        self._require_shape()
        return self._stride

    @property
    def quantizer(self) -> Bottleneck:
        """The member of the bottleneck that has the codes, or its last one."""
        return self.bottleneck.members()[-1]

    @property
    def first_quantizer(self) -> Bottleneck:
        """The quantiser of the first code of each cell, that of the map where there is one."""
        return self.bottleneck.stages()[0]

    @property
    def has_skips(self) -> bool:
        """Whether the decoder also reads the encoder's finer levels."""
        return isinstance(_shape(self.encoder, "output_shape"), list)

    @property
    def num_codes(self) -> int | None:
        """Number of codes K of the codebook, or of each stage's; None where there is none."""
        return self.bottleneck.num_codes

    @property
    def depth(self) -> int | None:
        """Codes per grid cell on a last axis of the codes; None where there is no such axis."""
        return self.bottleneck.depth

    @property
    def latent(self) -> Vector:
        """What `encode` gives and `decode` takes: here a `Vector` for each cell of the grid."""
        self._require_shape()
        return Vector(self._latent_size)

    def first_codes(self, codes: np.ndarray) -> np.ndarray:
        """The first code of each cell, the coarsest; all there is where `depth` is None.

        Args:
            codes: int array `(n, *grid)`, or `(n, *grid, depth)`.

        Returns:
            Int array `(n, *grid)`.
        """
        return codes if self.depth is None else codes[..., 0]

    def call(self, x, training: bool | None = None):
        """Reconstructs `x`; see the class for shapes."""
        self._check_sizes(x.shape)
        # Said to each part: under the trainer of JAX none of them would know.
        z, skips = _split_skips(self.encoder(x, training=training))
        outputs = self.bottleneck(z, training=training)
        vectors = outputs["quantized"]
        results = {"losses": outputs["losses"]}
        if "codes" in outputs:
            results["codes"] = outputs["codes"]
        if self.continuous_weight is None:
            results["reconstruction"] = self._decode_vectors(vectors, skips, training)
            return results
        # Both in one batch: the decoder is the same, and so are the statistics that normalise it.
        both = ops.concatenate([vectors, outputs.get("continuous", vectors)], axis=0)
        skips = [ops.concatenate([skip, skip], axis=0) for skip in skips]
        decoded = self._decode_vectors(both, skips, training)
        count = ops.shape(decoded)[0] // 2
        results["reconstruction"] = decoded[:count]
        results["continuous_reconstruction"] = decoded[count:]
        return results

    def code_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of one image's codes; without codes that of its grid of vectors.

        Args:
            input_shape: tuple `(*spatial, channels)` of one image.

        Returns:
            Tuple of ints `(*grid)`, or `(*grid, depth)`.
        """
        self._require_shape()
        padded = [
            n + sum(_split_padding(n, s))
            for n, s in zip(input_shape[:-1], self.stride, strict=True)
        ]
        latent_shape = self.encoder.compute_output_shape((1, *padded, input_shape[-1]))
        depth = () if self.depth is None else (self.depth,)
        return (*_first(latent_shape)[1:-1], *depth)

    def load_weights(self, filepath, **kwargs):
        """Loads weights as `keras.Model.load_weights` does.

        Args:
            filepath: the `.weights.h5` file.
            **kwargs: as in `keras.Model.load_weights`.

        Raises:
            UserError: the file is missing or damaged, or holds the weights of another network.
        """
        try:
            super().load_weights(filepath, **kwargs)
        except (ValueError, OSError, KeyError) as error:
            known = f", {self.num_codes} codes" if self.bottleneck.has_codes else ""
            raise UserError(
                f"{filepath}: cannot be loaded ({str(error).splitlines()[0]}); expected weights of "
                f"the same network: {self.count_params()} parameters{known}"
            ) from error

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns reconstruction loss plus added losses, and logs each term on its own.

        Args:
            x: float `(batch, *spatial, channels)`.
            y: the target, of the same shape; None for `x`.
            y_pred: what `call` returned.
            sample_weight: float `(batch,)`, or None.
            training: ignored.

        Returns:
            Float32 scalar.

        Raises:
            ValueError: if `compile` was given a loss.
        """
        if self.loss is not None:
            raise ValueError(
                "The loss is an argument of the model, Autoencoder(..., reconstruction_loss=...), "
                f"not of `compile`. Received: loss={self.loss}"
            )
        target = x if y is None else y
        reconstruction = y_pred["reconstruction"]
        if sample_weight is not None and len(sample_weight.shape) == 1:
            # One weight per sample, against a loss per pixel: (batch, 1, …).
            ones = (1,) * (len(reconstruction.shape) - 2)
            sample_weight = ops.reshape(sample_weight, (-1, *ones))
        loss = self._reconstruction_error(target, reconstruction, sample_weight)
        terms = {"reconstruction_loss": loss, **y_pred["losses"]}
        if self.continuous_weight is not None:
            continuous = y_pred["continuous_reconstruction"]
            continuous = self._reconstruction_error(target, continuous, sample_weight)
            terms["continuous_reconstruction_loss"] = continuous
            loss = self.continuous_weight * continuous + (1.0 - self.continuous_weight) * loss
        batch_size = ops.shape(reconstruction)[0]
        for name, tracker in self._term_trackers.items():
            tracker.update_state(terms[name], sample_weight=batch_size)
        if "codes" in y_pred:
            codes = y_pred["codes"]
            self._code_usage.update_state(codes, mask=MaskOf()(codes))
        for added in self.losses:
            loss = loss + ops.cast(ops.sum(added), "float32")
        return loss / num_replicas()  # Keras sums the gradients of replicas

    def _reconstruction_error(self, target, reconstruction, sample_weight):
        """The reconstruction loss of the whole batch, with a gradient as of layers' losses."""
        loss = self._loss_function(target, reconstruction, sample_weight=sample_weight)
        replicas = num_replicas()
        if replicas == 1:
            return loss
        # Keras has divided means by the number of replicas, as if all had equal shares.
        reduction = self._loss_function.reduction
        if reduction in ("sum", "none", None):
            return mean_over_replicas(loss, 1.0 / replicas)
        count = ops.cast(ops.shape(reconstruction)[0], "float32")
        if reduction == "mean_with_sample_weight" and sample_weight is not None:
            count = ops.sum(ops.cast(sample_weight, "float32"))
        return mean_over_replicas(loss * replicas * count, count)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of `compile` with the reconstruction and its target.

        The arguments are those of `compute_loss`.
        """
        target = x if y is None else y
        return super().compute_metrics(x, target, y_pred["reconstruction"], sample_weight)

    def predict_step(self, *args):
        """Leaves the loss terms out: `predict` joins batches, and scalars have no batch axis."""
        result = super().predict_step(*args)
        if isinstance(result, tuple):  # JAX: (outputs, state)
            return (_without_losses(result[0]), *result[1:])
        return _without_losses(result)

    def encode(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Encodes images to what the decoder reads, without noise.

        Args:
            x: float array `(n, *spatial, channels)` of any size that the encoder takes: what is no
                multiple of `stride` is padded on both sides with its edge.
            batch_size: int, images per step.

        Returns:
            Float32 NumPy array `(n, *grid, dim)`.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        return self._batched("encode", self._latents, self._arranged(x)[0], batch_size)

    def decode(
        self, z: np.ndarray, batch_size: int = 32, size: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Decodes the output of `encode`.

        Args:
            z: float array `(n, *grid, dim)`.
            batch_size: int, samples per step.
            size: spatial sizes of the images that were encoded; the padding of `encode` is cut off
                again. By default the images keep it.

        Returns:
            Float32 NumPy array `(n, *spatial, channels)`.

        Raises:
            ValueError: if images of that `size` have another grid, or the decoder needs more.
        """
        self._refuse_skips()
        z = np.asarray(z, dtype="float32")
        return self._cropped(self._batched("decode", self._decode_vectors, z, batch_size), size)

    def reconstruct(
        self, x: np.ndarray, batch_size: int = 32, continuous: bool = False
    ) -> np.ndarray:
        """`decode(encode(x))`, to the last bit.

        Args:
            x: float array `(n, *spatial, channels)`; see `encode`.
            batch_size: int, images per step.
            continuous: whether to decode the vectors as they are before they are quantised. The
                result is then not made of codes alone.

        Returns:
            Float32 NumPy array, the shape of `x`.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        size = np.shape(x)[1:-1]
        x, back = self._arranged(x)
        if self.has_skips:
            name, function = (
                ("continuous way", self._continuous_way)
                if continuous
                else ("whole way", self._whole_way)
            )
            images = self._batched(name, function, x, batch_size)
            return back(self._cropped(images, size))
        if continuous:
            z = self._batched("continuous", self._continuous_vectors, x, batch_size)
            images = self._batched("decode vectors", self._decode_vectors, z, batch_size)
            return back(self._cropped(images, size))
        # The same two compiled functions that a user calls: one function for the whole way is
        # rounded otherwise by the compiler, and then codes on file decode to other last digits.
        z = self._batched("encode", self._latents, x, batch_size)
        return back(self.decode(z, batch_size, size=size))

    def continuous(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """The vectors that a quantiser gets, without noise.

        Args:
            x: float array `(n, *spatial, channels)`; see `encode`.
            batch_size: int, images per step.

        Returns:
            Float32 NumPy array `(n, *grid, dim)`; what `encode` gives where there are no codes.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        x, _ = self._arranged(x)
        return self._batched("continuous", self._continuous_vectors, x, batch_size)

    def codes(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """The codes of images, also where the decoder does not read them (`ProbabilisticSOM`).

        Args:
            x: float array `(n, *spatial, channels)`; see `encode`.
            batch_size: int, images per step.

        Returns:
            Int32 NumPy array `(n, *grid)`, or `(n, *grid, depth)`, in 0 … num_codes − 1.

        Raises:
            ValueError: if the bottleneck has no codes, or the encoder was made for another size.
        """
        if not self.bottleneck.has_codes:
            raise ValueError(f"{self.name} has no codes. Received: bottleneck={self.bottleneck}")
        return self._batched("codes", self._codes, self._arranged(x)[0], batch_size)

    def endpoints(self, inputs=None) -> dict:
        """What `export` writes: `serve`, `encode`, `reconstruct` and, without skips, `decode`.

        `serve` is what `predict` returns, the others are the methods of those names for tensors
        float32 `(n, *spatial, channels)`, whose sizes are multiples of `stride`.

        Args:
            inputs: `keras.InputSpec` of images. Default: those that the encoder was made for.

        Returns:
            See `Exports.endpoints`.
        """
        self._require_shape()
        shape = tuple((inputs or keras.InputSpec(shape=self.encoder.input_shape)).shape)
        images = keras.InputSpec(shape=shape, dtype="float32", name="images")
        grid = _first(self.encoder.compute_output_shape(shape))
        functions = {
            "serve": (lambda x: _without_losses(self(x, training=False)), images),
            "encode": (self._encode_vectors, images),
            "reconstruct": (self._whole_way, images),
        }
        if not self.has_skips:
            vectors = keras.InputSpec(shape=grid, dtype="float32", name="vectors")
            functions["decode"] = (self._decode_vectors, vectors)
        return functions

    def get_config(self):
        """Returns the constructor's arguments, the parts in serialised form."""
        loss = self.reconstruction_loss
        if isinstance(loss, keras.losses.Loss):
            loss = keras.losses.serialize(loss)
        return {
            **super().get_config(),
            **self._serialized_parts(),
            "reconstruction_loss": loss,
            "continuous_weight": self.continuous_weight,
        }

    def _bottleneck_outputs(self, x):
        z, skips = _split_skips(self.encoder(x, training=False))
        return self.bottleneck(z, training=False), skips

    def _encode_vectors(self, x):
        return self._bottleneck_outputs(x)[0]["quantized"]

    def _continuous_vectors(self, x):
        outputs, _ = self._bottleneck_outputs(x)
        return outputs.get("continuous", outputs["quantized"])

    def _codes(self, x):
        return self._bottleneck_outputs(x)[0]["codes"]

    def _whole_way(self, x):
        outputs, skips = self._bottleneck_outputs(x)
        return self._decode_vectors(outputs["quantized"], skips)

    def _continuous_way(self, x):
        outputs, skips = self._bottleneck_outputs(x)
        return self._decode_vectors(outputs.get("continuous", outputs["quantized"]), skips)

    def _decode_vectors(self, z, skips=(), training=False):
        decoded = self.decoder([z, *skips] if skips else z, training=training)
        return ops.cast(decoded, "float32")

    # What `encode` gives.
    def _latents(self, x):
        return self._encode_vectors(x)

    def _arranged(self, x):
        """Images as the encoder takes them, and the way back of their reconstructions."""
        x = self._fitting_images(x)
        x, back = (x, _unchanged) if self.arrange is None else self.arrange(x)
        widths = [_split_padding(n, s) for n, s in zip(x.shape[1:-1], self.stride, strict=True)]
        return np.pad(x, [(0, 0), *widths, (0, 0)], mode="edge") if np.any(widths) else x, back

    def _fitting_images(self, x):
        x = np.asarray(x, dtype="float32")
        known = _shape(self.encoder, "input_shape") or (None,) * x.ndim
        if len(known) == x.ndim and any(
            k not in (None, n) for k, n in zip(known[1:], x.shape[1:], strict=True)
        ):
            raise ValueError(
                f"The encoder was made for images {known[1:]}; None there takes any size. "
                f"Received: x.shape={x.shape}"
            )
        if not self.built:
            self.build((None, *x.shape[1:]))
        if x.ndim != len(self.stride) + 2:
            raise ValueError(
                f"Expected an array (n, {'size, ' * len(self.stride)}channels). "
                f"Received: x.shape={x.shape}"
            )
        return x

    def _cropped(self, images, size):
        """Cuts the padding of `_arranged` off images that had `size` before it."""
        if size is None:
            return images
        widths = [_split_padding(n, s) for n, s in zip(size, self.stride, strict=True)]
        padded = tuple(n + sum(width) for n, width in zip(size, widths, strict=True))
        if padded != images.shape[1:-1]:
            raise ValueError(
                f"Images of {tuple(size)} are decoded to {padded}. "
                f"Received: a grid that decodes to {images.shape[1:-1]}"
            )
        inside = [slice(w[0], w[0] + n) for n, w in zip(size, widths, strict=True)]
        return images[(slice(None), *inside)]

    def _check_sizes(self, shape):
        if self._stride is None:
            return
        sizes = tuple(shape[1:-1])
        if any(s is not None and s % n for s, n in zip(sizes, self._stride, strict=True)):
            raise ValueError(
                f"Spatial sizes must be multiples of the encoder's strides {self._stride}. "
                f"Received: sizes={sizes}"
            )

    def _refuse_skips(self):
        if self.has_skips:
            raise ValueError(
                f"{self.name} has skip connections: what is encoded does not determine the image. "
                "Received: a decoder that also reads the encoder's finer levels"
            )

    def _require_shape(self):
        if self._stride is None:
            shape = _shape(self.encoder, "input_shape")
            if shape is None:
                raise ValueError(f"{self.name} is not built yet: call it on images once before.")
            self.build(shape)


class _FunctionLoss(keras.losses.Loss):
    """A loss function of Keras as a loss object, for its weighting and reduction."""

    def __init__(self, function):
        super().__init__(name=function.__name__)
        self.function = function

    def call(self, y_true, y_pred):
        """Returns the function's value per sample and pixel."""
        return self.function(y_true, y_pred)


def _as_loss(loss):
    loaded = keras.losses.get(loss)
    if not callable(loaded):
        raise ValueError(
            "`reconstruction_loss` must be the name of a Keras loss, a loss or its config. "
            f"Received: reconstruction_loss={loss}"
        )
    return loaded if isinstance(loaded, keras.losses.Loss) else _FunctionLoss(loaded)


def _shape(network, name):
    """`input_shape` or `output_shape` of a functional model; None for a layer, which has none."""
    return getattr(network, name, None)


def _first(shapes):
    """The shape of z, of an encoder that may return skips too."""
    return tuple(shapes[0] if isinstance(shapes, list) else shapes)


def _split_skips(encoded):
    """z and the list of skips, of what an encoder returns."""
    if isinstance(encoded, list | tuple):
        return encoded[0], list(encoded[1:])
    return encoded, []


def _split_padding(size, stride):
    """Pixels to add (before, after) so that `size` becomes a multiple of `stride`."""
    missing = -size % stride
    return missing // 2, missing - missing // 2


def _unchanged(x):
    return x


def _without_losses(outputs):
    return {name: value for name, value in outputs.items() if name != "losses"}
