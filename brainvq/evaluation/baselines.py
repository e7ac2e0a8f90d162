"""What a user could do without training a network: k-means on patches, at the same bits."""

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin

from brainvq.errors import UserError


class PatchKMeans:
    """Vector quantisation of image patches by k-means (Linde, Buzo and Gray, 1980).

    Each image is cut into square patches, one for each code of a model's grid, and each patch is
    replaced by the nearest of K centres: the classical codec with as many codes and as many bits.

    Args:
        patch: side of a patch, in pixels.
        num_codes: number of centres, K.
        seed: int.
        most_patches: how many training patches are used at most.
    """

    def __init__(self, patch, num_codes, *, seed=0, most_patches=200_000):
        self.patch = patch
        self.num_codes = num_codes
        self.seed = seed
        self.most_patches = most_patches

    def fit(self, images):
        """Fits the centres.

        Args:
            images: float array `(n, rows, cols, 1)`; rows and cols are multiples of `patch`.

        Returns:
            This object.

        Raises:
            UserError: the sides of the images are no multiples of `patch`.
        """
        patches = self._patches(images)
        if len(patches) > self.most_patches:
            rng = np.random.default_rng(self.seed)
            patches = patches[np.sort(rng.choice(len(patches), self.most_patches, replace=False))]
        # Identical patches, such as the black ones, cannot be told apart by more centres.
        clusters = min(self.num_codes, len(np.unique(patches, axis=0)))
        kmeans = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=self.seed)
        self.centres_ = kmeans.fit(patches).cluster_centers_.astype("float32")
        return self

    def encode(self, images):
        """Codes of images: int32 `(n, rows / patch, cols / patch)`."""
        n, rows, cols = images.shape[:3]
        codes = pairwise_distances_argmin(self._patches(images), self.centres_)
        return codes.reshape(n, rows // self.patch, cols // self.patch).astype("int32")

    def decode(self, codes):
        """Images of codes: float32 `(n, rows, cols, 1)`."""
        n, rows, cols = codes.shape
        patches = self.centres_[codes].reshape(n, rows, cols, self.patch, self.patch)
        images = patches.transpose(0, 1, 3, 2, 4)  # (n, rows, patch, cols, patch)
        return images.reshape(n, rows * self.patch, cols * self.patch, 1)

    def reconstruct(self, images):
        """`decode(encode(images))`, of any size: padded with the edge, and cropped back."""
        rows, cols = images.shape[1:3]
        widths = [(0, 0), (0, -rows % self.patch), (0, -cols % self.patch), (0, 0)]
        padded = np.pad(images, widths, mode="edge")
        return self.decode(self.encode(padded))[:, :rows, :cols]

    def _patches(self, images):
        n, rows, cols = images.shape[:3]
        side = self.patch
        if rows % side or cols % side:
            raise UserError(
                f"PatchKMeans: images are {rows} x {cols}; expected multiples of the patch, {side}"
            )
        cut = np.asarray(images, "float32").reshape(n, rows // side, side, cols // side, side)
        return cut.transpose(0, 1, 3, 2, 4).reshape(-1, side * side)
