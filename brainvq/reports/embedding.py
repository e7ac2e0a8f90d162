"""Points in a plane, near ones near: t-SNE (van der Maaten and Hinton 2008) and its panels."""

import numpy as np
from sklearn.manifold import TSNE


def tsne_places(points, perplexity, seed):
    """Places in the plane by t-SNE from principal components, the same for the same seed.

    Args:
        points: `(n, dim)`.
        perplexity: about how many neighbours a point looks at; fewer where there are few points.
        seed: int.

    Returns:
        `(n, 2)`; zeros where there are fewer than three points, or all alike.
    """
    if len(points) < 3 or not np.ptp(points, axis=0).any():
        return np.zeros((len(points), 2))
    perplexity = min(perplexity, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def tsne_axes(ax):
    """A panel framed on all sides and without ticks, as distances alone mean something.

    Args:
        ax: the panel.
    """
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[["top", "right"]].set_visible(True)
