"""A classical codec of images, which needs no network: k-means on patches, at the same bits."""

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin

from brainvq.errors import UserError


class PatchKMeans:
    """Vector quantisation of patches of images or volumes by k-means (Linde, Buzo and Gray, 1980).

    Each image is cut into square patches (each volume into cubes), one for each code of a model's
    grid, and each patch is replaced by the nearest of K centres: the classical codec with as many
    codes and as many bits. Further stages do the same with what is left over.

    Args:
        patch: int ≥ 1, side of a patch, in pixels.
        num_codes: int ≥ 1, number of centres, K.
        stages: int ≥ 1, number of codes for a patch. Default 1.
        seed: int. Default 0.
        most_patches: how many training patches are used at most. Default 200,000.

    Attributes:
        centres_: list of float32 `(≤ K, pixels of a patch)`, one for each stage. Set by `fit`.
    """

    def __init__(self, patch, num_codes, *, stages=1, seed=0, most_patches=200_000):
        self.patch = patch
        self.num_codes = num_codes
        self.stages = stages
        self.seed = seed
        self.most_patches = most_patches

    def fit(self, images):
        """Fits the centres.

        Args:
            images: float `(n, *spatial, 1)` with two or three spatial axes, whose sizes are
                multiples of `patch`.

        Returns:
            This object.

        Raises:
            UserError: the sides of the images are no multiples of `patch`.
        """
        patches = self._patches(images)
        if len(patches) > self.most_patches:
            rng = np.random.default_rng(self.seed)
            patches = patches[np.sort(rng.choice(len(patches), self.most_patches, replace=False))]
        self.centres_ = []
        for stage in range(self.stages):
            # Identical patches, such as the black ones, have no use for more centres.
            # Adding 0 makes one zero of the two that floats have.
            distinct = len({(patch + 0.0).tobytes() for patch in patches})
            clusters = min(self.num_codes, distinct)
            kmeans = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=self.seed)
            self.centres_.append(kmeans.fit(patches).cluster_centers_.astype("float32"))
            if stage + 1 < self.stages:
                patches = patches - self.centres_[-1][kmeans.labels_]
        return self

    def encode(self, images):
        """Codes of images `(n, *spatial, 1)`: int32 `(n, *grid)`, `(n, *grid, stages)` of several.

        The sizes of the grid are the spatial ones divided by `patch`.

        Raises:
            UserError: the sides of the images are no multiples of `patch`.
        """
        patches, codes = self._patches(images), []
        for centres in self.centres_:
            codes.append(pairwise_distances_argmin(patches, centres))
            patches = patches - centres[codes[-1]]
        grid = [size // self.patch for size in images.shape[1:-1]]
        depth = [] if self.stages == 1 else [self.stages]
        return np.stack(codes, axis=-1).reshape(len(images), *grid, *depth).astype("int32")

    def decode(self, codes):
        """Images of codes `(n, *grid)` or `(n, *grid, stages)`: float32 `(n, *spatial, 1)`."""
        codes = codes[..., None] if self.stages == 1 else codes
        n, *grid, _ = codes.shape
        sides = [self.patch] * len(grid)
        patches = sum(centres[codes[..., i]] for i, centres in enumerate(self.centres_))
        patches = patches.reshape(n, *grid, *sides)
        images = patches.transpose(_interleaved(len(grid)))  # (n, rows, patch, cols, patch)
        return images.reshape(n, *(size * self.patch for size in grid), 1)

    def reconstruct(self, images):
        """`decode(encode(images))` of `(n, *spatial, 1)`, any size: padded by the edge, cropped."""
        sizes = images.shape[1:-1]
        widths = [(0, 0), *((0, -size % self.patch) for size in sizes), (0, 0)]
        decoded = self.decode(self.encode(np.pad(images, widths, mode="edge")))
        return decoded[(slice(None), *(slice(size) for size in sizes))]

    def _patches(self, images):
        n, *sizes, _ = images.shape
        if any(size % self.patch for size in sizes):
            raise UserError(
                f"PatchKMeans: images are {' x '.join(map(str, sizes))}; expected multiples of the "
                f"patch, {self.patch}"
            )
        split = [part for size in sizes for part in (size // self.patch, self.patch)]
        cut = np.asarray(images, "float32").reshape(n, *split)  # (n, rows, patch, cols, patch)
        order = np.argsort(_interleaved(len(sizes)))
        return cut.transpose(order).reshape(-1, self.patch ** len(sizes))


def _interleaved(ndim):
    """The order of axes that turns (n, *grid, *patch) into (n, grid, patch, grid, patch, ...)."""
    return [0, *(axis for i in range(1, ndim + 1) for axis in (i, i + ndim))]
