"""The contract that every bottleneck keeps, and the chain of several."""

import collections
import math

import keras
import numpy as np
from keras import ops

from brainvq.backend import mean_over_replicas, num_replicas, replica_number
from brainvq.layers.shapes import TracedShapes, channels_spec


@keras.saving.register_keras_serializable(package="brainvq")
class Bottleneck(TracedShapes, keras.layers.Layer):
    """Base class of the layer between an encoder and a decoder.

    `call(z, training=None, mask=None)` takes float `(batch, *grid, dim)` and returns a dict:

    - `"quantized"`: float32, the shape of `z`; what the decoder reads;
    - `"codes"`: int32 `(batch, *grid)`, or `(batch, *grid, depth)` with `depth`; the key is missing
      where there are no codes;
    - `"continuous"`: float32, the shape of `z`: the vectors that were quantised; the key is
      missing where there are no codes, or where `quantized` is that already;
    - `"losses"`: a dict of name → weighted float32 scalar, with the names of `loss_names`.

    The layer adds the sum of its losses by `add_loss`, so that it trains within any `keras.Model`
    under plain `fit`. It computes in float32 whatever the dtype policy: in bfloat16 the rounding
    of distances changes codes. Weights that `call` itself updates change only with `training=True`.

    `mask`, bool `(batch, *grid)`, says which cells hold data; a layer such as `Masking` of Keras
    before this one hands it on. Where it is False there is padding: it is read as zeros, has no
    part in any loss and moves no code. The outputs carry the mask on.

    Under `tf.distribute` losses are means over the cells of all replicas.

    Args:
        tensor_only: bool, whether `call` returns `quantized` alone instead of the dict, as
            `keras.Sequential` needs it. The losses are added all the same. Default False.
        **kwargs: `name` and `trainable`, as for every Keras layer. A `dtype` is accepted, since
            configs hold one, and replaced by float32.
    """

    loss_names = ()
    """Names of the loss terms that `call` returns, in order."""

    num_codes = None
    """Number of codes K; None where the layer has none."""

    depth = None
    """Number of codes per grid cell, the last axis of `codes`; None where there is no such axis."""

    sample_bits = None
    """Mean bits of a sample where codes are not all of log2(K) bits; None where they are."""

    codebook = None
    """Float32 `(num_codes, dim)`, after a `depth` if there is one; None where there is none."""

    traced_settings = ()
    """Names of attributes that a compiled function holds as constants, though they can be set."""

    seed_generator = None
    """The `keras.random.SeedGenerator` of a layer that draws random numbers, else None."""

    def __init__(self, tensor_only: bool = False, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.tensor_only = bool(tensor_only)
        self.supports_masking = True

    # Replicas trace in threads that take turns within `call`: each has a list of its own.

    @property
    def _losses(self):
        lists = self.__dict__.setdefault("_losses_of_replicas", collections.defaultdict(list))
        return lists[replica_number()]

    @_losses.setter
    def _losses(self, losses):
        self.__dict__["_losses_of_replicas"] = collections.defaultdict(list, {0: losses})

    # In no attribute that Keras follows: as a weight it would be in files of weights.
    def live_numbers(self) -> dict:
        """The Keras variables behind the `LiveNumber` attributes, by name."""
        return self.__dict__.setdefault("_live_numbers", {})

    def live(self, name: str):
        """The Keras variable behind a `LiveNumber` attribute, such as `"beta"`."""
        return self.live_numbers()[name]

    @property
    def variables(self):
        """All state; live numbers are no weights, but compiled functions must read them anew."""
        return [*super().variables, *self.live_numbers().values()]

    def build(self, input_shape):
        """Keeps the number of channels of `input_shape` `(batch, *grid, dim)`, and refuses others.

        Raises:
            ValueError: if it is not known.
        """
        self.input_spec = channels_spec(self, input_shape, min_ndim=2)

    def compute_mask(self, inputs, previous_mask):
        """Returns the mask of each output: that of the input for all but the losses."""
        if previous_mask is None or self.tensor_only:
            return previous_mask
        masks = {"quantized": previous_mask, "losses": dict.fromkeys(self.loss_names)}
        if self.has_codes:
            masks["codes"] = previous_mask
        if self.has_continuous:
            masks["continuous"] = previous_mask
        return masks

    @property
    def has_codes(self) -> bool:
        """Whether `call` returns codes."""
        return self.num_codes is not None

    @property
    def has_continuous(self) -> bool:
        """Whether `call` returns `continuous`."""
        return self.has_codes

    def add_weight(self, *args, **kwargs):
        """Adds a weight as every Keras layer does, marked as one that does not decay.

        What a bottleneck holds itself, by whatever name, are places among the vectors, or counts of
        them: drawn towards zero they would be wrong, not simpler. The kernels of layers inside of
        it are no such weights.
        """
        weight = super().add_weight(*args, **kwargs)
        weight.decays = False
        return weight

    # Methods, not properties: Keras follows every attribute of a layer that it saves or loads.

    def members(self) -> list:
        """The layers that are applied in turn: this one, or those of a `BottleneckChain`."""
        return [self]

    def stages(self) -> list:
        """The quantisers of the codes of a cell: this one, or those of a `ResidualQuantizer`."""
        return [self]

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebook, where it is no consequence of the constructor's arguments.

        Args:
            vectors: float `(num_codes, dim)`.
            counts: float `(num_codes,)`, vectors per training batch at each code; or None.

        Raises:
            ValueError: in a layer without a codebook that can be set.
        """
        del counts
        raise ValueError(
            f"The codes of {self.name} follow from its arguments. "
            f"Received: vectors of shape {np.shape(vectors)}"
        )

    def codes_to_vectors(self, codes):
        """Looks codes up in the codebook; never changes it.

        Args:
            codes: int `(batch, *grid)`, or `(batch, *grid, 1 … depth)`, in 0 … num_codes − 1.

        Returns:
            Float32 `(batch, *grid, dim)`.

        Raises:
            NotImplementedError: in a layer without codes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no codes")

    def code_bits(self, codes: np.ndarray) -> np.ndarray:
        """Bits of the codes of samples stored without a prior: log2(K) each, float64 `(n,)`.

        Args:
            codes: int `(n, *grid)` or `(n, *grid, depth)`.
        """
        return np.full(len(codes), codes[:1].size * math.log2(self.num_codes))

    def start_codebooks(self, vectors, fit):
        """Starts every codebook of this layer from encoded data.

        A layer around others gives each of them what it reads.

        Args:
            vectors: float32 NumPy array `(n, dim)`, a sample of what the layer reads.
            fit: function of a quantiser, its vectors and `later`, whether it quantises what others
                left, which sets the codebook and returns the vectors as the quantiser compares
                them (`brainvq.training.codebook_init`).

        Returns:
            What `fit` returned, where there is one codebook.
        """
        return fit(self, vectors)

    def save_own_variables(self, store):
        """Saves the weights and, which Keras leaves out, the state of the random generator.

        Without it a resumed run would draw its first random numbers a second time.
        """
        super().save_own_variables(store)
        if self.seed_generator is not None:
            state = keras.ops.convert_to_tensor(self.seed_generator.state)
            store["seed_state"] = keras.ops.convert_to_numpy(state)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved."""
        names = list(store.keys())  # not every store of Keras can be iterated over
        super().load_own_variables({name: store[name] for name in names if name != "seed_state"})
        if self.seed_generator is not None and "seed_state" in names:
            self.seed_generator.state.assign(store["seed_state"])

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "tensor_only": self.tensor_only}

    def _masked(self, z, mask):
        """Returns `z` with zeros in place of padding, and the mask as `(batch, *grid)` or None."""
        if mask is None:
            return z, None
        mask = ops.cast(mask, "bool")
        mask = ops.reshape(mask, (*ops.shape(mask), *(1,) * (len(z.shape) - 1 - len(mask.shape))))
        mask = ops.broadcast_to(mask, ops.shape(z)[:-1])
        # `where`, not a product: padding may be NaN.
        return ops.where(mask[..., None], z, 0.0), mask

    def _mean(self, values, mask=None, axis=None):
        """The mean over cells that hold data, of all replicas; 0 where there are none.

        Args:
            values: float, any shape that begins with that of `mask`.
            mask: bool, or None where all cells hold data.
            axis: int or None, as of `ops.mean`.
        """
        if mask is None and num_replicas() == 1 and 0 not in values.shape:
            return ops.mean(values, axis=axis)
        counts = ops.ones_like(values)
        if mask is not None:
            ones = (1,) * (len(values.shape) - len(mask.shape))
            counts = counts * ops.reshape(ops.cast(mask, "float32"), (*ops.shape(mask), *ones))
        total, count = ops.sum(values * counts, axis=axis), ops.sum(counts, axis=axis)
        return mean_over_replicas(total, count)

    def _outputs(self, quantized, losses, codes=None, continuous=None, *, add=True):
        """Adds the losses to the layer and builds what `call` returns."""
        if losses and add:
            self.add_loss(sum(losses.values()))
        if self.tensor_only:
            return quantized
        outputs = {"quantized": quantized, "losses": losses}
        if codes is not None:
            outputs["codes"] = codes
        if continuous is not None:
            outputs["continuous"] = continuous
        return outputs


@keras.saving.register_keras_serializable(package="brainvq")
class BottleneckChain(Bottleneck):
    """Bottlenecks one after the other, as `[GaussianSampling(), VectorQuantizer(256)]`.

    Each reads the `quantized` vectors of the one before. The chain has the codes of its last
    member and the losses of all; a loss name that occurs again gets a number (`kl_loss_2`).
    A sample that is quantised makes the "continuous latent" models of Kapre.

    Args:
        bottlenecks: list of `Bottleneck` layers; only the last may have codes.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if the list is empty, holds another kind of layer, or has codes too early.
    """

    def __init__(self, bottlenecks: list, **kwargs):
        super().__init__(**kwargs)
        bottlenecks = [
            keras.saving.deserialize_keras_object(b) if isinstance(b, dict) else b
            for b in bottlenecks
        ]
        if not bottlenecks or not all(isinstance(b, Bottleneck) for b in bottlenecks):
            raise ValueError(
                "`bottlenecks` must be a list of one or more brainvq.layers.Bottleneck. "
                f"Received: bottlenecks={bottlenecks}"
            )
        if any(b.has_codes for b in bottlenecks[:-1]):
            raise ValueError(
                "Only the last of `bottlenecks` may have codes, for a decoder reads the last. "
                f"Received: bottlenecks={bottlenecks}"
            )
        refuse_tensors("bottlenecks", bottlenecks)
        self.bottlenecks = bottlenecks

    def members(self) -> list:
        """The layers that are applied in turn."""
        return self.bottlenecks

    def stages(self) -> list:
        """The stages of the last member."""
        return self.bottlenecks[-1].stages()

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the loss terms of all members, made unique."""
        names, seen = [], {}
        for member in self.bottlenecks:
            for name in member.loss_names:
                seen[name] = seen.get(name, 0) + 1
                names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        return tuple(names)

    @property
    def num_codes(self) -> int | None:
        """Number of codes of the last member, or None."""
        return self.bottlenecks[-1].num_codes

    @property
    def depth(self) -> int | None:
        """Codes per grid cell of the last member, or None."""
        return self.bottlenecks[-1].depth

    @property
    def sample_bits(self) -> float | None:
        """Mean bits of a sample by the last member, or None."""
        return self.bottlenecks[-1].sample_bits

    @property
    def has_continuous(self) -> bool:
        """Whether the last member returns `continuous`."""
        return self.bottlenecks[-1].has_continuous

    @property
    def codebook(self):
        """Codebook of the last member, or None."""
        return self.bottlenecks[-1].codebook

    def build(self, input_shape):
        """Builds every member for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        for member in self.bottlenecks:
            # `load_model` has built the members already.
            if not member.built:
                member.build(input_shape)

    def call(self, z, training: bool | None = None, mask=None):
        """Applies the members to `z` `(batch, *grid, dim)` in turn; returns what the last does.

        The members add their losses themselves, so the chain adds none.
        """
        terms = []
        for member in self.bottlenecks:
            outputs = member(z, training=training, **given(mask))
            z = outputs["quantized"]
            terms += [outputs["losses"][name] for name in member.loss_names]
        losses = dict(zip(self.loss_names, terms, strict=True))
        parts = outputs.get("codes"), outputs.get("continuous")
        return self._outputs(z, losses, *parts, add=False)

    def codes_to_vectors(self, codes):
        """Looks int codes up in the codebook of the last member; see `Bottleneck` for shapes."""
        return self.bottlenecks[-1].codes_to_vectors(codes)

    def code_bits(self, codes):
        """Bits by the last member; see `Bottleneck`."""
        return self.bottlenecks[-1].code_bits(codes)

    def start_codebooks(self, vectors, fit):
        """Starts the codebooks of the last member, from what that one reads."""
        return self.bottlenecks[-1].start_codebooks(vectors, fit)

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebook of the last member; see there for shapes."""
        self.bottlenecks[-1].set_codebook(vectors, counts)

    def get_config(self):
        """Returns the constructor's arguments."""
        bottlenecks = [keras.saving.serialize_keras_object(b) for b in self.bottlenecks]
        return {**super().get_config(), "bottlenecks": bottlenecks}


def number_given(codes, depth, what):
    """How many codes a cell has in int `codes` `(batch, *grid, n)`.

    Args:
        codes: the codes.
        depth: int, codes per cell of the layer.
        what: what each is of, "stages" or "parts".

    Raises:
        ValueError: if there are none, or more than `depth`.
    """
    count = codes.shape[-1]
    if not 1 <= count <= depth:
        raise ValueError(
            f"The last axis holds the codes of 1 to {depth} {what}. "
            f"Received: codes.shape={tuple(codes.shape)}"
        )
    return count


def given(mask):
    """The keyword argument that a mask is; none where there is no mask.

    So a layer whose `call` knows no mask may stand in a chain.
    """
    return {} if mask is None else {"mask": mask}


def refuse_tensors(name, layers):
    """Raises `ValueError` if one of the bottlenecks of argument `name` is to return a tensor."""
    if any(layer.tensor_only for layer in layers):
        raise ValueError(
            f"`{name}` must return all they compute: `tensor_only` is for the outermost layer. "
            f"Received: {name}={layers}"
        )
