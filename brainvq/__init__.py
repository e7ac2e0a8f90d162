"""brainvq: discrete codes of brain images, in Keras 3.

    import brainvq
    trained = brainvq.load("oasis2d")           # weights that come along, or the folder of a run
    brains, codes = trained.sample(4)

    import keras
    model = keras.saving.load_model("runs/.../model.keras")
    codes = model.encode(images)                # (n, 128, 128, 1) -> int32 (n, 16, 16)

Importing the package imports nothing else. Its layers and models are registered with Keras, which
is what `load_model` needs, as soon as Keras is imported, before or after.
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import sys

__version__ = "0.1.0"
BACKENDS = ("tensorflow", "jax", "torch")
# Public names and the modules that have them: what is here is imported when it is asked for.
_PUBLIC = {
    "brainvq.tasks.trained": ("load",),
    "brainvq.tasks.hub": ("save_pretrained",),
    "brainvq.training.shipped": ("list_presets", "shipped"),
    "brainvq.layers": (
        "AddVolume",
        "BlockFold",
        "Bottleneck",
        "BottleneckChain",
        "CausalConv",
        "DepthToSpace",
        "EMAVectorQuantizer",
        "EntropyQuantizer",
        "FiniteScalarQuantizer",
        "GaussianSampling",
        "GroupNorm",
        "GroupedQuantizer",
        "GumbelQuantizer",
        "Identity",
        "LatentNoise",
        "LookupFreeQuantizer",
        "MaskedConv1D",
        "MaskedConv2D",
        "MaskedConv3D",
        "MultiHeadQuantizer",
        "ProbabilisticSOM",
        "ProjectedQuantizer",
        "RemoveVolume",
        "ResidualQuantizer",
        "SOMGrid",
        "SOMQuantizer",
        "SimVQ",
        "SoftClip",
        "SpaceToDepth",
        "TemplateVolume",
        "TorusQuantizer",
        "VectorQuantizer",
    ),
    "brainvq.models": (
        "Autoencoder",
        "CodeClassifier",
        "CodeUsage",
        "FrozenEncoder",
        "GaussianPlan",
        "ImageClassifier",
        "IntroVAE",
        "MosaicPrior",
        "PixelCNN",
        "PixelStem",
        "ReconstructionLoss",
        "SSIMLoss",
        "VQVAETrainer",
        "WindowedTrainer",
        "bundle_decoder",
        "bundle_encoder",
        "conv_decoder",
        "conv_encoder",
        "intro_decoder",
        "intro_encoder",
        "pass_through",
        "pixel_classifier",
        "residual_decoder",
        "residual_encoder",
        "set_components",
        "set_mean",
        "set_transform",
        "streamline_decoder",
        "streamline_encoder",
        "strided_decoder",
        "strided_encoder",
        "structural_similarity",
        "transform_decoder",
        "transform_encoder",
    ),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", "layers", "models", *_MODULES]


@contextlib.contextmanager
def _no_start_up_lines():
    """Keeps TensorFlow's C++ lines about processor and missing GPU off the terminal while it loads.

    The first of them come before any setting can turn them off. What goes wrong is an exception all
    the same. `TF_CPP_MIN_LOG_LEVEL=0` brings the later ones back.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        standard_error = os.dup(2)
        silence = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard error at all, as under some service managers
        yield
        return
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(silence)


class _Registration(importlib.abc.MetaPathFinder):
    """Imports our models, which registers them, once Keras or our layers have been imported.

    Until then `import brainvq` costs nothing, and a program that only reads its options or prepares
    data never waits for Keras.
    """

    names = ("keras", "brainvq.layers")

    def find_spec(self, name, path=None, target=None):
        """The spec of a module whose import is followed by ours; None for all others."""
        if name not in self.names:
            return None
        self.names = tuple(other for other in self.names if other != name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module):
            with _no_start_up_lines() if name == "keras" else contextlib.nullcontext():
                try:
                    execute(module)
                except ModuleNotFoundError as error:
                    raise _without_backend(error) from None
            # Layers that import Keras are not whole yet: they are followed by their own turn.
            if name != "keras" or "brainvq.layers" not in sys.modules:
                importlib.import_module("brainvq.models")

        spec.loader.exec_module = execute_and_register
        return spec


def _without_backend(error):
    """The error itself, or what to install where Keras has nothing to compute with."""
    if error.name not in BACKENDS:
        return error
    choices = " or ".join(f"pip install brainvq[{name}]" for name in BACKENDS)
    return ModuleNotFoundError(
        f"{error.name}: is not installed, and Keras computes with it; expected a backend: "
        f"{choices} (KERAS_BACKEND chooses another one)",
        name=error.name,
    )


if "keras" in sys.modules:
    importlib.import_module("brainvq.models")
else:
    sys.meta_path.insert(0, _Registration())


def __getattr__(name):
    if name in ("layers", "models"):
        return importlib.import_module(f"brainvq.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
