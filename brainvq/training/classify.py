"""Codes as features: classifiers of subjects, cross-validated beside classifiers of pixels.

Five methods answer one question, which class a subject belongs to:

- `codes`: a small convolutional network on the frozen code embeddings of each slice;
- `encoder`: the same network behind the frozen encoder, so that images are changed at random while
  training (the encoder being fixed, a few changed copies are encoded once and drawn from);
- `pixels`: a network of the same size on pixels, with strided convolutions of its own;
- `linear codes`: logistic regression on how often each code occurs and on the mean vector of each
  cell of the grid;
- `linear pixels`: the same on how often each intensity occurs and on the mean picture.

A subject's probabilities are the mean over its slices. Every subject counts alike and every class
too, whatever their numbers. All networks of a comparison are trained for the same number of steps,
fixed beforehand: no fold is looked at to decide when to stop. What is fitted (scaling, principal
components, strength of the penalty) is fitted to the training subjects of a fold alone.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from brainvq.errors import UserError
from brainvq.files import atomic_path, read_csv
from brainvq.models.classifier import CodeClassifier, FrozenEncoder, ImageClassifier, copy_layer
from brainvq.progress import progress
from brainvq.training.augment import Augment
from brainvq.training.classify_methods import (
    METHODS,
    NEEDS_CODES,
    NEEDS_PIXELS,
    NETWORKS,
    encode,
    logits_of,
    make_method,
    small_dtype,
    softmax,
    subject_means,
)
from brainvq.training.fit import duration
from brainvq.training.labels import one_line, read_labels

logger = logging.getLogger("brainvq")


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """How classifiers are trained.

    Attributes:
        epochs: passes over the training samples of a fold.
        learning_rate: largest learning rate of AdamW; a cosine takes it to zero.
        weight_decay: of AdamW; not on biases and normalisation.
        filters: channels of the head's convolutions, see `CodeClassifier`.
        dropout: see `CodeClassifier`.
        batch_size: samples in a step.
        augment: function `(images, rng) -> images` applied to pixels in training (`encoder` and
            `pixels`), or None.
        copies: changed copies of each image that are encoded for `encoder`.
        components: most principal components of each kind of feature (linear methods).
        seed: int; the same seed gives the same result.
    """

    epochs: int = 20
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    filters: tuple = (32, 64)
    dropout: float = 0.3
    batch_size: int = 32
    augment: Callable | None = Augment(shift=4, flip=0.5, gain=0.1)
    copies: int = 3
    components: int = 32
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Samples:
    """Slices, or other images, of labelled subjects. `labelled_samples` makes one.

    Attributes:
        subjects: str array `(n,)`, the subject of each sample.
        labels: int array `(n,)`, the class number of its subject.
        classes: names of the classes, in order.
        read: function of an int array of sample numbers (0 to n − 1) that returns float32
            `(len, rows, cols, channels)`, or None where there are no pixels.
        codes: int array `(n, h, w)`, or None.
        codebook: float32 `(num_codes, dim)`, the vectors of the codes, or None.
    """

    subjects: np.ndarray
    labels: np.ndarray
    classes: tuple
    read: Callable | None = None
    codes: np.ndarray | None = None
    codebook: np.ndarray | None = None

    def __len__(self):
        return len(self.subjects)


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` returns.

    Attributes:
        subjects: str array `(n_subjects,)`, sorted.
        labels: int array `(n_subjects,)`.
        classes: names of the classes.
        probabilities: dict of method to float64 `(n_repeats, n_subjects, n_classes)`: each subject
            as seen by a classifier that was trained without it.
        seconds: dict of method to the seconds it took.
        parameters: dict of method to its number of trainable parameters; for linear methods, of
            weights on principal components in the last fold.
    """

    subjects: np.ndarray
    labels: np.ndarray
    classes: tuple
    probabilities: dict
    seconds: dict
    parameters: dict

    def table(self):
        """The probabilities, mean over repeats: a row per method and subject.

        Returns:
            `pandas.DataFrame` with `method`, `subject`, `class`, `predicted` and a column
            `p(<class>)` for each class.
        """
        parts = []
        for method, repeats in self.probabilities.items():
            mean = repeats.mean(axis=0)
            part = _probability_table(self.subjects, mean, self.classes)
            part.insert(0, "method", method)
            part.insert(2, "class", np.asarray(self.classes)[self.labels])
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def labelled_samples(subjects, labels, *, read=None, codes=None, codebook=None):
    """Joins samples to the labels of their subjects; samples without one are left out.

    Args:
        subjects: the subject of each of n samples.
        labels: mapping or `pandas.Series` of subject to class name, as `read_labels` gives it.
        read: function of an int array of sample numbers that returns images, such as
            `ArrayStore.read`, or None.
        codes: int `(n, h, w)`, or None.
        codebook: float `(num_codes, dim)`, the vectors of the codes; needed with codes.

    Returns:
        `Samples`; classes are in sorted order.

    Raises:
        UserError: no sample has a label, or codes do not fit the codebook.
    """
    labels = dict(labels)
    subjects = np.asarray(subjects).astype(str)
    rows = np.flatnonzero([subject in labels for subject in subjects])
    if len(rows) == 0:
        raise UserError("labels: none of the subjects has one; expected labels of these subjects")
    names = [str(labels[subject]) for subject in subjects[rows]]
    classes, numbers = np.unique(names, return_inverse=True)
    if codes is not None:
        codebook = np.asarray(codebook, "float32")
        codes = _compact(np.asarray(codes)[rows], len(codebook))
    return Samples(
        subjects=subjects[rows],
        labels=numbers,
        classes=tuple(map(str, classes)),
        read=None if read is None else lambda index: read(rows[index]),
        codes=codes,
        codebook=codebook,
    )


def samples_from_files(folder, labels, codebook):
    """Reads the codes that `encode` wrote.

    Args:
        folder: holds `scans.tsv` (earlier: `scans.csv`) with columns `name` and `subject`, and for
            each row `<name>.npy`, int `(n, h, w)`.
        labels: mapping of subject to class name; or str as `read_labels` takes it.
        codebook: float `(num_codes, dim)`, that of the model that encoded.

    Returns:
        `Samples` with codes and without pixels.

    Raises:
        UserError: a file is missing, damaged or of another grid than the others.
    """
    folder = Path(folder)
    path = folder / "scans.tsv"
    if not path.exists() and path.with_suffix(".csv").exists():
        path = path.with_suffix(".csv")
    try:
        table = read_csv(path, dtype=str).fillna("")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({one_line(error)}); expected the table that encode writes"
        ) from None
    missing = {"name", "subject"} - set(table.columns)
    if missing:
        raise UserError(
            f"{path}: has no column {min(missing)}, found "
            f"{', '.join(table.columns)}; expected the table that encode writes"
        )
    if isinstance(labels, str):
        labels = read_labels(labels, table["subject"].unique())
    known = set(dict(labels))
    subjects, parts = [], []
    for name, subject in zip(table["name"], table["subject"], strict=True):
        if subject not in known:
            continue
        grid = parts[0].shape[1:] if parts else None
        parts.append(_codes_of(folder / f"{name}.npy", len(codebook), grid))
        subjects += [subject] * len(parts[-1])
    if not parts:
        raise UserError(f"{folder}: no code file of a subject with a label; expected some")
    return labelled_samples(subjects, labels, codes=np.concatenate(parts), codebook=codebook)


def _codes_of(path, num_codes, grid):
    """The codes in a file, of the grid of the files before it (None where it is the first)."""
    try:
        codes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); expected codes") from None
    if codes.ndim != 3 or codes.dtype.kind not in "iu":
        raise UserError(
            f"{path}: found {codes.dtype} of shape {codes.shape}; expected whole numbers of "
            "shape (n, rows, columns)"
        )
    if grid is not None and codes.shape[1:] != grid:
        raise UserError(
            f"{path}: found maps of {_times(codes.shape[1:])} codes; expected {_times(grid)} as in "
            "the files before it"
        )
    try:
        return _compact(codes, num_codes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def encode_samples(samples, model, *, batch_size=32):
    """Encodes the pixels of samples; in memory are the codes alone.

    Args:
        samples: `Samples` with `read`.
        model: `VQVAETrainer`.
        batch_size: images at a time.

    Returns:
        `Samples` with `codes` and `codebook`.
    """
    codes = encode(samples, model, batch_size, None, 0, "encoding")
    codebook = keras.ops.convert_to_numpy(model.bottleneck.codebook)
    return dataclasses.replace(samples, codes=codes, codebook=codebook)


def cross_validate(samples, splits, *, methods=None, model=None, **settings):
    """Trains and tests every method with each subject unseen once a repeat.

    Args:
        samples: `Samples`. Where it has no codes, `model` makes them.
        splits: for each repeat, int array `(n,)`: the fold in which each sample is tested, as
            `evaluation.subject_folds(...).fold` gives it.
        methods: some of `METHODS`; by default all that the samples allow (no pixels: `codes` and
            `linear codes`).
        model: the `VQVAETrainer` that codes come from; needed for `encoder`, and for codes where
            the samples have none.
        **settings: those of `ClassifierSettings`.

    Returns:
        `CrossValidation`.

    Raises:
        UserError: a method is not known, or lacks the pixels or the model it needs.
        ValueError: a subject is in two folds.
    """
    settings = ClassifierSettings(**settings)
    splits = [np.asarray(split) for split in splits]
    methods = _checked_methods(methods, samples, model)
    _check_splits(samples, splits)
    if samples.codes is None and any(name in NEEDS_CODES for name in methods):
        samples = encode_samples(samples, model, batch_size=settings.batch_size)
    subjects, first, of_sample = np.unique(samples.subjects, return_index=True, return_inverse=True)
    labels = samples.labels[first]
    shape = (len(splits), len(subjects), len(samples.classes))
    probabilities, seconds, parameters = {}, {}, {}
    units = sum(int(split.max()) + 1 for split in splits)
    bar = progress(units * len(methods), unit="fold")
    with bar:
        for number, name in enumerate(methods):
            bar.set_description(name)
            began = time.monotonic()
            method = make_method(name, samples, subjects, of_sample, model, settings)
            predicted = np.full(shape, np.nan)
            for repeat, split in enumerate(splits):
                method.start(repeat, split)
                for fold in range(int(split.max()) + 1):
                    test = np.unique(of_sample[split == fold])
                    train = np.setdiff1d(np.arange(len(subjects)), test)
                    predicted[repeat, test] = method.fit(train, (repeat, fold)).predict(test)
                    bar.update()
            probabilities[name], parameters[name] = predicted, method.parameters()
            seconds[name] = round(time.monotonic() - began, 2)
            left = sum(seconds.values()) / (number + 1) * (len(methods) - number - 1)
            logger.info(
                "%s: %d folds in %s%s",
                name,
                units,
                duration(seconds[name]),
                f", about {duration(left)} left" if number + 1 < len(methods) else "",
            )
    return CrossValidation(subjects, labels, samples.classes, probabilities, seconds, parameters)


def train_final(samples, method="codes", path=None, *, model=None, **settings):
    """Trains a network on all subjects, to be used on new ones.

    Args:
        samples: `Samples`.
        method: one of `NETWORKS`. `codes` gives a `CodeClassifier`; `encoder` an `ImageClassifier`
            with the frozen encoder in front; `pixels` an `ImageClassifier` of pixels.
        path: the `.keras` file to write, or None.
        model: the `VQVAETrainer`; needed for `encoder`, and for codes where there are none.
        **settings: those of `ClassifierSettings`.

    Returns:
        The `keras.Model`, which knows the names of its classes (`class_names`).

    Raises:
        UserError: as `cross_validate`, or for `encoder`, image sides that the encoder's stride
            does not divide.
    """
    settings = ClassifierSettings(**settings)
    if method not in NETWORKS:
        raise UserError(f"classifier to keep: found {method!r}; expected one of {_list(NETWORKS)}")
    _checked_methods((method,), samples, model)
    if method == "encoder":
        sides = samples.read(np.arange(1)).shape[1:-1]
        if any(side % stride for side, stride in zip(sides, model.stride, strict=True)):
            raise UserError(
                f"images: found {_times(sides)} pixels; expected sides that {_times(model.stride)} "
                "divides"
            )
    if samples.codes is None and method in NEEDS_CODES:
        samples = encode_samples(samples, model, batch_size=settings.batch_size)
    subjects, of_sample = np.unique(samples.subjects, return_inverse=True)
    network = make_method(method, samples, subjects, of_sample, model, settings)
    network.start(0, np.full(len(samples), -1))
    network.fit(np.arange(len(subjects)), (0, 0))
    trained = copy_layer(network.network)  # without the optimiser
    if method == "encoder":
        trained = ImageClassifier(FrozenEncoder(model.encoder, model.bottleneck), trained)
        trained.build((None, *samples.read(np.arange(1)).shape[1:]))
    if path is not None:
        with atomic_path(path) as temporary:
            trained.save(temporary)
    return trained


def predict_subjects(model, subjects, *, read=None, codes=None, batch_size=32):
    """Class probabilities of subjects, by a classifier that `train_final` trained.

    Args:
        model: `CodeClassifier` (needs `codes`) or `ImageClassifier` (needs `read`).
        subjects: the subject of each of n samples.
        read: function of an int array of sample numbers that returns images.
        codes: int `(n, h, w)`.
        batch_size: samples at a time.

    Returns:
        `pandas.DataFrame` with `subject`, `predicted` and a column `p(<class>)` for each class.

    Raises:
        ValueError: there is neither `read` nor `codes`, or not the one that the model takes.
    """
    on_codes = isinstance(model, CodeClassifier)
    if (codes if on_codes else read) is None:
        wanted = "codes" if on_codes else "read"
        raise ValueError(f"{type(model).__name__} needs `{wanted}`. Received: {wanted}=None")
    names, of_sample = np.unique(np.asarray(subjects).astype(str), return_inverse=True)
    load = (lambda rows: codes[rows].astype("int32")) if on_codes else read
    probabilities = softmax(logits_of(model, load, np.arange(len(of_sample)), batch_size))
    classes = model.class_names or tuple(map(str, range(model.num_classes)))
    means = subject_means(probabilities, of_sample, len(names))
    return _probability_table(names, means, classes)


def _probability_table(subjects, probabilities, classes):
    table = pd.DataFrame({"subject": subjects})
    table["predicted"] = np.asarray(classes)[probabilities.argmax(axis=1)]
    for number, name in enumerate(classes):
        table[f"p({name})"] = probabilities[:, number]
    return table


def _checked_methods(methods, samples, model):
    """The methods to run; `UserError` where one is not known or lacks its input."""
    no_pixels, no_codes = samples.read is None, samples.codes is None and model is None
    lacks = {
        name: (name in NEEDS_PIXELS and no_pixels and "images")
        or (name in NEEDS_CODES and no_codes and "codes")
        or (name == "encoder" and model is None and "the trained model")
        for name in METHODS
    }
    if methods is None:
        methods = [name for name in METHODS if not lacks[name]]
    for name in methods:
        if name not in METHODS:
            raise UserError(f"methods: found {name!r}; expected some of {_list(METHODS)}")
        if lacks[name]:
            raise UserError(f"method {name!r} needs {lacks[name]}, found none")
    if not methods:
        raise UserError("methods: found none that can run; expected codes or images")
    return tuple(dict.fromkeys(methods))


def _check_splits(samples, splits):
    if not splits:
        raise ValueError("There must be a split for each repeat. Received: splits=[]")
    for split in splits:
        if split.shape != (len(samples),):
            raise ValueError(
                f"A split has a fold for each of {len(samples)} samples. Received: {split.shape}"
            )
        pairs = np.unique(
            np.stack([np.unique(samples.subjects, return_inverse=True)[1], split]), axis=1
        )
        if pairs.shape[1] != len(np.unique(pairs[0])):
            raise ValueError("Folds must not share subjects. Received: a subject in two folds")


def _compact(codes, num_codes):
    """Codes as the smallest integers that hold them, checked against the codebook."""
    if codes.size and (codes.min() < 0 or codes.max() >= num_codes):
        raise UserError(
            f"codes: found {codes.min()} to {codes.max()}; expected 0 to {num_codes - 1}, the "
            "codebook of the model"
        )
    return codes.astype(small_dtype(num_codes))


def _list(names):
    return ", ".join(names)


def _times(sizes):
    return " x ".join(map(str, sizes))
