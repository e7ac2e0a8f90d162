"""What each method of `brainvq.training.classify` fits to the subjects of a fold and predicts.

Each is a class with `start(repeat, split)` before the folds of a repeat, `fit(train, stream)`,
`predict(test)` and `parameters()`; `make_method` makes the one of a name.
"""

import keras
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from brainvq.models.classifier import CodeClassifier, pixel_classifier, trainable_parameters
from brainvq.progress import progress
from brainvq.training.fit import optimizer, to_numpy

METHODS = ("codes", "encoder", "pixels", "linear codes", "linear pixels")
NETWORKS = METHODS[:3]
# What each method reads: codes that exist or can be made, and pixels.
NEEDS_CODES = ("codes", "encoder", "linear codes")
NEEDS_PIXELS = ("encoder", "pixels", "linear pixels")

PENALTIES = tuple(10.0 ** np.arange(-2, 5))  # inverse strengths C that the inner folds choose from
INNER_FOLDS = 5
LINEAR_SIDE = 64  # pictures are averaged down to this many pixels a side for `linear pixels`
INTENSITY_BINS = 64


class Network:
    """A network of one of `NETWORKS` that starts anew for each fold without being built again."""

    def __init__(self, name, samples, subjects, of_sample, model, settings):
        self.name, self.samples, self.settings = name, samples, settings
        self.of_sample, self.model = of_sample, model
        per_subject = np.bincount(of_sample, minlength=len(subjects))
        self.weights = 1.0 / per_subject[of_sample]
        self.copies = []
        if name == "encoder" and settings.augment is not None:
            self.copies = [
                encode(
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
        logits = logits_of(self.network, self._load, rows, self.settings.batch_size)
        place = np.searchsorted(test, self.of_sample[rows])
        return subject_means(softmax(logits), place, len(test))

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


class Linear:
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
            mean, deviation = block[train].mean(axis=0), block[train].std(axis=0)
            # What never varies in training says nothing, and must not divide by next to nothing.
            scale = np.where(deviation > 1e-6 * max(deviation.max(), 1e-30), deviation, np.inf)
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


def make_method(name, *arguments):
    """The `Network` or `Linear` of one of `METHODS`, with the arguments after `name`."""
    return (Network if name in NETWORKS else Linear)(name, *arguments)


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
    # The square root makes the variance of a count nearly independent of its size.
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


def encode(samples, model, batch_size, augment, seed, title):
    """Codes of all samples, changed by `augment` first, as small integers `(n, h, w)`."""
    codes = None
    with progress(len(samples), title, "sample", part=True) as bar:
        for start in range(0, len(samples), batch_size):
            rows = np.arange(start, min(start + batch_size, len(samples)))
            images = samples.read(rows)
            if augment is not None:
                images = augment(images, np.random.default_rng((*seed, start)))
            batch = model.encode(images, batch_size=batch_size)
            if codes is None:
                codes = np.empty((len(samples), *batch.shape[1:]), small_dtype(model.num_codes))
            codes[rows] = batch
            bar.update(len(rows))
    return codes


def logits_of(network, load, rows, batch_size):
    """Logits `(len(rows), n_classes)`, batch by batch, all batches of one size."""
    batch_size = min(batch_size, len(rows))
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        full = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch))])
        parts.append(np.asarray(network.predict_on_batch(load(full)))[: len(batch)])
    return np.concatenate(parts)


def softmax(logits):
    """Probabilities, float64 `(n, n_classes)`, of logits of that shape."""
    p = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def subject_means(values, of_sample, count):
    """Means over the samples of each subject: `(n, features)` → `(count, features)`."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, of_sample, values)
    return sums / np.bincount(of_sample, minlength=count)[:, None]


def _rows_of(of_sample, count):
    """Sample numbers of each subject."""
    order = np.argsort(of_sample, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_sample, minlength=count))[:-1])


def small_dtype(num_codes):
    """The smallest integers that hold `num_codes` codes."""
    return "uint8" if num_codes <= 256 else "uint16" if num_codes <= 65536 else "int32"
