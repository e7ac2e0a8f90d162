"""Principal components as the baseline of a network that turns volumes into vectors."""

import numpy as np
from sklearn.decomposition import PCA


class PrincipalComponents:
    """Principal components with the methods of a network: as many numbers for each volume.

    Args:
        count: int ≥ 1, numbers of a vector; fewer where there are fewer training volumes.
        seed: int, of the randomised solver. Default 0.

    Attributes:
        deviations: float32 `(count,)`, standard deviation of each component over the training
            volumes. Set by `fit`.
    """

    def __init__(self, count, seed=0):
        self.count = count
        self.seed = seed

    def fit(self, volumes):
        """Fits the components.

        Args:
            volumes: float `(n, *grid, 1)`, n at least 2.

        Returns:
            This object.
        """
        flat = np.asarray(volumes, "float32").reshape(len(volumes), -1)
        count = min(self.count, len(flat) - 1)
        self._shape = volumes.shape[1:]
        self._pca = PCA(count, svd_solver="randomized", random_state=self.seed).fit(flat)
        self.deviations = np.sqrt(self._pca.explained_variance_)
        return self

    @property
    def component_volumes(self):
        """What a change of 1 of each number adds to a volume, float32 `(count, *grid, 1)`."""
        return (self._pca.components_ * self.deviations[:, None]).reshape(-1, *self._shape)

    def encode(self, volumes):
        """Vectors of volumes `(n, *grid, 1)`: float `(n, count)`, of mean 0 and deviation 1."""
        return self._pca.transform(volumes.reshape(len(volumes), -1)) / self.deviations

    def decode(self, z):
        """Volumes of vectors `(n, count)`: float32 `(n, *grid, 1)`, clipped to [0, 1]."""
        flat = self._pca.inverse_transform(z * self.deviations)
        return np.clip(flat, 0, 1).astype("float32").reshape(-1, *self._shape)

    def reconstruct(self, volumes):
        """`decode(encode(volumes))`: float32 `(n, *grid, 1)`."""
        return self.decode(self.encode(volumes))

    def sample(self, n, seed=0):
        """Volumes of `n` vectors drawn from N(0, I): float32 `(n, *grid, 1)`.

        Scores of brains are not Gaussian; this is how one would sample without a model of them.

        Args:
            n: int ≥ 1.
            seed: int. Default 0.
        """
        z = np.random.default_rng(seed).standard_normal((n, len(self.deviations)))
        return self.decode(z)
