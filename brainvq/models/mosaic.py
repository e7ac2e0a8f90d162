"""New volumes as mosaics of patches of training volumes, kept as the vectors of a transform.

A network that draws codes one by one needs more than fifty scans to learn how the cortex folds. A
mosaic needs no training: a coarse volume is drawn from the Gaussian that has the mean and the
covariance of the training volumes, which is a brain of nobody's shape, but with ghosts for a
cortex. Each patch of it is then replaced by the most alike patch near the same place in a training
volume, where patches overlap by their weighted mean, and this is repeated, finer each time, until
neighbours agree (Kwatra et al. 2005, "Texture Optimization for Example-based Synthesis"; Efros and
Freeman 2001, "Image Quilting for Texture Synthesis and Transfer").
"""

import itertools
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, seed_of, whole, wholes


class Pass(NamedTuple):
    """One replacement of all patches.

    Attributes:
        patch: side of a patch in voxels.
        step: voxels from a patch to the next.
        shrink: weight of a patch's own contrast in its distance: at 1 that is the squared distance,
            for which patches near the mean win; below 1 this is made up for.
        sharpness: exponent of the window that patches are averaged with; higher ones average less.
    """

    patch: int
    step: int
    shrink: float
    sharpness: float


# On volumes of half the resolution, then on whole ones. Chosen on people 51 to 56 of ds002748.
COARSE = (Pass(12, 6, 0.75, 1.0), Pass(8, 4, 0.75, 5.0))
FINE = Pass(12, 6, 0.7, 4.0)
# How far from its place a patch may come, in voxels of half the resolution.
REACH = 1
# The most alike patches of half the resolution, which are compared as a whole.
COMPARED = 16
# Share of the brightest voxel of the mean below which the mean of a patch is background.
BACKGROUND = 0.02


@keras.saving.register_keras_serializable(package="brainvq")
class MosaicPrior(keras.Model):
    """Draws volumes as mosaics of training volumes, and gives their codes.

    It keeps the vectors of the training volumes, before they are quantised. A mosaic is nobody, but
    a place of it, some 12 voxels wide, looks like that place in one of the training people: where
    scans may not be handed on, this prior may not either.

    Args:
        people: int ≥ 1, training volumes; of one alone all draws are mosaics of it.
        vector_shape: shape of the vectors of one volume, `(*grid, components)`.
        mirrored: bool, whether mirror images along the first axis, left and right, count as
            training volumes too. Default True.
        traits: names of numbers that are known of the training people, such as `("age",)`; draws
            can be of given ones. Default none.
        **kwargs: `name`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, people: int, vector_shape, mirrored: bool = True, traits=(), **kwargs):
        super().__init__(**{"trainable": False, **kwargs})
        self.people = whole("people", people)
        self.vector_shape = wholes("vector_shape", vector_shape)
        self.mirrored = bool(mirrored)
        self.traits = tuple(traits)
        self.vectors = self.add_weight(
            shape=(self.people, *self.vector_shape),
            initializer="zeros",
            dtype="float16",
            trainable=False,
            name="vectors",
        )
        if self.traits:
            self.values = self.add_weight(
                shape=(self.people, len(self.traits)),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                name="values",
            )
        self.built = True

    def set_vectors(self, vectors: np.ndarray, traits: dict | None = None) -> None:
        """Takes the training volumes.

        Args:
            vectors: float `(people, *vector_shape)`.
            traits: for each of `self.traits` the numbers of the people, NaN where not known.
        """
        if np.shape(vectors) != tuple(self.vectors.shape):
            raise ValueError(
                f"`vectors` must have the shape {tuple(self.vectors.shape)}. "
                f"Received: shape={np.shape(vectors)}"
            )
        self.vectors.assign(np.asarray(vectors, "float16"))
        if self.traits:
            self.values.assign(np.stack([traits[name] for name in self.traits], axis=1))

    def known(self, trait: str) -> np.ndarray:
        """The numbers of the training people for a trait, float `(m,)`; without those not known."""
        values = self._numbers(trait)
        return values[np.isfinite(values)]

    def _numbers(self, trait):
        """The numbers of all training people for a trait; of one that is not kept, none."""
        if trait not in self.traits:
            return np.zeros(0, "float32")
        return ops.convert_to_numpy(self.values)[:, self.traits.index(trait)]

    def call(self, codes):
        """Returns codes as they are."""
        return codes

    def sample(
        self,
        n: int,
        model,
        seed: int | None = None,
        temperature: float = 1.0,
        traits: dict | None = None,
        progress=None,
    ) -> np.ndarray:
        """Draws codes of new volumes.

        Most of the time goes into comparing patches with those of the training volumes, whatever
        `n` is. Memory holds the training volumes as float16, and at half the resolution as float32.

        Args:
            n: int ≥ 1, how many.
            model: the `WindowedTrainer` of the vectors, of volumes of three even sides and one
                channel.
            seed: int, or None for fresh ones.
            temperature: float ≥ 0, factor of the standard deviation of the coarse volumes; at 0 all
                are the mosaic of the mean.
            traits: names of `self.traits` and the number that all draws shall have, such as
                `{"age": 70}`: coarse volumes are then drawn from the Gaussian of volumes and traits
                together, given these. Those left out are as they come.
            progress: function that is called with (places done, places in all), or None.

        Returns:
            int32 `(n, *grid, components)`.

        Raises:
            ValueError: if `n` or `temperature` is out of its range, volumes have odd sides, or the
                training people do not differ in one of `traits`.
        """
        n, temperature = whole("n", n), float(number("temperature", temperature))
        rng = np.random.default_rng(seed if seed is None else seed_of(seed))
        library = _Library(self._decoded(model), self.mirrored)
        volumes = library.coarse(n, temperature, rng, *self._towards(traits or {}))
        walks = [library.places(level) for level in COARSE] + [library.places(FINE, scale=2)]
        done, total = itertools.count(1), sum(map(len, walks))
        for number_of_pass, (level, places) in enumerate(zip((*COARSE, FINE), walks, strict=True)):
            alike = library.alike
            if number_of_pass == len(COARSE):
                volumes, alike = _doubled(volumes), library.alike_whole
            mosaic = _Mosaic(volumes.shape, level)
            for place in places:
                mosaic.add(place, alike(volumes, place, level))
                if progress is not None:
                    progress(next(done), total)
            volumes = mosaic.mean()
        codes = [model.codes(volume[None, ..., None], batch_size=1) for volume in volumes]
        return np.concatenate(codes).astype("int32")

    def _towards(self, traits):
        """How far traits of the training people lie from the mean, `(people, m)`, and the `(m,)`
        that are wanted."""
        columns, wanted = np.zeros((self.people, len(traits))), np.zeros(len(traits))
        for place, (name, value) in enumerate(traits.items()):
            values = self._numbers(name)
            known = values[np.isfinite(values)]
            if not len(known) or known.min() == known.max():
                raise ValueError(
                    "`traits` must be numbers in which the training people are known to differ. "
                    f"Received: traits={traits}"
                )
            columns[:, place] = np.where(np.isfinite(values), values - known.mean(), 0)
            wanted[place] = value - known.mean()
        return columns, wanted

    def _decoded(self, model):
        """The training volumes as the transform alone decodes them: float16 `(people, x, y, z)`."""
        linear, volumes = model.decoder.get_layer("linear"), []
        for vectors in ops.convert_to_numpy(self.vectors):
            pair = linear(vectors[None].astype("float32"), training=False)
            volume = ops.convert_to_numpy(pair)[0]
            if volume.ndim != 4 or volume.shape[-1] != 2 or any(n % 2 for n in volume.shape[:3]):
                raise ValueError(
                    "Mosaics are of volumes with three even sides and one channel. "
                    f"Received: volumes of shape {(*volume.shape[:-1], volume.shape[-1] // 2)}"
                )
            volumes.append(volume[..., 0].clip(0, None).astype("float16"))
        return np.stack(volumes)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            "people": self.people,
            "vector_shape": self.vector_shape,
            "mirrored": self.mirrored,
            "traits": self.traits,
        }


class _Library:
    """Training volumes, whole and at half the resolution, and their patches.

    Args:
        volumes: float16 `(people, x, y, z)`.
        mirrored: whether their mirror images are training volumes too.
    """

    def __init__(self, volumes, mirrored):
        self.volumes = volumes
        half = np.stack([_halved(volume) for volume in volumes])
        self.half = np.concatenate([half, half[:, ::-1]]) if mirrored else half
        self.half_mean = self.half.mean(axis=0)
        mean = volumes.mean(axis=0, dtype="float32")
        self.mean = (mean + mean[::-1]) / 2 if mirrored else mean

    def coarse(self, n, temperature, rng, traits=None, wanted=()):
        """Volumes of half the resolution from the Gaussian of the training volumes.

        Sums of their differences from the mean, each times a number from N(0, 1), have the sample
        covariance, and so have sums of their traits: a draw of both is moved by the regression of
        volumes on traits until it has those wanted (Matheron's rule).
        """
        if traits is None:
            traits = np.zeros((len(self.volumes), 0))
        traits = np.concatenate([traits, traits])[: len(self.half)]
        shares = rng.standard_normal((n, len(self.half))).astype("float32")
        shares *= temperature / np.sqrt(max(len(self.half) - 1, 1))
        shares -= shares.mean(axis=1, keepdims=True)
        traits -= traits.mean(axis=0)
        shares += ((wanted - shares @ traits) @ np.linalg.pinv(traits)).astype("float32")
        flat = shares @ self.half.reshape(len(self.half), -1)
        return self.half_mean + flat.reshape(n, *self.half_mean.shape)

    def places(self, level, scale=1):
        """Where patches begin, all that are not background; in voxels of the whole for scale 2."""
        mean, patch = self.half_mean, level.patch // scale
        starts = [
            sorted({*range(0, side - patch + 1, level.step // scale), max(side - patch, 0)})
            for side in mean.shape
        ]
        brain = BACKGROUND * mean.max()
        return [
            tuple(scale * start for start in place)
            for place in itertools.product(*starts)
            if mean[_box(place, patch)].mean() > brain
        ]

    def alike(self, volumes, place, level):
        """For each volume the most alike patch at half the resolution: `(n, *patch)`."""
        box = _box(place, level.patch)
        patches, _ = self._candidates(place, level.patch)
        wanted, mean = volumes[(slice(None), *box)], self.half_mean[box]
        best = _distances(patches, mean, wanted, level).argmin(axis=0)
        return patches[best].reshape(len(best), *mean.shape)

    def alike_whole(self, volumes, place, level):
        """For each whole volume the most alike patch, of those most alike when halved."""
        low, side = tuple(start // 2 for start in place), level.patch // 2
        box = _box(place, level.patch)
        patches, origins = self._candidates(low, side)
        halved = np.stack([_halved(volume[box]) for volume in volumes])
        distances = _distances(patches, self.half_mean[_box(low, side)], halved, level)
        count = min(COMPARED, len(patches))
        few = np.argpartition(distances, count - 1, axis=0)[:count].T
        mean, found = self.mean[box], []
        for volume, chosen in zip(volumes, few, strict=True):
            whole_patches = np.stack([self._whole(*origins(one), mean.shape) for one in chosen])
            flat = whole_patches.reshape(len(chosen), -1)
            best = _distances(flat, mean, volume[box][None], level)[:, 0].argmin()
            found.append(whole_patches[best])
        return np.stack(found)

    def _candidates(self, place, patch):
        """Patches `(m, voxels)` near a place, and what gives volume and start of each number."""
        sides = self.half_mean.shape
        low = [max(0, start - REACH) for start in place]
        high = [min(side, start + patch + REACH) for side, start in zip(sides, place, strict=True)]
        size = tuple(min(patch, side) for side in sides)
        block = self.half[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        views = np.lib.stride_tricks.sliding_window_view(block, size, (1, 2, 3))
        shape = views.shape[:4]

        def origin(index):
            volume, *moved = np.unravel_index(index, shape)
            return volume, [start + move for start, move in zip(low, moved, strict=True)]

        return views.reshape(-1, int(np.prod(size))), origin

    def _whole(self, volume, start, shape):
        """The patch of full resolution that begins at a voxel of half of it, float32."""
        begin = [2 * one for one in start]
        people, sides = len(self.volumes), self.volumes.shape[1:]
        if volume < people:
            return self.volumes[volume][_box(begin, shape)].astype("float32")
        begin[0] = sides[0] - begin[0] - shape[0]
        return self.volumes[volume - people][_box(begin, shape)][::-1].astype("float32")


class _Mosaic:
    """Patches that overlap, and their weighted mean.

    Args:
        shape: `(n, x, y, z)` of the volumes.
        level: a `Pass`.
    """

    def __init__(self, shape, level):
        self.level = level
        self.total, self.weight = np.zeros(shape, "float32"), np.zeros(shape[1:], "float32")

    def add(self, place, patches):
        """Adds patches `(n, *patch)` that begin at a place."""
        box = _box(place, self.level.patch)
        window = _window(patches.shape[1:]) ** self.level.sharpness
        self.total[(slice(None), *box)] += window * patches
        self.weight[box] += window

    def mean(self):
        """The volumes; 0 where no patch is."""
        return self.total / np.where(self.weight > 0, self.weight, 1)


def _distances(patches, mean, wanted, level):
    """Distances of patches `(m, voxels)` to those wanted `(n, *patch)`, up to a constant for each.

    Of differences r from the mean, each weighted by the window: shrink |r|² - 2 r · wanted.
    """
    window, middle = _window(mean.shape).ravel(), mean.ravel()
    towards = (wanted.reshape(len(wanted), -1) - middle) * window
    products = patches @ np.vstack([window * middle, towards]).T
    own = np.square(patches) @ window - 2 * products[:, 0]
    return level.shrink * own[:, None] - 2 * products[:, 1:]


def _window(shape):
    """A window of Hann along each axis, float32; nowhere 0."""
    axes = [np.hanning(side + 2)[1:-1] for side in shape]
    return np.einsum("i,j,k->ijk", *axes).astype("float32")


def _box(place, size):
    """Slices from a place on; size is one side or three."""
    sides = (size,) * len(place) if np.isscalar(size) else size
    return tuple(slice(start, start + side) for start, side in zip(place, sides, strict=True))


def _halved(volume):
    """Means of 2 x 2 x 2 voxels, float32."""
    x, y, z = (side // 2 for side in volume.shape)
    return volume.astype("float32").reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))


def _doubled(volumes):
    """Volumes `(n, x, y, z)` of twice the resolution, linear between the middles of voxels."""
    for axis in range(1, volumes.ndim):
        ends = np.take(volumes, [0], axis), np.take(volumes, [-1], axis)
        near = np.moveaxis(volumes, axis, 0)
        before, after = (
            np.moveaxis(np.concatenate(pair, axis), axis, 0)
            for pair in (
                (ends[0], np.take(volumes, range(volumes.shape[axis] - 1), axis)),
                (np.take(volumes, range(1, volumes.shape[axis]), axis), ends[1]),
            )
        )
        pairs = np.stack([0.75 * near + 0.25 * before, 0.75 * near + 0.25 * after], axis=1)
        volumes = np.moveaxis(pairs.reshape(-1, *near.shape[1:]), 0, axis)
    return volumes
