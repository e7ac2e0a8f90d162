"""Models on disk: `.keras` files, and a quarter of their size as half-precision `.zip` files."""

import io
import json
import lzma
import zipfile
import zlib

import keras
import numpy as np

from brainvq.errors import UserError
from brainvq.files import atomic_path
from brainvq.training.fit import to_numpy

# What damaged files, and those that ask for other classes or for code, make Keras and NumPy raise.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    EOFError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
# Packed by what knows numbers of two bytes, a tenth smaller than before; and as before.
_WEIGHTS = ("weights.npz.xz", "weights.npz")
# The dictionary spans what a network holds twice, such as the mean volume of a transform.
_HALVES = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1, "dict_size": 1 << 26}]


def load_model(path):
    """`keras.saving.load_model`, with a damaged file as a `UserError`.

    No code of the file is run: layers are those of Keras and brainvq, and a Python function in it
    is refused.
    """
    try:
        return keras.saving.load_model(path, safe_mode=True)
    except _DAMAGED as error:
        raise UserError(
            f"{path}: cannot be loaded ({error}); expected a model that brainvq wrote"
        ) from None


def pack(model, path):
    """Writes a model as configuration and float16 weights: a quarter of a `.keras` file with Adam.

    Args:
        model: a `keras.Model` of registered layers.
        path: the `.zip` file.
    """
    config = json.dumps(keras.saving.serialize_keras_object(model))
    # Seeds and counters are whole numbers that float16 cannot hold: they start anew instead.
    arrays = {
        f"{number:04d}": _half(to_numpy(weight)) for number, weight in enumerate(model.weights)
    }
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        weights = lzma.compress(_npz(arrays), filters=_HALVES)
        for name, content in (("config.json", config.encode()), (_WEIGHTS[0], weights)):
            # A fixed date, so that the same weights give the same file.
            archive.writestr(
                zipfile.ZipInfo(name), content, compress_type=zipfile.ZIP_DEFLATED, compresslevel=9
            )


def unpack(path):
    """Reads what `pack` wrote; as `load_model`, it runs no code of the file.

    Raises:
        UserError: the file is missing or damaged, or its weights do not fit its configuration.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            name = next((name for name in _WEIGHTS if name in archive.namelist()), _WEIGHTS[0])
            content = archive.read(name)
            content = lzma.decompress(content) if name == _WEIGHTS[0] else content
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = [stored[name] for name in sorted(stored.files)]
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise ValueError(f"holds a {type(model).__name__}")
    except _DAMAGED as error:
        raise UserError(f"{path}: cannot be read ({error}); expected shipped weights") from None
    weights = model.weights
    if [tuple(w.shape) for w in weights] != [a.shape for a in arrays]:
        raise UserError(
            f"{path}: found {len(arrays)} arrays that do not fit the {len(weights)} weights of the "
            "network; expected weights of the same shape"
        )
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array.astype(weight.dtype))
    return model


def _half(array):
    return array.astype("float16") if array.dtype == np.float32 else array


def _npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
