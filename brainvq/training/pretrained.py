"""A trained model, its prior and its preprocessing, from a run or from the weights that we ship."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from brainvq.errors import UserError
from brainvq.files import atomic_path, read_json, write_json, write_text
from brainvq.training.fit import to_numpy
from brainvq.training.runs import RunFolder

SHIPPED = Path(__file__).resolve().parents[1] / "weights"


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `load` returns.

    Attributes:
        model: the `Autoencoder`: `reconstruct`; where `decodes_codes`, also `encode` to codes and
            `decode` from them. Where `has_vectors`, an `IntroVAE`, with vectors for codes.
        prior: the `PixelCNN` over its codes, or None.
        steps: the preprocessing, as `brainvq.data.steps_from_config` takes it.
        about: dict, the content of `study.json`.
        path: folder it came from.
    """

    model: keras.Model
    prior: keras.Model | None
    steps: list
    about: dict
    path: Path

    @property
    def volume_shape(self):
        """Voxels (x, y, z) of a sample of a study of volumes; None for one of slices."""
        options = self.about.get("study", {}).get("data", {})
        shape, block = options.get("shape"), options.get("block", 1)
        return None if shape is None else tuple(size // block for size in shape)

    @property
    def has_vectors(self):
        """Whether a volume becomes one vector, with a Gaussian prior: the model is an `IntroVAE`.

        It then has no codes: `encode` gives vectors `(n, latent_size)`, and `decode` takes them.
        """
        return has_vectors(self.about)

    @property
    def in_template_space(self):
        """Whether the volumes of a study lie on a grid around the ICBM152 template."""
        return self.about.get("study", {}).get("data", {}).get("registration", "no") != "no"

    @property
    def group_shape(self):
        """(streamlines, points, 3) of a sample of a study of bundles; None for one of images."""
        options = self.about.get("study", {}).get("data", {})
        if options.get("streamlines") is None:
            return None
        return (options["streamlines"], options["points"], 3)

    @property
    def layout(self):
        """What a sample is, as in `ArrayStore`: "slices", "volumes" or "bundles"."""
        if self.group_shape is not None:
            return "bundles"
        return "slices" if self.volume_shape is None else "volumes"

    @property
    def bundles(self):
        """Names of the bundles that the prior of a study of bundles knows, in its order."""
        return tuple(self.about["study"]["data"]["bundles"])

    @property
    def simulated(self):
        """Whether the model was trained on simulated brains alone."""
        if self.about["study"]["data"]["source"] == "simulated":
            return True
        metrics = self.path / "metrics.json"
        return metrics.exists() and bool(read_json(metrics).get("simulated"))

    @property
    def unit_range(self):
        """Whether samples lie in [0, 1]; z-scored images and bundles do not."""
        zscored = any(step["name"] == "ZScore" for step in self.steps)
        return not zscored and self.group_shape is None

    def sample(self, n, level=None, bundle=None, batch_size=32, **options):
        """Draws `n` new images, or groups of streamlines.

        Where a volume becomes a vector (`has_vectors`), the vectors are drawn from N(0, I):
        `brainvq.load(run).sample(4, temperature=1.0, seed=0)` returns volumes and vectors.

        Args:
            n: int, how many.
            level: for a prior that knows levels, how high in the brain the slices lie: a number
                from 0 (the lowest slice) to 1 (the highest); by default spread over the brain,
                from the lowest on.
            bundle: for a study of bundles, which one: a name of `bundles`, or `n` of them; by
                default each in turn.
            batch_size: int, images decoded at a time.
            **options: those of `PixelCNN.sample`: temperature, top_k, top_p, seed. Of vectors:
                temperature, the standard deviation of the draws, 1.0 by default; and seed.

        Returns:
            (images, codes): float32 `(n, *image_shape)`, in [0, 1] where the study's images are
            (`unit_range`), and int32 `(n, *grid)`. Bundles are `(n, streamlines, points, 3)` in
            units of the run's scale. In the place of codes vectors are float32
            `(n, latent_size)`.

        Raises:
            UserError: there is no prior, the model does not decode codes, `level` or `bundle` is
                out of range or not known to the prior, or an option is none for vectors.
        """
        if self.has_vectors:
            return self._sample_vectors(n, batch_size, level=level, bundle=bundle, **options)
        if self.prior is None:
            raise UserError(
                f"{self.path}: has no prior.keras; expected a run whose prior is trained"
            )
        self.require_decoding()
        if self.layout == "bundles":
            labels = self._bundle_labels(n, level, bundle)
        elif bundle is not None:
            raise UserError(
                f"bundle: found {bundle}; expected none, because the samples of {self.path} are "
                f"{self.layout}"
            )
        else:
            labels = self._labels(n, level)
        codes = self.prior.sample(n, labels=labels, **options)
        if self.layout == "bundles":  # a prior sees codes without axes of length 1
            codes = codes.reshape(n, *self.model.code_shape(self.group_shape))
        images = self.model.decode(codes, batch_size=batch_size)
        return np.clip(images, 0.0, 1.0, out=images) if self.unit_range else images, codes

    def _sample_vectors(self, n, batch_size, temperature=1.0, seed=None, **others):
        for name, found in others.items():
            if found is not None:
                raise UserError(
                    f"{name}: found {found}; expected temperature and seed alone, because the "
                    f"volumes of {self.path} are drawn as vectors"
                )
        vectors = self.model.draw(n, seed, temperature)
        images = self.model.decode(vectors, batch_size=batch_size)
        return np.clip(images, 0.0, 1.0, out=images) if self.unit_range else images, vectors

    def require_decoding(self):
        """Raises `UserError` where `decodes_codes` does not hold."""
        if not self.model.decodes_codes:
            what = "the encoder's finer levels" if self.model.has_skips else "vectors, not codes"
            raise UserError(
                f"{self.path}: its decoder reads {what}; expected a run that decodes codes alone, "
                "such as one with a VectorQuantizer or a SOMQuantizer"
            )

    def _labels(self, n, level):
        count = self.prior.num_classes
        if level is not None and (count is None or not 0 <= level <= 1):
            known = "from 0 to 1" if count else "none, because this prior knows no levels"
            raise UserError(f"level: found {level}; expected {known}")
        if count is None:
            return None
        if level is None:
            return np.arange(n) * count // n
        return np.full(n, min(int(level * count), count - 1))

    def _bundle_labels(self, n, level, bundle):
        if level is not None:
            raise UserError(f"level: found {level}; expected none, because bundles have no level")
        if bundle is None:
            return np.arange(n) % len(self.bundles)
        wanted = [bundle] * n if isinstance(bundle, str) else list(bundle)
        if len(wanted) != n:
            raise UserError(f"bundle: found {len(wanted)} names; expected one, or n = {n}")
        for name in wanted:
            if name not in self.bundles:
                raise UserError(
                    f"bundle: found {name}; expected one of {', '.join(self.bundles)}, the bundles "
                    f"of {self.path}"
                )
        return np.array([self.bundles.index(name) for name in wanted], int)


def load(name):
    """Loads a trained study.

    ```
    import brainvq
    brains, codes = brainvq.load("oasis2d").sample(4)
    ```

    Args:
        name: name of weights that come with brainvq (`shipped()` lists them), or the folder of a
            run.

    Returns:
        A `Trained`.

    Raises:
        UserError: there is no such name or run, or it was made by another version.
    """
    folder = Path(name)
    if str(name) in shipped():
        folder = SHIPPED / str(name)
    elif not folder.is_dir():
        raise UserError(
            f"{name}: found neither such a folder nor such shipped weights; expected the folder of "
            f"a run or one of {', '.join(shipped())}"
        )
    run = RunFolder.open(folder)
    about = run.study
    if run.has("model.zip"):
        model = unpack(run.file("model.zip"))
        prior = None if has_vectors(about) else unpack(run.file("prior.zip"))
    else:
        model = load_model(
            run.require("model.keras", "the run has not trained its autoencoder yet")
        )
        prior = load_model(run.file("prior.keras")) if run.has("prior.keras") else None
    return Trained(model, prior, about["steps"], about, folder)


def export(trained, folder):
    """Writes a trained study as a small folder to hand on: half-precision weights, card, measures.

    Paths of the machine that it was trained on are left out. `load` takes the folder.

    Args:
        trained: a `Trained` that `load` gave.
        folder: the folder to write.

    Raises:
        UserError: there is no prior where codes need one, the study is one of bundles, whose scale
            this form does not hold, or `folder` holds something already.
    """
    folder = Path(folder)
    if trained.layout == "bundles":
        raise UserError(
            f"export: {trained.path} is of study {trained.about['study']['name']}, whose samples "
            "are bundles; expected a run of slices or volumes"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; expected a new folder")
    if trained.prior is None and not trained.has_vectors:
        raise UserError(
            f"{trained.path}: has no prior.keras; expected a run whose prior is trained"
        )
    study = trained.about["study"]
    data = study["data"]
    named = [study["runs"], *(data[key] for key in ("root", "cache", "assignments", "mirror"))]

    def without_places(text):
        for place in named:
            if place and "/" in place:
                text = text.replace(place, "DIR")
        return text

    places = {"root": None, "cache": "cache", "assignments": None, "mirror": None}
    about = {
        **trained.about,
        "command": without_places(trained.about["command"]),
        "study": {**study, "runs": "runs", "data": {**data, **places}},
    }
    write_json(folder / "study.json", about)
    for name in ("MODEL_CARD.md", "metrics.json"):
        if (trained.path / name).exists():
            text = (trained.path / name).read_text(encoding="utf-8")
            write_text(folder / name, without_places(text))
    pack(trained.model, folder / "model.zip")
    if trained.prior is not None:
        pack(trained.prior, folder / "prior.zip")


def has_vectors(about):
    """`Trained.has_vectors`, of the content of a `study.json`."""
    return about.get("study", {}).get("model", {}).get("network") == "intro"


def shipped():
    """Names of the weights that come with brainvq."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/study.json"))


def load_model(path):
    """`keras.saving.load_model`, with a damaged file as a `UserError`."""
    try:
        return keras.saving.load_model(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
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
        for name, content in (("config.json", config.encode()), ("weights.npz", _npz(arrays))):
            # A fixed date, so that the same weights give the same file.
            archive.writestr(
                zipfile.ZipInfo(name), content, compress_type=zipfile.ZIP_DEFLATED, compresslevel=9
            )


def unpack(path):
    """Reads what `pack` wrote.

    Raises:
        UserError: the file is missing or damaged, or its weights do not fit its configuration.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            with np.load(io.BytesIO(archive.read("weights.npz")), allow_pickle=False) as stored:
                arrays = [stored[name] for name in sorted(stored.files)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected shipped weights") from None
    model = keras.saving.deserialize_keras_object(config)
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
