"""Which tests run where, in which order, and what makes them quick on two cores."""

import functools
import gc
import inspect
import logging
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainvq.cli import ask_for_onednn

# As the program does: commands in the tests' process and in their own give the same numbers.
ask_for_onednn()

ROOT = Path(__file__).parent
# Files whose tests use one trained run, by what they share.
SHARED = {"scripts/test_train.py": "oasis2d", "scripts/test_predict.py": "oasis2d"}
# What takes longest starts first: what is left for the end is short, and both workers end together.
LONGEST = (
    "scripts/test_train.py",
    "scripts/test_predict.py",
    "scripts/test_ixi2d.py",
    "scripts/test_streamlines.py",
    "test_earlier_runs.py",
    "scripts/test_prepare.py",
    "scripts/test_som3d.py",
    "models/test_pixelcnn.py",
    "data/test_registration.py",
    "scripts/test_introvae3d.py",
    "models/test_autoencoder.py",
    "test_package.py",
    "training/test_anomaly.py",
    "models/test_volume_networks.py",
    "data/test_simulation.py",
    "studies/test_studies.py",
    "test_readme.py",
)
# What may differ on JAX, as far as `make test` tries it; `make jax-all` runs all of these folders.
JAX = (
    # The shared test of every layer, and the gradients that are our own.
    "layers/*contract*",
    "layers/test_masked_convolution.py::test_layer*",
    "layers/test_quantizer.py::test_straight_through_*",
    "layers/test_quantizer.py::test_rotation_turns_*",
    # Samplers.
    "models/test_pixelcnn.py::test_cached_and_naive_draw_the_same_codes[True-2-3]",
    "models/test_pixelcnn.py::test_samples_have_the_distribution_that_log_prob_says",
    "models/test_plan.py::test_coherent_*",
    # A training of every model.
    "models/test_autoencoder.py::test_the_history_names_each_term_and_they_add_up",
    "models/test_autoencoder.py::test_a_saved_model_comes_back_*",
    "models/test_bundle_networks.py::test_the_networks_learn_bundles",
    "models/test_classifier.py::test_it_learns_which_code_is_there",
    "models/test_intro_vae.py::test_convolutions_train_*",
    "models/test_pixelcnn.py::test_plain_fit_learns_and_logs_bits[[]True]",
    "models/test_volume_networks.py::test_checkpointing_trains_eagerly_and_compiled",
    "training/test_fit.py::test_a_stopped_training_goes_on_to_the_same_numbers",
    "training/test_tfp_prior.py::test_other_backends_are_refused",
)


def name_of(item):
    """The name of a test within this folder, as `file::function[parameters]`."""
    return f"{item.path.relative_to(ROOT).as_posix()}::{item.nodeid.partition('::')[2]}"


def pytest_xdist_make_scheduler(config, log):
    """Tests of one file, or of files that share a run, go to one worker.

    By a scheduler of our own: pytest 9.2 drops the groups that xdist 3.8 writes into a test's id.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0].removeprefix(f"{ROOT.name}/")
            return SHARED.get(file, file)

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Orders the files, and marks tests for JAX."""
    for item in items:
        name = name_of(item)
        if any(fnmatchcase(name, pattern) for pattern in JAX):
            item.add_marker(pytest.mark.jax)

    def place(item):
        file = name_of(item).partition("::")[0]
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="module")
def coarse_figures(request):
    """Figures of fewer pixels: what is drawn is the same, and drawn sooner."""
    dpi = 80 if "reports" in request.path.parts else 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainvq.reports.drawing.DPI", dpi)
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_dipy():
    """dipy reads the signature of a function at each of 50,000 calls: here once each."""
    from dipy.testing import decorators

    version = SimpleNamespace(parse=functools.cache(decorators.version.parse))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decorators, "signature", functools.cache(inspect.signature))
        patch.setattr(decorators, "version", version)
        yield


@pytest.fixture(autouse=True)
def own_logger():
    """The program's logger as it is before a command sets it up, whatever ran before."""
    logger = logging.getLogger("brainvq")
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
