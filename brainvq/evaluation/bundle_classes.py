"""How well the name of a bundle can be predicted from its codes, latents or coordinates."""

import warnings

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainvq.errors import UserError


def classify_bundles(features, labels, groups=None, *, components=50, folds=5, seed=0):
    """Predicts the name of a bundle from its features by cross-validated logistic regression.

    Features are standardised, turned to principal components, and given to a logistic regression
    with scikit-learn's default penalty; all of this is fitted on training folds alone.

    Args:
        features: `{name: (n, ...)}`, such as codes as histograms, latents, and raw coordinates to
            compare with; flattened.
        labels: `(n,)`, the bundle of each sample.
        groups: `(n,)`, the subject of each sample, which is never in both training and test.
            Default: each sample is its own, which flatters where a subject has several.
        components: int ≥ 1, most principal components. Default 50.
        folds: int ≥ 2; fewer where a bundle has fewer groups. Default 5.
        seed: int, of the folds. Default 0.

    Returns:
        `pandas.DataFrame`, a row per set of features and a last one, "chance", that always names
        the most frequent bundle: `features`, `numbers` (how many each sample has), `accuracy` and
        `balanced_accuracy` (mean recall of the bundles) over all tested samples, `samples`,
        `groups` and `folds`.

    Raises:
        UserError: there is one bundle only, or a bundle occurs in one group only.
        ValueError: features and labels are not equally many.
    """
    names, labels = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    features = {name: np.asarray(x, "float64") for name, x in features.items()}
    sizes = {len(labels), len(groups), *(len(x) for x in features.values())}
    if len(sizes) > 1:
        raise ValueError(f"features, labels and groups must be equally many. Received: {sizes}")
    if len(names) < 2:
        raise UserError(f"labels: found {', '.join(names)} only; expected two or more bundles")
    splits = _splits(labels, names, groups, folds, seed)
    rows = []
    for name, x in features.items():
        x = x.reshape(len(x), -1)
        predicted = np.empty_like(labels)
        for train, test in splits:
            predicted[test] = _predicted(x[train], labels[train], x[test], components, seed)
        rows.append({"features": name, "numbers": x.shape[1], **_accuracy(labels, predicted)})
    most = np.full_like(labels, np.bincount(labels).argmax())
    rows.append({"features": "chance", "numbers": 0, **_accuracy(labels, most)})
    counts = {"samples": len(labels), "groups": len(np.unique(groups)), "folds": len(splits)}
    return pd.DataFrame(rows).assign(**counts)


def _splits(labels, names, groups, folds, seed):
    """Training and test rows of each fold."""
    spans = [len(np.unique(groups[labels == i])) for i in range(len(names))]
    if min(spans) < 2:
        raise UserError(
            f"labels: bundle {names[int(np.argmin(spans))]} is found in one group only; expected "
            "two or more, to train on one and test on another"
        )
    split = StratifiedGroupKFold(min(folds, *spans), shuffle=True, random_state=seed)
    return list(split.split(np.zeros((len(labels), 1)), labels, groups))


def _predicted(train, labels, test, components, seed):
    """Class numbers of the rows of `test`."""
    count = min(components, len(train), train.shape[1])
    solver = "full" if count > 0.8 * min(train.shape) else "randomized"
    model = make_pipeline(
        StandardScaler(),
        PCA(count, svd_solver=solver, random_state=seed),
        LogisticRegression(max_iter=500),
    )
    # Features that never change have no components: they are at chance, no fault.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        # An optimiser that stops early is as good for this as one that converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(train, labels).predict(test)


def _accuracy(labels, predicted):
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
    }
