"""`import brainvq`: its names, what it costs, and that Keras then knows its models."""

import os
import subprocess
import sys

import pytest

import brainvq
from brainvq import layers, models

APPLICATION = ("pandas", "scipy", "nibabel", "tyro", "matplotlib", "sklearn", "skimage", "dipy")


def python(code, backend="jax"):
    """Runs Python in a process of its own; returns its output. JAX starts faster."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_names():
    own = {"__version__", "layers", "models", "load", "shipped"}
    own |= {"list_presets", "save_pretrained"}
    assert len(brainvq.__all__) == len(set(brainvq.__all__))
    assert set(brainvq.__all__) == own | set(layers.__all__) | set(models.__all__)
    assert set(brainvq.__all__) <= set(dir(brainvq))
    for name in brainvq.__all__:
        value = getattr(brainvq, name)
        home = layers if name in layers.__all__ else models if name in models.__all__ else None
        assert home is None or value is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = brainvq.Nothing


def test_the_package_imports_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import brainvq\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - set(sys.stdlib_module_names)), 'brainvq.models' in sys.modules)"
    )
    assert python(code) == "['brainvq'] False"


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import brainvq, keras", marks=pytest.mark.thorough),
        pytest.param("import keras, brainvq", marks=pytest.mark.thorough),
        "import brainvq.layers",
        pytest.param("import brainvq.models", marks=pytest.mark.thorough),
        pytest.param("from brainvq.layers import bottleneck", marks=pytest.mark.thorough),
        pytest.param("import brainvq; brainvq.PixelCNN", marks=pytest.mark.thorough),
        pytest.param("import brainvq.tasks.trained", marks=pytest.mark.thorough),
    ],
)
def test_models_and_layers_are_registered(imports):
    code = (
        f"{imports}\n"
        "import keras\n"
        "for name in ('VQVAETrainer', 'IntroVAE', 'PixelCNN', 'EMAVectorQuantizer'):\n"
        "    assert keras.saving.get_registered_object(f'brainvq>{name}') is not None, name\n"
        "import brainvq\n"
        "assert brainvq.PixelCNN is keras.saving.get_registered_object('brainvq>PixelCNN')\n"
        "print('registered')"
    )
    assert python(code) == "registered"


def test_layers_and_models_need_no_package_of_the_application():
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({APPLICATION!r}))\n"
        "import brainvq.layers, brainvq.models\n"
        "import numpy as np\n"
        "layer = brainvq.layers.EMAVectorQuantizer(num_codes=4)\n"
        "print(layer(np.zeros((1, 2, 2, 3), 'float32'))['codes'].shape)"
    )
    assert python(code, "tensorflow") == "(1, 2, 2)"  # JAX itself needs SciPy
