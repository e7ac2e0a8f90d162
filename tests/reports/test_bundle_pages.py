import pandas as pd
import pytest

from brainvq.reports.bundle_pages import bundles_card, bundles_report
from brainvq.reports.figures import code_usage_bars
from brainvq.reports.html import write_report
from brainvq.reports.model_card import write_model_card

MEASURES = {
    "buan": 0.91,
    "mse": 2.5e-4,
    "distance": 0.0123,
    "closest": 0.0111,
    "buan_mm": 0.97,
    "distance_mm": 1.23,
    "closest_mm": 1.11,
}
WORSE = {**MEASURES, "buan": 0.71}
MM = ("buan_mm", "distance_mm", "closest_mm")
SUBJECTS = pd.DataFrame([{"subject": "01", "streamlines": 60.5, **MEASURES, "distance_mm": 7.77}])


def about(bottleneck="ema"):
    return {
        "brainvq": "0.1",
        "keras": "3",
        "backend": "tensorflow",
        "command": "python train.py streamlines",
        "steps": [{"name": "GroupStreamlines", "points": 64, "size": 64}],
        "study": {
            "name": "streamlines",
            "variant": "best",
            "seed": 3,
            "data": {"source": "tractoinferno", "bundles": ["MCP", "PYT_L"]},
            "model": {"bottleneck": bottleneck, "num_codes": 512},
        },
    }


def bundle(name, **changes):
    spread = {f"{key}_sd": value / 10 for key, value in MEASURES.items()}
    return {"bundle": name, "samples": 5, "streamlines": 310, **MEASURES, **spread, **changes}


def classified(features, numbers, share, groups=4):
    return {
        "features": features,
        "numbers": numbers,
        "accuracy": share,
        "balanced_accuracy": share,
        "samples": 10,
        "groups": groups,
        "folds": 2,
    }


def metrics(without=(), **changes):
    usage = {"used": 500, "fraction": 500 / 512, "entropy_bits": 8.2, "perplexity": 301.5}
    all_measures = {
        "test_subjects": 4,
        "one_person": False,
        "test_samples": 10,
        "test_streamlines": 12345,
        "simulated": False,
        "scale_mm": 100.0,
        "streamlines": 64,
        "points": 64,
        "reconstruction": MEASURES,
        "bundles": [bundle("MCP"), bundle("PYT_L", buan=0.87)],
        "bits_per_streamline": 36.0,
        "numbers_per_streamline": 16.0,
        "robustness": {
            "area": 0.432,
            "curve": [
                {"epsilon": 0.0, "buan": 0.91, "buan_sd": 0.02, "mse": 2e-4, "mse_sd": 1e-5},
                {"epsilon": 1.0, "buan": 0.11, "buan_sd": None, "mse": 0.3, "mse_sd": None},
            ],
        },
        "classification": [
            classified("coordinates", 12288, 0.9),
            classified("latents", 1024, 0.8),
            classified("codes", 2048, 0.7),
            classified("chance", 0, 0.5),
        ],
        "codecs": {"residual k-means, 36 bits": WORSE, "local PCA and scalar, 36 bits": WORSE},
        "parameters": {"autoencoder": 123456},
        "codes": [{"depth": i, **usage} for i in (1, 2, 3, 4)],
        "num_codes": 512,
        "grid": [64, 1, 4],
        "prior": {
            "bits_per_code": 6.25,
            "of_which_level": 0.014,
            "neighbour_tables": 7.5,
            "marginal": 8.5,
            "uniform": 9.0,
            "below_neighbour_tables": 1 / 6,
            "bits_per_bundle": 1600.0,
        },
        "samples": {
            "count": 24,
            "shapes": [
                {
                    "measure": "curvature",
                    "unit": "1/mm",
                    "real": 0.021,
                    "real_sd": 0.01,
                    "generated": 0.019,
                    "generated_sd": 0.01,
                    "difference": -0.2,
                    "ks": 0.11,
                }
            ],
            "distance_to_training": 0.05,
            "distance_of_unseen_to_training": 0.06,
        },
        **changes,
    }
    return {name: value for name, value in all_measures.items() if name not in without}


def continuous(**changes):
    """Measures of a model without bits."""
    without = ("codes", "num_codes", "grid", "prior", "samples")
    options = {"bits_per_streamline": None, "numbers_per_streamline": 256.0, **changes}
    return metrics(without=without, **options)


def in_units():
    """Measures where what a unit is in mm is not known."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith(MM)}
        for row in (bundle("MCP"), bundle("PYT_L"))
    ]
    codecs = {
        "residual k-means, 36 bits": {key: MEASURES[key] for key in MEASURES if key not in MM}
    }
    known = {key: value for key, value in MEASURES.items() if key not in MM}
    return metrics(scale_mm=None, reconstruction=known, bundles=rows, codecs=codecs)


def text_of(tmp_path, measured, study=None, figures=None, **options):
    known = [
        name for name in SUBJECTS if name not in MEASURES or name in measured["reconstruction"]
    ]
    report = bundles_report(study or about(), measured, SUBJECTS[known], figures or {}, **options)
    return write_report(tmp_path / "r.html", report).read_text(encoding="utf-8")


def test_what_a_reader_looks_for_is_there(tmp_path):
    text = text_of(tmp_path, metrics(), timings={"data": 2.0})
    for words in (
        "tracts (tractoinferno)",
        "4 test subjects",
        "12\u202f345 streamlines",
        "0.910 ± 0.028",
        "mean ± sd of 2 bundles",
        "2.50e-4",
        "1.23 mm",
        "below 0.05 units (5.0 mm)",
        "a unit is 100 mm",
        "4 codes out of 512, 36 bits; the reconstruction is made from these alone",
        "123\u202f456 weights",
        "at the same bits",
        "residual\u00a0k-means",
        "0.7100",
        "0.9100\u00a0± 0.0910",
        ">7.770<",
        "told from",
        "Folds are made of people",
        "always the most frequent bundle",
        "through codes",
        "0.432",
        "4 codes out of 512 for each of 64 streamlines",
        "500 of 512",
        "mean of 4 stages",
        "6.25 bits",
        "17 % fewer than the mixed tables, 1600 bits a group: 25.0 bits a streamline instead of 36",
        "what naming it costs is in its figure (0.014 a code)",
        "0.0500 units (5.0 mm) for samples and 0.0600 units (6.0 mm) for unseen",
        "1/mm",
        "GroupStreamlines(points=64, size=64)",
        "--data.bundles",
    ):
        assert words in text, words
    for words in ("simulated", "Nothing is compressed", "one person", "brain", 'role="note"'):
        assert words not in text.replace("brainvq", ""), words
    assert text.count("distance (mm)") == 3  # never beside the same in units
    assert "distance (units)" not in text


@pytest.mark.parametrize(
    ("bottleneck", "why"),
    [("gumbel", "sums of all codes"), ("identity", "An autoencoder has no codes"), ("psom", "")],
)
def test_nothing_is_compressed(tmp_path, bottleneck, why):
    study, measured = about(bottleneck), continuous()
    text = text_of(tmp_path, measured, study)
    assert text.count("Nothing is compressed into bits") == 2  # above all, and with the measures
    assert "256 float numbers, and has 192 itself (64 points of 3): more than went in" in text
    assert why in text
    assert "no match on equal terms" in text
    assert ("through sums of codes" in text) == (bottleneck == "gumbel")
    for words in ("Use of the codebook", "<h2>Prior", "<h2>New bundles", "made from these alone"):
        assert words not in text, words
    card = bundles_card(study, measured, split={"train": 1}, data_facts={})
    assert card.bits is None
    assert card.codes == ""
    assert card.limitations[0].startswith("Nothing is compressed")


def test_fewer_numbers_are_no_bits_either(tmp_path):
    text = text_of(tmp_path, continuous(numbers_per_streamline=16.0), about("identity"))
    assert "16 float numbers, and has 192 itself (64 points of 3)." in text
    assert "more than went in" not in text


def test_codes_that_are_not_decoded(tmp_path):
    measured = metrics(without=("prior", "samples"), bits_per_streamline=None)
    text = text_of(tmp_path, measured, about("psom"))
    assert "The decoder does not read them" in text
    assert "vectors, not their codes" in text
    card = bundles_card(about("psom"), measured, split={"train": 1}, data_facts={})
    assert card.codes.endswith("they are not decoded")


def test_one_person_is_said_above_all(tmp_path):
    rows = [classified("latents", 1024, 0.8, groups=10), classified("chance", 0, 0.5, groups=10)]
    measured = metrics(one_person=True, test_subjects=1, classification=rows)
    text = text_of(tmp_path, measured)
    assert text.index("That flatters") < text.index("<h2>")
    assert "Folds are made of groups of streamlines" in text
    assert "Each test subject" not in text
    split = {"train": 40, "validation": 5, "test": 10}
    card = bundles_card(about(), measured, split=split, data_facts={})
    assert card.split == {}  # groups are no subjects
    assert "40 train, 5 validation, 10 test" in card.split_rule
    assert "That flatters" in card.limitations[0]


def test_simulated_bundles_are_called_so(tmp_path):
    text = text_of(tmp_path, metrics(simulated=True), note="made up", failures=["a: b"])
    for words in ("These bundles are simulated", "on simulated bundles", "made up", "a: b"):
        assert words in text, words
    assert "simulated on a template" not in text


def test_units_that_are_not_known_in_mm(tmp_path):
    measured = in_units()
    text = text_of(tmp_path, measured)
    assert "in mm is not known" in text
    assert "1/unit" in text
    assert "0.0500 units for samples" in text
    for words in (" mm)", "BUAN, 6 mm", "dipy"):
        assert words not in text, words
    card = bundles_card(about(), measured, split={"train": 1}, data_facts={})
    assert "in mm is not known" in card.channels
    assert not any("mm" in label for label in card.measures["measure"])


def test_codecs_at_about_as_many_bits(tmp_path):
    text = text_of(tmp_path, metrics(bits_per_streamline=20.0))
    assert "at about as many bits" in text


@pytest.mark.parametrize(
    ("stages", "grid", "words"),
    [(1, [16, 16], "16 x 16 codes out of 512"), (2, [16, 16, 2], "16 x 16 cells of 2 codes")],
)
def test_codes_of_neighbouring_streamlines(tmp_path, stages, grid, words):
    measured = metrics(codes=metrics()["codes"][:stages], grid=grid)
    text = text_of(tmp_path, measured)
    assert words in text
    assert f"{4 * stages} codes out of 512, 36 bits" in text
    assert ("stages" in text) == (stages > 1)


def test_a_bundle_with_a_single_group(tmp_path):
    alone = {f"{key}_sd": None for key in MEASURES}
    text = text_of(tmp_path, metrics(bundles=[bundle("MCP", **alone)]))
    assert "nan" not in text.lower().replace("finance", "")
    assert ">0.910<" in text  # the card has no spread


def test_too_few_samples_to_classify(tmp_path):
    measured = metrics(classification=[])
    assert "<h2>Latents" not in text_of(tmp_path, measured)
    path = code_usage_bars([3, 2, 1], tmp_path / "f.png")
    assert "<h2>Latents" in text_of(tmp_path, measured, figures={"tsne": path})


def test_figures_that_are_there_are_shown(tmp_path):
    path = code_usage_bars([3, 2, 1], tmp_path / "f.png")
    captions = {
        "originals": "All bundles of a subject",
        "restored": "after encoding and decoding",
        "bundle": "before and after",
        "scores": "Hollow dots",
        "tsne": "a point is a group",
        "robustness": "as noise grows",
        "perturbation": "decoded from its vectors with noise",
        "usage": "in the first stage",
        "prior": "Bits per code while training",
        "generated": "New bundles above",
        "losses": "Loss per epoch",
    }
    text = text_of(tmp_path, metrics(), figures=dict.fromkeys(captions, path))
    assert text.count("<img") == len(captions)
    for caption in captions.values():
        assert caption in text, caption


def test_card(tmp_path):
    facts = {"data_name": "TractoInferno", "data_licence": "CC0"}
    card = bundles_card(about(), metrics(), split={"train": 14, "test": 4}, data_facts=facts)
    text = write_model_card(tmp_path / "card.md", card).read_text(encoding="utf-8")
    for words in (
        "TractoInferno",
        "18 (14 train, 4 test)",
        "by subject, seed 3",
        "(64, 64, 3)",
        "GroupStreamlines(points=64, size=64)",
        "scale.json, divided by 100 mm",
        "a unit is 100 mm",
        "RAS+",
        "4 codes out of 512 for each of 64 streamlines",
        "2304",
        "| BUAN, threshold 0.05 units | 0.9100 | 0.02828 |",
        "MCP, PYT_L; of other bundles nothing is known",
        "bundles of no person",
    ):
        assert words in text, words
    for words in ("Intensity:", "SSIM", "flatters", "compressed"):
        assert words not in text, words
