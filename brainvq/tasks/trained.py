"""A trained model, its prior and its preprocessing, from a run or from the weights that we ship."""

import dataclasses
import functools
from pathlib import Path

import keras
import numpy as np

import brainvq
from brainvq.data.derivatives import Derivatives
from brainvq.errors import UserError
from brainvq.files import read_json, write_json, write_text
from brainvq.options import from_dict
from brainvq.options.verbs import options_of_verb
from brainvq.places import OPTIONS, without_places
from brainvq.tasks import base
from brainvq.training.pretrained import load_model, pack, unpack
from brainvq.training.shipped import name_of, open_run, shipped

__all__ = ["Trained", "export", "load", "shipped"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `load` returns.

    Attributes:
        model: the `Autoencoder`: `reconstruct`; where `decodes_codes`, also `encode` to codes and
            `decode` from them. Of a study of vectors an `IntroVAE`: `encode` gives vectors
            `(n, latent_size)`, and `decode` takes them. Of bundles it aligns the streamlines of
            each group before it encodes; `reconstruct` gives them back in their own directions.
        prior: the `PixelCNN` over its codes, of study `t1w3d` the `MosaicPrior`; or None.
        steps: the preprocessing, as `brainvq.data.steps_from_config` takes it.
        about: dict, the content of `study.json`.
        path: folder it came from.
        study: `brainvq.options.Study` that it was trained by.
        task: `brainvq.tasks.Task` of its kind of sample.
    """

    model: keras.Model
    prior: keras.Model | None
    steps: list
    about: dict
    path: Path

    @functools.cached_property
    def study(self):
        """The study that it was trained by."""
        return from_dict(self.about.get("study") or {})

    @property
    def task(self):
        """The task of its kind of sample."""
        return base.of(self.study)

    @property
    def description(self):
        """One line about it."""
        simulated = self.study.data.source == "simulated"
        source = "simulated brains" if simulated else "scans"
        return f"study {self.study.name}, variant {self.study.variant}, trained on {source}"

    @property
    def simulated(self):
        """Whether the model was trained on simulated brains alone."""
        if self.study.data.source == "simulated":
            return True
        metrics = self.path / "metrics.json"
        return metrics.exists() and bool(read_json(metrics).get("simulated"))

    @functools.cached_property
    def usual(self):
        """What its training scans look like, see `brainvq.data.looks`; empty if not known."""
        looks = self.path / "looks.json"
        return read_json(looks) if looks.exists() else {}

    @property
    def unit_range(self):
        """Whether samples lie in [0, 1]; z-scored images and bundles do not."""
        zscored = any(step["name"] == "ZScore" for step in self.steps)
        return self.task.samples.unit_range and not zscored

    def results(self, folder):
        """A folder of results, as `brainvq.data.derivatives.Derivatives`."""
        study = self.study
        about = {
            "Model": name_of(self.path),
            "Study": study.name,
            "Variant": study.variant,
            "BrainvqVersion": brainvq.__version__,
            "SkullStripped": self.of_brains,
        }
        title = f"{name_of(self.path)} ({self.description})"
        return Derivatives(folder, title, about, getattr(study.data, "suffix", "T1w"))

    @property
    def of_brains(self):
        """Whether the scans that it was trained on show brains alone; where not known, they do."""
        return self.usual.get("heads", 0) < 0.5

    @property
    def in_template_space(self):
        """Whether the volumes of a study lie on a grid around the ICBM152 template."""
        return self.task.samples.in_template_space(self.study)

    def sample(
        self,
        n,
        level=None,
        bundle=None,
        batch_size=32,
        stack=False,
        age=None,
        sex=None,
        **options,
    ):
        """Draws `n` new images, or groups of streamlines.

        Where a volume becomes a vector, the vectors are drawn by `IntroVAE.draw`:
        `brainvq.load(run).sample(4, temperature=1.0, seed=0)` returns volumes and vectors.

        Args:
            n: int, how many.
            level: for a prior that knows heights, how high in the brain the slices lie: a number
                from 0 (the lowest slice) to 1 (the highest); by default spread over the brain,
                from the lowest on.
            bundle: for a study of bundles, which one: a name of `study.data.bundles`, or `n` of
                them; by default each in turn.
            batch_size: int, images decoded at a time.
            stack: for a prior that draws by a plan, whether the slices are all of one brain, from
                the lowest to the highest; `coherence` (see `PixelCNN.sample`) is then 1 by default.
            age: for a prior of volumes that knows ages, that of the new brains in years; by default
                as they come.
            sex: likewise, "F" or "M".
            **options: those of `PixelCNN.sample`: temperature, top_k and top_p, by default those of
                the study, and seed. Of vectors:
                temperature, the standard deviation of the draws, 1.0 by default; and seed.

        Returns:
            (images, codes): float32 `(n, *image_shape)`, in [0, 1] where the study's images are
            (`unit_range`), and int32 `(n, *grid)`. Bundles are `(n, streamlines, points, 3)` in
            units of the run's scale. In the place of codes vectors are float32
            `(n, latent_size)`.

        Raises:
            UserError: there is no prior, the model does not decode codes, what is wanted is out of
                range or not known to the prior, or an option is none for vectors.
        """
        latents = self.task.samples.draw(
            self, n, level=level, bundle=bundle, stack=stack, age=age, sex=sex, **options
        )
        samples = self.model.decode_drawn(latents, batch_size, options.get("seed"))
        return np.clip(samples, 0.0, 1.0, out=samples) if self.unit_range else samples, latents

    def require_prior(self):
        """Raises `UserError` where there is no prior over codes."""
        if self.prior is None:
            raise UserError(
                f"{self.path}: has no prior.keras; expected a run whose prior is trained"
            )

    def require_decoding(self):
        """Raises `UserError` where `decodes_codes` does not hold."""
        if not self.model.decodes_codes:
            what = "the encoder's finer levels" if self.model.has_skips else "vectors, not codes"
            raise UserError(
                f"{self.path}: its decoder reads {what}; expected a run that decodes codes alone, "
                "such as one with a VectorQuantizer or a SOMQuantizer"
            )


def load(name):
    """Loads a trained study.

    ```
    import brainvq
    brains, codes = brainvq.load("oasis2d").sample(4)
    ```

    Args:
        name: name of a preset that comes with brainvq (`list_presets()` lists them), the folder of
            a run, or "hf://USER/NAME", a model on Hugging Face that `save_pretrained` wrote.

    Returns:
        A `Trained`.

    Raises:
        UserError: there is no such name or run, or it was made by another version.
    """
    run = open_run(name)
    about = run.study
    if run.has("model.zip"):
        model = unpack(run.file("model.zip"))
        prior = unpack(run.file("prior.zip")) if run.has("prior.zip") else None
    else:
        model = load_model(
            run.require("model.keras", "the run has not trained its autoencoder yet")
        )
        prior = load_model(run.file("prior.keras")) if run.has("prior.keras") else None
    trained = Trained(model, prior, about["steps"], about, run.path)
    if trained.task.samples.arrange is not None:
        model.arrange = trained.task.samples.arrange
    return trained


def export(trained, folder):
    """Writes a trained study as a small folder to hand on: half-precision weights, card, measures.

    Paths of the machine that it was trained on are left out. `load` takes the folder.

    Args:
        trained: a `Trained` that `load` gave.
        folder: the folder to write.

    Raises:
        UserError: there is no prior where the study has one, or `folder` holds something already.
    """
    folder = Path(folder)
    options_of_verb("export", trained.study, trained.path)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; expected a new folder")
    if trained.task.samples.needs_prior and trained.study.has_prior:
        trained.require_prior()
    study = trained.about["study"]
    groups = [study, *(study[name] for name in ("data", "train") if study.get(name))]
    known = [group.get(name) for group in groups for name in OPTIONS]
    places = {"root": None, "cache": "cache", "assignments": None, "mirror": None}
    optional = ("masks", "mask_tool", "scheduler")
    places |= dict.fromkeys(name for name in optional if name in study["data"])
    small = {**study, "runs": "runs", "data": {**study["data"], **places}}
    starts = {"start_run", "pretrained"} & set(study.get("train") or {})
    if starts:
        small["train"] = study["train"] | dict.fromkeys(starts)
    rest = {key: value for key, value in trained.about.items() if key not in ("study", "start")}
    write_json(folder / "study.json", {**without_places(rest, known), "study": small})
    metrics, card = (trained.path / name for name in ("metrics.json", "MODEL_CARD.md"))
    if metrics.exists():
        write_json(folder / metrics.name, without_places(read_json(metrics), known))
    for name in ("looks.json", "scale.json"):
        if (trained.path / name).exists():
            write_json(folder / name, read_json(trained.path / name))
    if card.exists():
        text = without_places(card.read_text(encoding="utf-8"), known)
        write_text(folder / card.name, text)
    pack(trained.model, folder / "model.zip")
    if trained.prior is not None:
        pack(trained.prior, folder / "prior.zip")
