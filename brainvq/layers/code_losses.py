"""Losses that keep codes in use and apart from each other."""

from keras import ops

from brainvq.layers.quantizer import unit_length

# Below it a share has the logarithm of it: zero has none.
LEAST_SHARE = 1e-20


def entropy(shares):
    """Σ −p log p in nats over all of float32 `shares`, probabilities of any shape; a scalar."""
    return -ops.sum(shares * ops.log(ops.maximum(shares, LEAST_SHARE)))


def entropy_loss(logits, mean):
    """Mean entropy of the soft codes of a vector, minus the entropy of their mean.

    H(p) averaged over vectors, minus H of the average p, with p the softmax of a row: low where
    each vector is sure of its code and all codes are in use (Yu et al. 2023, "Language model beats
    diffusion", equation 5).

    Args:
        logits: float32 `(n, num_codes)`.
        mean: function of float32 `(n, ...)` and `axis` that averages over vectors that count.

    Returns:
        Float32 scalar, nats; from −log(num_codes) to 0.
    """
    log_p = ops.log_softmax(logits, axis=-1)
    p = ops.exp(log_p)
    return mean(-ops.sum(p * log_p, axis=-1)) - entropy(mean(p, axis=0))


def orthogonality_loss(codebook):
    """Σ (ê_i · ê_j)² over pairs of different codes / K², with codes scaled to unit length.

    Shin, Lee, Lee & Lee 2021, "Translation-equivariant image quantizer for bi-directional
    image-text generation", equation 3: ‖Ê Êᵀ − I‖² / K². It is 0 only where no more codes than
    dimensions are, and draws them apart elsewhere.

    Args:
        codebook: float32 `(num_codes, dim)`.

    Returns:
        Float32 scalar.
    """
    directions = unit_length(codebook)
    products = ops.matmul(directions, ops.transpose(directions))
    count = codebook.shape[0]
    return ops.sum(ops.square(products - ops.eye(count))) / count**2
