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
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from brainvq.errors import UserError
from brainvq.files import atomic_path
from brainvq.models.classifier import (
    CodeClassifier,
    FrozenEncoder,
    ImageClassifier,
    copy_layer,
    pixel_classifier,
    trainable_parameters,
)
from brainvq.training.augment import Augment
from brainvq.training.fit import duration, optimizer, to_numpy

logger = logging.getLogger("brainvq")

METHODS = ("codes", "encoder", "pixels", "linear codes", "linear pixels")
NETWORKS = METHODS[:3]
# What each method reads: codes that exist or can be made, and pixels.
NEEDS_CODES = ("codes", "encoder", "linear codes")
NEEDS_PIXELS = ("encoder", "pixels", "linear pixels")

PENALTIES = tuple(10.0 ** np.arange(-2, 5))  # inverse strengths C that the inner folds choose from
INNER_FOLDS = 5
LINEAR_SIDE = 64  # pictures are averaged down to this many pixels a side for `linear pixels`
INTENSITY_BINS = 64
MOST_VALUES = 10  # a column of numbers with more values than this is no list of classes

_ID_COLUMNS = ("participant_id", "subject", "subject_id", "id")
_UNKNOWN = ("", "n/a", "na", "nan", "none", "null", "unknown", "?", ".")
_COMPARISONS = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    ">": np.greater,
    "<": np.less,
}
_OPPOSITE = {">=": "<", "<=": ">", ">": "<=", "<": ">="}


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
        folder: holds `scans.csv` with columns `name` and `subject`, and for each row
            `<name>.npy`, int `(n, h, w)`.
        labels: mapping of subject to class name; or str as `read_labels` takes it.
        codebook: float `(num_codes, dim)`, that of the model that encoded.

    Returns:
        `Samples` with codes and without pixels.

    Raises:
        UserError: a file is missing, damaged or of another grid than the others.
    """
    folder = Path(folder)
    try:
        table = pd.read_csv(folder / "scans.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'scans.csv'}: cannot be read ({_line(error)}); expected the table that "
            "encode writes"
        ) from None
    missing = {"name", "subject"} - set(table.columns)
    if missing:
        raise UserError(
            f"{folder / 'scans.csv'}: has no column {min(missing)}, found "
            f"{', '.join(table.columns)}; expected the table that encode writes"
        )
    if isinstance(labels, str):
        labels = read_labels(labels, table["subject"].unique())
    known = set(dict(labels))
    subjects, parts = [], []
    for name, subject in zip(table["name"], table["subject"], strict=True):
        if subject not in known:
            continue
        path = folder / f"{name}.npy"
        try:
            codes = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({_line(error)}); expected codes") from None
        if codes.ndim != 3 or codes.dtype.kind not in "iu":
            raise UserError(
                f"{path}: found {codes.dtype} of shape {codes.shape}; expected whole numbers of "
                "shape (n, rows, columns)"
            )
        if parts and codes.shape[1:] != parts[0].shape[1:]:
            raise UserError(
                f"{path}: found maps of {_times(codes.shape[1:])} codes; expected "
                f"{_times(parts[0].shape[1:])} as in the files before it"
            )
        try:
            parts.append(_compact(codes, len(codebook)))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        subjects += [subject] * len(codes)
    if not parts:
        raise UserError(f"{folder}: no code file of a subject with a label; expected some")
    return labelled_samples(subjects, labels, codes=np.concatenate(parts), codebook=codebook)


def encode_samples(samples, model, *, batch_size=32):
    """Encodes the pixels of samples; in memory are the codes alone.

    Args:
        samples: `Samples` with `read`.
        model: `VQVAETrainer`.
        batch_size: images at a time.

    Returns:
        `Samples` with `codes` and `codebook`.
    """
    codes = _encode(samples, model, batch_size, None, 0, "encoding")
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
    bar = tqdm(total=units * len(methods), unit="fold", disable=not sys.stderr.isatty())
    with bar:
        for number, name in enumerate(methods):
            bar.set_description(name)
            began = time.monotonic()
            method = _METHODS[name](samples, subjects, of_sample, model, settings)
            found = np.full(shape, np.nan)
            for repeat, split in enumerate(splits):
                method.start(repeat, split)
                for fold in range(int(split.max()) + 1):
                    test = np.unique(of_sample[split == fold])
                    train = np.setdiff1d(np.arange(len(subjects)), test)
                    found[repeat, test] = method.fit(train, (repeat, fold)).predict(test)
                    bar.update()
            probabilities[name], parameters[name] = found, method.parameters()
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
    network = _METHODS[method](samples, subjects, of_sample, model, settings)
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
    found = _softmax(_logits(model, load, np.arange(len(of_sample)), batch_size))
    classes = model.class_names or tuple(map(str, range(model.num_classes)))
    return _probability_table(names, _subject_means(found, of_sample, len(names)), classes)


def read_labels(where, subjects):
    """Reads the class of each subject from a table.

    Args:
        where: `FILE:COLUMN`, such as `participants.tsv:group`; or, for a column of numbers,
            `FILE:COLUMN>NUMBER` (also >=, <, <=), which makes two classes. The file is tab- or
            comma-separated; subjects are in its column `participant_id`, `subject` or `id`, else
            in its first. A leading `sub-` does not matter.
        subjects: subjects to find, in the names that the result has.

    Returns:
        `pandas.Series` of class names (str), indexed by subject, of those that have one. The log
        says which have none.

    Raises:
        UserError: the file or column is missing, a subject has two classes, no subject is found,
            or a column of many numbers is no list of classes.
    """
    path, table, column, comparison, threshold = _label_table(where)
    key = next((name for name in _ID_COLUMNS if name in table), table.columns[0])
    values = {}
    for subject, value in zip(table[key], table[column], strict=True):
        value = value.strip()
        if value.lower() in _UNKNOWN:
            continue
        name = _plain(subject)
        if values.setdefault(name, value) != value:
            raise UserError(
                f"{path}: subject {subject} has {values[name]} and {value} in column {column}; "
                "expected one"
            )
    found = {str(s): values[_plain(s)] for s in subjects if _plain(s) in values}
    if not found:
        shown = ", ".join(map(str, list(subjects)[:3]))
        raise UserError(
            f"{path}: none of {len(subjects)} subjects ({shown}) has a value in column {column}; "
            f"subjects there are {', '.join(table[key][:3])}"
        )
    missing = [str(s) for s in subjects if str(s) not in found]
    if missing:
        logger.warning(
            "%s: %d of %d subjects have no %s and are left out: %s",
            path,
            len(missing),
            len(subjects),
            column,
            ", ".join(missing[:10]) + (" …" if len(missing) > 10 else ""),
        )
    numbers = pd.to_numeric(pd.Series(found), errors="coerce")
    if comparison is None:
        distinct = set(found.values())
        if numbers.notna().all() and len(distinct) > MOST_VALUES:
            raise UserError(
                f"{path}: column {column} holds {len(distinct)} different numbers; expected "
                f"classes: cut it in two, as {path}:{column}>{numbers.median():g}"
            )
        return pd.Series(found, dtype=str)
    if numbers.isna().any():
        bad = found[numbers.index[numbers.isna()][0]]
        raise UserError(f"{path}: column {column} holds {bad!r}; expected numbers")
    yes, no = (f"{column}{sign}{threshold:g}" for sign in (comparison, _OPPOSITE[comparison]))
    return pd.Series(
        np.where(_COMPARISONS[comparison](numbers, threshold), yes, no), numbers.index, dtype=str
    )


class _Network:
    """A network of one of `NETWORKS` that starts anew for each fold without being built again."""

    def __init__(self, name, samples, subjects, of_sample, model, settings):
        self.name, self.samples, self.settings = name, samples, settings
        self.of_sample, self.model = of_sample, model
        per_subject = np.bincount(of_sample, minlength=len(subjects))
        self.weights = 1.0 / per_subject[of_sample]
        self.copies = []
        if name == "encoder" and settings.augment is not None:
            self.copies = [
                _encode(
                    samples,
                    model,
                    settings.batch_size,
                    settings.augment,
                    (settings.seed, copy),
                    f"encoder: changed copy {copy + 1} of {settings.copies}",
                )
                for copy in range(settings.copies)
            ]

    def start(self, repeat, split):
        """Builds the network of a repeat, and fixes how many steps it trains in every fold."""
        settings = self.settings
        folds = int(split.max()) + 1
        held_out = np.mean(np.bincount(split[split >= 0])) if folds else 0
        self.batch = max(1, min(settings.batch_size, int(len(split) - held_out)))
        self.steps = max(1, round(settings.epochs * (len(split) - held_out) / self.batch))
        options = {
            "filters": settings.filters,
            "dropout": settings.dropout,
            "class_names": self.samples.classes,
            "seed": settings.seed + 7919 * repeat,
        }
        count = len(self.samples.classes)
        if self.name == "pixels":
            shape = self.samples.read(np.arange(1)).shape[1:]
            stride, dim = self._grid(shape)
            self.network = pixel_classifier(count, stride, dim, channels=shape[-1], **options)
        else:
            self.network = CodeClassifier(count, codebook=self.samples.codebook, **options)
            self.network.build((None, *self.samples.codes.shape[1:]))
        self.network.compile(
            optimizer(
                settings.learning_rate,
                self.steps,
                warmup=0.1,
                weight_decay=settings.weight_decay,
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.network.optimizer.build(self.network.trainable_variables)
        self.beginning = [to_numpy(variable).copy() for variable in self._state()]

    def fit(self, train, stream):
        """Trains on subjects `train` (int array), in an order drawn from `stream` (ints)."""
        for variable, value in zip(self._state(), self.beginning, strict=True):
            variable.assign(value)
        rows = np.flatnonzero(np.isin(self.of_sample, train))
        labels = self.samples.labels
        # Each subject counts alike within its class, and each class alike: weights of mean 1.
        weights = self.weights[rows]
        totals = np.bincount(labels[rows], weights, minlength=len(self.samples.classes))
        weights = weights / totals[labels[rows]]
        all_weights = np.zeros(len(labels), "float32")
        all_weights[rows] = weights / weights.mean()
        for batch, rng in self._batches(rows, stream):
            self.network.train_on_batch(
                self._load(batch, rng), labels[batch], sample_weight=all_weights[batch]
            )
        return self

    def predict(self, test):
        """Class probabilities of subjects `test`, `(len(test), n_classes)`."""
        rows = np.flatnonzero(np.isin(self.of_sample, test))
        found = _softmax(_logits(self.network, self._load, rows, self.settings.batch_size))
        place = np.searchsorted(test, self.of_sample[rows])
        return _subject_means(found, place, len(test))

    def parameters(self):
        """Number of trainable parameters."""
        return trainable_parameters(self.network)

    def _state(self):
        metrics = {id(variable) for variable in self.network.metrics_variables}
        own = [variable for variable in self.network.variables if id(variable) not in metrics]
        return own + list(self.network.optimizer.variables)

    def _grid(self, shape):
        """Stride and length of vectors that the pixel network takes over from the codes."""
        if self.samples.codes is not None:
            stride = max(2, round(shape[0] / self.samples.codes.shape[1]))
            return stride, self.samples.codebook.shape[1]
        if self.model is not None:
            return self.model.stride[0], self.model.bottleneck.codebook.shape[1]
        return 8, 16

    def _batches(self, rows, stream):
        """Yields (sample numbers, random generator) of each step."""
        batch, rng = self.batch, np.random.default_rng((self.settings.seed, *stream))
        order = rng.permutation(rows)
        for _ in range(self.steps):
            if len(order) < batch:
                # What is left over comes first in the next pass.
                order = np.concatenate([order, rng.permutation(rows)])
            taken, order = order[:batch], order[batch:]
            if len(taken) < batch:  # a fold with fewer samples than the others
                taken = np.concatenate([taken, rng.choice(rows, batch - len(taken))])
            yield np.sort(taken), rng

    def _load(self, rows, rng=None):
        """The network's input for samples `rows`; with `rng`, changed at random."""
        if self.name == "pixels":
            images = self.samples.read(rows)
            changed = rng is not None and self.settings.augment is not None
            return self.settings.augment(images, rng) if changed else images
        codes = self.samples.codes[rows]
        if rng is not None and self.copies:
            which = rng.integers(0, len(self.copies) + 1, len(rows))
            for number, copy in enumerate(self.copies):
                codes[which == number] = copy[rows[which == number]]
        return codes.astype("int32")


class _Linear:
    """Logistic regression on principal components of a subject's features."""

    def __init__(self, name, samples, subjects, of_sample, model, settings):
        count = len(subjects)
        make = _code_features if name == "linear codes" else _pixel_features
        self.blocks = make(samples, of_sample, count, settings.batch_size)
        self.labels = samples.labels[np.unique(of_sample, return_index=True)[1]]
        self.classes, self.settings = len(samples.classes), settings

    def start(self, repeat, split):
        """Nothing is shared between folds."""

    def fit(self, train, stream):
        """Chooses the penalty on folds of subjects `train`, then fits to all of them."""
        # Hundreds of tiny problems: threads would wait for one another.
        with threadpool_limits(1):
            return self._fit(train)

    def _fit(self, train):
        labels = self.labels[train]
        inner = min(INNER_FOLDS, int(np.bincount(labels, minlength=self.classes).min()))
        penalty = PENALTIES[len(PENALTIES) // 2]
        if inner >= 2:
            folds = StratifiedKFold(inner, shuffle=True, random_state=self.settings.seed)
            losses = np.zeros(len(PENALTIES))
            for fitting, held in folds.split(train, labels):
                project = self._projection(train[fitting])
                x, y = project(train[fitting]), labels[fitting]
                held_x, held_y = project(train[held]), labels[held]
                weight = 1.0 / np.bincount(held_y, minlength=self.classes)[held_y]
                for number, strength in enumerate(PENALTIES):
                    p = self._regression(strength).fit(x, y).predict_proba(held_x)
                    right = np.clip(p[np.arange(len(held)), held_y], 1e-7, 1)
                    losses[number] -= np.sum(weight * np.log(right))
            penalty = PENALTIES[int(np.argmin(losses))]
        self.project = self._projection(train)
        self.regression = self._regression(penalty).fit(self.project(train), labels)
        return self

    def predict(self, test):
        """Class probabilities of subjects `test`, `(len(test), n_classes)`."""
        return self.regression.predict_proba(self.project(test))

    def parameters(self):
        """Number of weights in the last fold."""
        return self.regression.coef_.size + self.regression.intercept_.size

    def _regression(self, penalty):
        return LogisticRegression(C=penalty, class_weight="balanced", max_iter=5000)

    def _projection(self, train):
        """A function from subject numbers to features, fitted to subjects `train`."""
        parts = []
        for block in self.blocks:
            mean, spread = block[train].mean(axis=0), block[train].std(axis=0)
            # What never varies in training says nothing, and must not divide by next to nothing.
            scale = np.where(spread > 1e-6 * max(spread.max(), 1e-30), spread, np.inf)
            count = min(self.settings.components, len(train) - 1, block.shape[1])
            pca = PCA(count, random_state=self.settings.seed)
            scores = pca.fit_transform((block[train] - mean) / scale)
            # Both kinds of features at the same length, so that one penalty suits both.
            length = max(np.sqrt(np.mean(np.sum(scores**2, axis=1))), 1e-12)
            parts.append((block, mean, scale, pca, length))

        def project(subjects):
            return np.concatenate(
                [
                    pca.transform((block[subjects] - mean) / scale) / length
                    for block, mean, scale, pca, length in parts
                ],
                axis=1,
            )

        return project


_METHODS = {
    name: (lambda *arguments, name=name: _Network(name, *arguments))
    if name in NETWORKS
    else (lambda *arguments, name=name: _Linear(name, *arguments))
    for name in METHODS
}


def _code_features(samples, of_sample, count, batch_size):
    """Per subject: square roots of the shares of codes `(count, K)`; mean vectors of the cells."""
    book = np.asarray(samples.codebook, "float32")
    shares = np.zeros((count, len(book)), "float32")
    cells = np.zeros((count, int(np.prod(samples.codes.shape[1:])) * book.shape[1]), "float32")
    for subject, rows in enumerate(_rows_of(of_sample, count)):
        codes = samples.codes[rows]
        shares[subject] = np.bincount(codes.ravel(), minlength=len(book)) / codes.size
        total = sum(book[code_map] for code_map in codes)  # one map at a time: little memory
        cells[subject] = (total / len(codes)).ravel()
    # The square root makes the spread of a count nearly independent of its size.
    return np.sqrt(shares), cells


def _pixel_features(samples, of_sample, count, batch_size):
    """Per subject: square roots of the shares of intensities; the mean picture, made smaller."""
    shares = np.zeros((count, INTENSITY_BINS), "float32")
    pictures = None
    for subject, rows in enumerate(_rows_of(of_sample, count)):
        for start in range(0, len(rows), batch_size):
            images = samples.read(rows[start : start + batch_size])
            small = _averaged(images)
            if pictures is None:
                pictures = np.zeros((count, small[0].size), "float32")
            pictures[subject] += small.sum(axis=0).ravel() / len(rows)
            seen = images[images > 0]  # the black around a brain says only how large it is
            shares[subject] += np.histogram(seen, INTENSITY_BINS, (0, 1))[0]
        shares[subject] /= max(shares[subject].sum(), 1)
    return np.sqrt(shares), pictures


def _averaged(images):
    """Images `(n, rows, cols, channels)` averaged over areas to at most `LINEAR_SIDE` a side."""
    down, across = (_area_matrix(size) for size in images.shape[1:3])
    return np.einsum("ir,nrcx,jc->nijx", down, images, across, optimize=True)


def _area_matrix(size):
    """Weights `(new, size)` that average a line of pixels over equal stretches."""
    new = min(size, LINEAR_SIDE)
    edges = np.linspace(0, size, new + 1)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * new / size).astype("float32")


def _encode(samples, model, batch_size, augment, seed, title):
    """Codes of all samples, changed by `augment` first, as small integers `(n, h, w)`."""
    codes = None
    starts = range(0, len(samples), batch_size)
    for start in tqdm(starts, title, unit="batch", disable=not sys.stderr.isatty(), leave=False):
        rows = np.arange(start, min(start + batch_size, len(samples)))
        images = samples.read(rows)
        if augment is not None:
            images = augment(images, np.random.default_rng((*seed, start)))
        found = model.encode(images, batch_size=batch_size)
        if codes is None:
            codes = np.empty((len(samples), *found.shape[1:]), _small_dtype(model.num_codes))
        codes[rows] = found
    return codes


def _logits(network, load, rows, batch_size):
    """Logits `(len(rows), n_classes)`, batch by batch, all batches of one size."""
    batch_size = min(batch_size, len(rows))
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        full = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch))])
        parts.append(np.asarray(network.predict_on_batch(load(full)))[: len(batch)])
    return np.concatenate(parts)


def _softmax(logits):
    p = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _subject_means(values, of_sample, count):
    """Means over the samples of each subject: `(n, features)` → `(count, features)`."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, of_sample, values)
    return sums / np.bincount(of_sample, minlength=count)[:, None]


def _rows_of(of_sample, count):
    """Sample numbers of each subject."""
    order = np.argsort(of_sample, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_sample, minlength=count))[:-1])


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
    return codes.astype(_small_dtype(num_codes))


def _small_dtype(num_codes):
    return "uint8" if num_codes <= 256 else "uint16" if num_codes <= 65536 else "int32"


def _label_table(where):
    """`FILE:COLUMN[>NUMBER]` → (path, table of str, column, comparison or None, number)."""
    path, separator, column = str(where).rpartition(":")
    if not separator or not path or not column:
        raise UserError(f"labels: found {where!r}; expected FILE:COLUMN, as participants.tsv:group")
    path = Path(path)
    try:
        table = pd.read_csv(
            path,
            sep="\t" if path.suffix.lower() == ".tsv" else ",",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table of subjects") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({_line(error)})") from None
    table.columns = [str(name).strip() for name in table.columns]
    if column in table:
        return path, table, column, None, None
    cut = re.fullmatch(r"(.+?)\s*(>=|<=|>|<)\s*(\S+)", column)
    if cut and cut[1] in table:
        try:
            return path, table, cut[1], cut[2], float(cut[3])
        except ValueError:
            raise UserError(f"labels: found {cut[3]!r} after {cut[2]}; expected a number") from None
    raise UserError(
        f"{path}: no column {cut[1] if cut else column!r}; found {', '.join(table.columns[:12])}"
    )


def _plain(subject):
    return str(subject).strip().removeprefix("sub-")


def _line(error):
    return " ".join(str(error).split())


def _list(names):
    return ", ".join(names)


def _times(sizes):
    return " x ".join(map(str, sizes))
