import pandas as pd

from brainvq.reports.html import write_report
from brainvq.reports.model_card import write_model_card
from brainvq.reports.run_pages import settings_section
from brainvq.reports.slices import slices_card, slices_report

MEASURE = {"mean": 0.9, "sd": 0.01, "n": 4}
SIMILARITY = {
    name: MEASURE for name in ("ssim", "ssim_foreground", "psnr", "psnr_foreground", "mse")
}
ABOUT = {
    "brainvq": "0.1",
    "keras": "3",
    "backend": "tensorflow",
    "command": "python train.py",
    "steps": [{"name": "Canonical", "axcodes": "LPS"}],
    "study": {
        "name": "oasis2d",
        "variant": "best",
        "seed": 3,
        "data": {"source": "bids", "size": 128, "slice_margin": [5.0, 5.0]},
        "model": {"num_codes": 512},
    },
}
SUBJECTS = pd.DataFrame({"subject": ["01"], "ssim": [0.9]})


def metrics(**changes):
    usage = {"num_codes": 512, "used": 500, "fraction": 500 / 512, "perplexity": 170.0}
    return {
        "test_subjects": 4,
        "test_slices": 250,
        "simulated": False,
        "ssim_settings": {"window": "uniform"},
        "reconstruction": SIMILARITY,
        "patch_kmeans": SIMILARITY,
        "bits_per_slice": 2304.0,
        "grid": [16, 16],
        "stride": 8,
        "codes": {"validation": usage, "test": usage},
        "prior": {
            "bits_per_code": 3.3,
            "neighbour_tables": 4.4,
            "marginal": 7.0,
            "uniform": 9.0,
            "below_neighbour_tables": 0.25,
            "bits_per_slice": 845.0,
            "of_which_level": 0.016,
        },
        "samples": {"distance_to_training": 0.1, "distance_of_unseen_to_training": 0.1},
        **changes,
    }


def text_of(tmp_path, measured, **options):
    report = slices_report(ABOUT, measured, SUBJECTS, {}, **options)
    return write_report(tmp_path / "r.html", report).read_text(encoding="utf-8")


def test_what_a_reader_looks_for_is_there(tmp_path):
    text = text_of(tmp_path, metrics(), timings={"data": 2.0})
    for words in (
        "0.900 ± 0.010",
        "500 of 512",
        "3.30 bits",
        "25 % fewer than the mixed tables",
        "--data.slice-margin",
        "Canonical(axcodes=LPS)",
        "patch k-means",
        "4 test subjects that",
    ):
        assert words in text
    assert "simulated" not in text


def test_a_prior_that_is_worse_is_said_to_be_worse(tmp_path):
    prior = {**metrics()["prior"], "below_neighbour_tables": -0.5}
    assert "50 % more than the mixed tables" in text_of(tmp_path, metrics(prior=prior))


def test_simulated_and_left_out_scans_are_warned_of(tmp_path):
    text = text_of(tmp_path, metrics(simulated=True), failures=["sub-3: <broken>"], note="A note.")
    assert "simulated on a template" in text
    assert "1 scans were left out: sub-3: &lt;broken&gt;" in text
    assert "A note." in text


def test_without_codes_and_prior(tmp_path):
    measured = metrics(bits_per_slice=None)
    for name in ("codes", "prior", "samples", "patch_kmeans", "grid", "stride"):
        del measured[name]
    text = text_of(tmp_path, measured)
    assert "Use of the codebook" not in text
    assert "Held-out bits" not in text
    card = slices_card(ABOUT, measured, split={"train": 1}, data_facts={})
    assert card.codes == ""


def test_card(tmp_path):
    facts = {"data_name": "ds002748", "data_licence": "CC0"}
    card = slices_card(ABOUT, metrics(), split={"train": 14, "test": 4}, data_facts=facts)
    text = write_model_card(tmp_path / "card.md", card).read_text(encoding="utf-8")
    for words in ("CC0", "18 (14 train, 4 test)", "seed 3", "16 x 16 codes out of 512", "2304"):
        assert words in text


def test_transfer_is_a_section_with_each_matrix_and_model():
    from brainvq.reports.slices import _shape_rule, _transfer

    measure = {"mean": 0.9, "sd": 0.01, "n": 3}
    rows = [
        {"matrix": matrix, "model": model, **dict.fromkeys(["ssim", "ssim_foreground"], measure)}
        | {"psnr": {"mean": 30.0, "sd": 1.0, "n": 3}}
        for matrix in ("native", "320 x 320")
        for model in ("model", "patch k-means")
    ]
    section = _transfer({"transfer": rows}, {})
    ((_, table),) = section.tables
    assert list(table["matrix"]) == ["native", "native", "320 x 320", "320 x 320"]
    assert list(table["PSNR, whole image (dB)"]) == [30.0] * 4
    assert _transfer({}, {}) is None
    assert _shape_rule({"data": {"spacing": None}}, {"stride": 8}).startswith("any size")
    assert "8 pixels" in _shape_rule({"data": {"spacing": 1.5}}, {"stride": 8})


def test_anatomy_of_draws_has_a_table_and_hides_what_was_drawn(tmp_path):
    import numpy as np

    from brainvq.reports.figures import numbered_pictures

    found = {"people": 3, "slices": 200, "drawn": 64, "left_out": {"control": "3 people <4>"}}
    found["draws"] = {"near": 0.85, "c2st": 0.666}
    samples = {
        **metrics()["samples"],
        "anatomy": found,
        "lineup": {"pictures": 5, "drawn": [2, 5]},
    }
    assert "Which were drawn?" not in text_of(tmp_path, metrics(samples=samples))
    picture = numbered_pictures(np.random.default_rng(0).random((5, 9, 8)), tmp_path / "l.png")
    report = slices_report(ABOUT, metrics(samples=samples), SUBJECTS, {"lineup": picture})
    text = write_report(tmp_path / "r.html", report).read_text(encoding="utf-8")
    for words in (
        "shuffled halves",
        "0.6660",
        "control: 3 people &lt;4&gt;",
        "<details><summary>Which were drawn?</summary><p>Drawn: 2, 5.",
        "64 new slices beside 200 of 3 unseen people",
    ):
        assert words in text
    assert "pass for real ones" not in text_of(tmp_path, metrics())


def test_settings_show_what_differs_from_the_preset():
    study = {"seed": 3, "train": {"epochs": 5, "shares": [0.7, 0.3]}}
    about = {"study": study, "steps": [], "command": "brainvq train"}
    preset = {"seed": 0, "train": {"epochs": 5, "shares": (0.7, 0.3)}}
    caption, table = settings_section(about | {"preset": preset}).tables[0]
    assert caption == "Options that differ from the preset"
    assert table.to_dict("records") == [{"option": "--seed", "value": "3", "preset": "0"}]
    section = settings_section(about | {"preset": study})
    assert section.text.endswith("All options are the preset's.")
    assert len(section.tables) == 2
    assert len(settings_section(about).tables) == 2
