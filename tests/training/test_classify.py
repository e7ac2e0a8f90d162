"""Every subject is predicted by classifiers that never saw it, alike from pixels and from files."""

import logging

import keras
import numpy as np
import pandas as pd
import pytest

import brainvq
from brainvq.errors import UserError
from brainvq.training import classify, classify_methods
from brainvq.training.augment import Augment
from brainvq.training.classify import (
    METHODS,
    CrossValidation,
    cross_validate,
    encode_samples,
    labelled_samples,
    predict_subjects,
    read_labels,
    samples_from_files,
    train_final,
)

SUBJECTS = np.repeat([f"s{number:02d}" for number in range(12)], 3)
LABELS = {f"s{number:02d}": "ab"[number % 2] for number in range(12)}
SPLIT = np.repeat(np.arange(12) // 2 % 3, 3)  # each fold tests two subjects of each class
SMALL = {"epochs": 3, "filters": (4,), "batch_size": 8, "copies": 1, "components": 4}
LONG = {**SMALL, "epochs": 16, "filters": (8,), "learning_rate": 0.02, "dropout": 0.0}
# Compiling is slow on JAX, where the final classifiers below train each network once already.
HERE = METHODS if keras.backend.backend() == "tensorflow" else ("codes", "linear codes")
LONG["augment"] = Augment(shift=1, gain=0.1)


def images():
    """Class b is brighter on its left half."""
    rng = np.random.default_rng(0)
    x = 0.3 + 0.1 * rng.random((36, 16, 16, 1), dtype="float32")
    x[[LABELS[s] == "b" for s in SUBJECTS], :, :8] += 0.4
    return x


IMAGES = images()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    model = brainvq.VQVAETrainer(
        brainvq.conv_encoder((None, None, 1), (4, 4), 4, 3),
        brainvq.EMAVectorQuantizer(8, seed=1),
        brainvq.conv_decoder((None, None, 3), (4, 4), 4),
    )
    model(IMAGES)
    vectors = keras.ops.convert_to_numpy(model.encoder(IMAGES)).reshape(-1, 3)
    model.bottleneck.set_codebook(vectors[[0, 1, 5, 10, 60, 70, 75, 300]])
    return model


@pytest.fixture(scope="module")
def samples():
    return labelled_samples(SUBJECTS, LABELS, read=lambda rows: IMAGES[rows])


@pytest.fixture(scope="module")
def encoded(samples, model):
    return encode_samples(samples, model, batch_size=8)


@pytest.fixture(scope="module")
def result(samples, model):
    return cross_validate(samples, [SPLIT], methods=HERE, model=model, **LONG)


def test_all_methods_find_what_is_plain_to_see(result):
    assert tuple(result.probabilities) == HERE
    assert list(result.subjects) == sorted(LABELS)
    assert result.classes == ("a", "b")
    for name, p in result.probabilities.items():
        assert p.shape == (1, 12, 2)
        np.testing.assert_allclose(p.sum(axis=2), 1)
        if "linear" in name:
            assert np.all(p[0].argmax(axis=1) == result.labels), name
        assert np.mean(p[0].argmax(axis=1) == result.labels) >= 0.75, name
    assert result.parameters["codes"] == result.parameters.get(
        "encoder", result.parameters["codes"]
    )
    assert set(result.seconds) == set(HERE)


def test_the_table_has_each_subject_once_a_method(result):
    table = result.table()
    assert len(table) == len(HERE) * 12
    assert list(table.columns) == ["method", "subject", "class", "predicted", "p(a)", "p(b)"]
    assert (table["class"] == table["subject"].map(LABELS)).all()
    right = table[table["method"] == "linear codes"]
    assert (right["predicted"] == right["class"]).all()


def test_the_seed_decides_all(encoded):
    first, same, other = (
        cross_validate(encoded, [SPLIT], methods=["codes"], **SMALL, seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.probabilities["codes"], same.probabilities["codes"])
    assert np.any(first.probabilities["codes"] != other.probabilities["codes"])


@pytest.mark.parametrize("methods", [["codes"], ["linear codes", "linear pixels"]])
def test_a_fold_never_sees_the_labels_that_it_tests(encoded, methods):
    """Labels of fold 0 turned round: whoever was trained without them gives the same answer."""
    test = SPLIT == 0
    lie = classify.dataclasses.replace(
        encoded, labels=np.where(test, 1 - encoded.labels, encoded.labels)
    )
    honest, lied = (
        cross_validate(s, [SPLIT], methods=methods, **SMALL).probabilities for s in (encoded, lie)
    )
    tested = np.unique(SUBJECTS[test], return_index=True)[0]
    places = np.searchsorted(sorted(LABELS), tested)
    for name in methods:
        np.testing.assert_allclose(honest[name][0, places], lied[name][0, places], atol=1e-6)
        assert np.abs(honest[name] - lied[name]).max() > 1e-4


def test_a_fold_never_sees_the_pixels_that_it_tests(samples):
    """Scaling and components are those of the training subjects, whatever is tested."""
    strange = IMAGES.copy()
    strange[SUBJECTS == "s00"] = 0.9
    other = labelled_samples(SUBJECTS, LABELS, read=lambda rows: strange[rows])
    first, second = (
        cross_validate(s, [SPLIT], methods=["linear pixels"], **SMALL).probabilities[
            "linear pixels"
        ][0]
        for s in (samples, other)
    )
    companions = [1, 6, 7]  # tested in the same fold as s00
    np.testing.assert_allclose(first[companions], second[companions], atol=1e-9)
    assert np.abs(first[0] - second[0]).max() > 1e-4


def test_files_give_what_one_run_gives(encoded, tmp_path):
    rows = []
    for subject in sorted(LABELS):
        np.save(tmp_path / f"{subject}_T1w.npy", encoded.codes[subject == SUBJECTS].astype("int32"))
        rows.append({"name": f"{subject}_T1w", "subject": subject, "file": "scan.nii.gz"})
    pd.DataFrame([*rows, {**rows[0], "subject": "nobody"}]).to_csv(
        tmp_path / "scans.tsv", sep="\t", index=False
    )
    people = pd.DataFrame({"participant_id": [f"sub-{s}" for s in LABELS], "g": LABELS.values()})
    people.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    files = samples_from_files(tmp_path, f"{tmp_path}/participants.tsv:g", encoded.codebook)
    np.testing.assert_array_equal(files.codes, encoded.codes)
    one = cross_validate(files, [SPLIT], **SMALL)
    assert tuple(one.probabilities) == ("codes", "linear codes")
    both = cross_validate(encoded, [SPLIT], methods=("codes", "linear codes"), **SMALL)
    for name in one.probabilities:
        np.testing.assert_array_equal(one.probabilities[name], both.probabilities[name])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "scans.tsv").unlink(), r"scans\.tsv: cannot be read"),
        (lambda f: (f / "scans.tsv").write_text("file\nx\n"), "no column name, found file"),
        (lambda f: (f / "a.npy").unlink(), r"a\.npy: cannot be read"),
        (lambda f: (f / "a.npy").write_bytes(b"no"), r"a\.npy: cannot be read"),
        (lambda f: np.save(f / "a.npy", np.zeros((2, 3, 3))), "found float64 of shape"),
        (lambda f: np.save(f / "b.npy", np.zeros((2, 4, 3), int)), "4 x 3 codes; expected 3 x 3"),
        (lambda f: np.save(f / "a.npy", np.full((2, 3, 3), 9)), r"a\.npy: codes: found 9 to 9"),
        (lambda f: (f / "scans.tsv").write_text("name\tsubject\nq\tq\n"), "no code file"),
    ],
)
def test_bad_code_files(spoil, message, tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3, 3), int))
    (tmp_path / "scans.tsv").write_text("name\tsubject\na\ta\nb\tb\n")
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        samples_from_files(tmp_path, {"a": "x", "b": "y"}, np.zeros((8, 2)))


@pytest.mark.parametrize("method", classify.NETWORKS)
def test_a_final_classifier_is_kept_and_predicts_new_subjects(method, encoded, model, tmp_path):
    path = tmp_path / "classifier.keras"
    trained = train_final(encoded, method, path, model=model, **LONG)
    assert trained.class_names == ("a", "b")
    loaded = keras.saving.load_model(path)
    given = {"codes": encoded.codes} if method == "codes" else {"read": lambda rows: IMAGES[rows]}
    table = predict_subjects(loaded, SUBJECTS, **given, batch_size=8)
    assert list(table["subject"]) == sorted(LABELS)
    assert np.mean(table["predicted"] == table["subject"].map(LABELS)) >= 0.75
    again = predict_subjects(trained, SUBJECTS, **given, batch_size=5)
    np.testing.assert_allclose(table["p(b)"], again["p(b)"], rtol=1e-4)
    with pytest.raises(ValueError, match="needs"):
        predict_subjects(loaded, SUBJECTS)


def test_each_subject_and_each_class_counts_alike(encoded, monkeypatch):
    """The weights of a step's samples, whatever the numbers of slices and subjects."""
    keep = (SUBJECTS != "s01") & (SUBJECTS != "s03")
    keep[np.flatnonzero(SUBJECTS == "s00")[1:]] = False  # one slice only
    rows = np.flatnonzero(keep)
    uneven = labelled_samples(
        SUBJECTS[rows], LABELS, codes=encoded.codes[rows], codebook=encoded.codebook
    )
    names, of_sample = np.unique(uneven.subjects, return_inverse=True)
    settings = classify.ClassifierSettings(epochs=1, filters=(4,), batch_size=100)
    network = classify_methods.make_method("codes", uneven, names, of_sample, None, settings)
    network.start(0, np.full(len(rows), -1))
    seen = {}
    monkeypatch.setattr(
        network.network,
        "train_on_batch",
        lambda x, y, sample_weight: seen.update(y=y, w=sample_weight),
    )
    network.fit(np.arange(len(names)), (0, 0))
    assert seen["w"].mean() == pytest.approx(1)
    totals = np.bincount(seen["y"], seen["w"])
    assert totals[0] == pytest.approx(totals[1])
    per_subject = np.bincount(of_sample, seen["w"])
    for value in (0, 1):
        same = per_subject[[LABELS[name] == "ab"[value] for name in names]]
        np.testing.assert_allclose(same, same[0], rtol=1e-5)


def test_area_averages_are_exact():
    x = np.random.default_rng(0).random((2, 128, 96, 1))
    expected = x.reshape(2, 64, 2, 96, 1).mean(axis=2)
    averaged = classify_methods._averaged(x)
    assert averaged.shape == (2, 64, 64, 1)
    np.testing.assert_allclose(averaged.mean(axis=2), expected.mean(axis=2), rtol=1e-5)
    np.testing.assert_allclose(classify_methods._area_matrix(100).sum(axis=1), 1, rtol=1e-5)


class TestWrongCalls:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"methods": ["codes"]}, "method 'codes' needs codes"),
            ({"methods": ["forest"]}, "found 'forest'"),
            ({"methods": ["encoder"]}, "method 'encoder' needs codes"),
            ({"methods": []}, "none that can run"),
        ],
    )
    def test_methods(self, samples, options, message):
        with pytest.raises(UserError, match=message):
            cross_validate(samples, [SPLIT], **options)

    def test_methods_without_pixels(self, encoded, model):
        alone = classify.dataclasses.replace(encoded, read=None)
        with pytest.raises(UserError, match="method 'pixels' needs images"):
            cross_validate(alone, [SPLIT], methods=["pixels"])
        with pytest.raises(UserError, match="method 'encoder' needs the trained model"):
            cross_validate(encoded, [SPLIT], methods=["encoder"])
        with pytest.raises(UserError, match="expected one of codes, encoder, pixels"):
            train_final(encoded, "linear codes")

    def test_splits(self, encoded):
        for splits, message in (
            ([], r"splits=\[\]"),
            ([SPLIT[1:]], r"\(35,\)"),
            ([np.arange(36) % 3], "in two folds"),
        ):
            with pytest.raises(ValueError, match=message):
                cross_validate(encoded, splits)

    def test_sides_that_the_encoder_cannot_halve(self, encoded, model):
        odd = classify.dataclasses.replace(encoded, read=lambda rows: IMAGES[rows][:, :15])
        with pytest.raises(UserError, match="found 15 x 16 pixels; expected sides that 4 x 4"):
            train_final(odd, "encoder", model=model)

    def test_no_labels(self):
        with pytest.raises(UserError, match="none of the subjects has one"):
            labelled_samples(["x"], {"y": "a"})


class TestLabels:
    @pytest.fixture
    def people(self, tmp_path):
        path = tmp_path / "participants.tsv"
        ages = range(20, 34)
        lines = [f"sub-{n:02d}\t{age}\t{'MS' if n % 2 else 'HC'}" for n, age in enumerate(ages)]
        path.write_text("participant_id\tage\tgroup\n" + "\n".join(lines) + "\nsub-90\tn/a\tn/a\n")
        return path

    def test_classes_by_either_name_of_a_subject(self, people):
        labels = read_labels(f"{people}:group", ["00", "sub-01"])
        assert labels.to_dict() == {"00": "HC", "sub-01": "MS"}

    @pytest.mark.parametrize(
        ("sign", "classes"),
        [
            (">", ("age<=21", "age<=21", "age>21")),
            (">=", ("age<21", "age>=21", "age>=21")),
            ("<", ("age<21", "age>=21", "age>=21")),
            ("<=", ("age<=21", "age<=21", "age>21")),
        ],
    )
    def test_a_number_cut_in_two(self, people, sign, classes):
        labels = read_labels(f"{people}:age{sign}21", ["00", "01", "02"])
        assert tuple(labels) == classes

    def test_those_without_are_named_and_left_out(self, people, caplog):
        with caplog.at_level(logging.WARNING, "brainvq"):
            labels = read_labels(f"{people}:group", ["00", "90", "77"])
        assert list(labels.index) == ["00"]
        assert "2 of 3 subjects have no group and are left out: 90, 77" in caplog.text

    def test_first_column_of_a_csv(self, tmp_path):
        (tmp_path / "people.csv").write_text("code,group\n1,x\n2,y\n")
        assert list(read_labels(f"{tmp_path}/people.csv:group", ["1", "2"])) == ["x", "y"]

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("nothing", "expected FILE:COLUMN"),
            ("{folder}/gone.tsv:group", r"gone\.tsv: no such file"),
            ("{people}:sex", "no column 'sex'; found participant_id, age, group"),
            ("{people}:sex>3", "no column 'sex'; found"),
            ("{people}:age>x", "found 'x' after >"),
            ("{people}:group>3", "column group holds 'HC'; expected numbers"),
            ("{people}:age", r"holds 14 different numbers; .*participants\.tsv:age>26\.5"),
            ("{twice}:group", "subject 1 has x and y in column group"),
        ],
    )
    def test_mistakes(self, people, tmp_path, where, message):
        twice = tmp_path / "twice.csv"
        twice.write_text("subject,group\n1,x\n1,y\n")
        subjects = ["1"] if "twice" in where else [f"{n:02d}" for n in range(14)]
        with pytest.raises(UserError, match=message):
            read_labels(where.format(folder=tmp_path, people=people, twice=twice), subjects)

    def test_nobody_found(self, people):
        with pytest.raises(UserError, match=r"none of 1 subjects \(x\).*sub-00, sub-01, sub-02"):
            read_labels(f"{people}:group", ["x"])


def test_a_result_with_repeats_has_one_table():
    result = CrossValidation(
        np.array(["x", "y"]),
        np.array([0, 1]),
        ("a", "b"),
        {"codes": np.array([[[0.8, 0.2], [0.4, 0.6]], [[0.6, 0.4], [0.2, 0.8]]])},
        {},
        {},
    )
    np.testing.assert_allclose(result.table()["p(a)"], [0.7, 0.3])
