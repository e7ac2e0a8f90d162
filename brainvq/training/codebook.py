"""Codes of many samples, written to disk as they are made."""

import logging

import numpy as np

from brainvq.files import growing_array
from brainvq.progress import progress

logger = logging.getLogger("brainvq")


def encode_to_file(
    path, model, read, rows, *, copies=1, augment=None, seed=0, batch_size=64, title="codes"
):
    """Encodes samples into one `.npy` file and opens it by memory map.

    Copy 0 is the samples as they are, in the order of `rows`; each further copy is augmented anew.
    The file appears when it is whole; a file that is there already is opened as it is.

    Args:
        path: the `.npy` file.
        model: an `Autoencoder` with codes.
        read: function of an integer array of sample numbers that returns the samples.
        rows: the sample numbers.
        copies: int, encodings of each sample.
        augment: function `(batch, rng) -> batch` for the copies after the first.
        seed: int, seed of the augmentation.
        batch_size: int, samples encoded at a time.
        title: str, shown beside the progress.

    Returns:
        Array `(copies * len(rows), *grid)` of int16 (int32 above 32,767 codes), read-only.
    """
    if not path.exists():
        kind = "<i2" if model.num_codes <= np.iinfo("int16").max + 1 else "<i4"
        total = copies * len(rows)
        with (
            progress(total, title, "sample", part=True) as bar,
            growing_array(path, kind, total) as write,
        ):
            for start in range(0, total, batch_size):
                places = np.arange(start, min(start + batch_size, total))
                samples = read(rows[places % len(rows)])
                late = places >= len(rows)
                if augment is not None and late.any():
                    rng = np.random.default_rng((seed, 2, start))
                    samples[late] = augment(samples[late], rng)
                batch = model.codes(samples, batch_size=batch_size)
                write(batch)
                bar.update(len(places))
    return np.load(path, mmap_mode="r")
