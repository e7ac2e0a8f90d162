"""brainvq: discrete codes of brain images, in Keras 3.

    import brainvq
    trained = brainvq.load("oasis2d")           # weights that come along, or the folder of a run
    brains, codes = trained.sample(4)

    import keras
    model = keras.saving.load_model("runs/.../model.keras")
    codes = model.encode(images)                # (n, 128, 128, 1) -> int32 (n, 16, 16)

Importing the package registers its layers and models with Keras, which is what `load_model` needs.
A process that prepares data alone needs no Keras: it sets the environment variable
`BRAINVQ_NO_KERAS` and gets `brainvq.data`, `brainvq.evaluation` and `brainvq.files` quickly.
"""

import contextlib
import os

__version__ = "0.1.0"
__all__ = ["__version__"]


@contextlib.contextmanager
def _no_start_up_lines():
    """Keeps TensorFlow's C++ lines about processor and missing GPU off the terminal while it loads.

    The first of them come before any setting can turn them off. What goes wrong is an exception all
    the same. `TF_CPP_MIN_LOG_LEVEL=0` brings the later ones back.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        kept = os.dup(2)
        silence = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard error at all, as under some service managers
        yield
        return
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


if not os.environ.get("BRAINVQ_NO_KERAS"):
    with _no_start_up_lines():
        from brainvq import layers, models
    from brainvq.layers import *  # noqa: F403
    from brainvq.models import *  # noqa: F403
    from brainvq.training.pretrained import load, shipped

    __all__ += ["layers", "load", "models", "shipped", *layers.__all__, *models.__all__]
