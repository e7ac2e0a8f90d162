import pandas as pd
import pytest

from brainvq.reports.figures import code_usage_bars, loss_curves
from brainvq.reports.html import write_report
from brainvq.reports.model_card import write_model_card
from brainvq.reports.volumes import volumes_card, volumes_report

MEASURE = {"mean": 0.9, "sd": 0.01, "n": 4}
SIMILARITY = {
    name: MEASURE for name in ("ssim", "ssim_foreground", "psnr", "psnr_foreground", "mse")
}
WORSE = {name: {**MEASURE, "mean": 0.7} for name in SIMILARITY}
USAGE = {"num_codes": 256, "used": 200, "fraction": 200 / 256, "perplexity": 70.0}
QUANTIZATION = {"quantization_error": 1.5, "quantization_mse": 0.07, "vectors": 3564}
SUBJECTS = pd.DataFrame({"subject": ["01"], "ssim": [0.9]})


def about(**model):
    return {
        "brainvq": "0.1",
        "keras": "3",
        "backend": "tensorflow",
        "command": "python train.py som3d",
        "steps": [{"name": "ZScore", "over": "all"}],
        "study": {
            "name": "som3d",
            "variant": "best",
            "seed": 3,
            "data": {
                "source": "oasis1",
                "shape": [144, 176, 144],
                "spacing": 1.0,
                "scale": "zscore",
            },
            "model": {"num_codes": 256, "skips": False, **model},
        },
    }


def metrics(without=(), **changes):
    all_measures = {
        "test_subjects": 4,
        "simulated": False,
        "ssim_settings": {"window": "uniform"},
        "reconstruction": SIMILARITY,
        "continuous_reconstruction": WORSE,
        "bits_per_volume": 7128.0,
        "grid": [9, 11, 9],
        "stride": 16,
        "parameters": {"autoencoder": 123456},
        "patch_kmeans": WORSE,
        "codes": {"validation": USAGE, "test": USAGE},
        "som": {
            "neighbour_correlation": {
                "mean": 0.97,
                "median": 0.98,
                "min": 0.5,
                "share_above": 0.9,
                "all_pairs": 0.11,
                "pairs": 512,
            },
            **QUANTIZATION,
            "topographic_error": 0.125,
            "nodes_used": 200,
        },
        "tissue": {
            "nmi": 0.41,
            "bits": 0.7,
            "explained": 0.5,
            "voxels": 1234567,
            "position": {"nmi": 0.33, "bits": 0.6, "explained": 0.4},
        },
        "prior": {
            "bits_per_code": 1.9,
            "neighbour_tables": 2.4,
            "marginal": 4.1,
            "uniform": 8.0,
            "below_neighbour_tables": 0.2,
            "bits_per_volume": 1693.0,
            "validation_quantiles": {"0.5": 1.0},
        },
        "samples": {
            "count": 8,
            "distance_to_training": 0.1,
            "distance_of_unseen_to_training": 0.1,
        },
        **changes,
    }
    return {name: value for name, value in all_measures.items() if name not in without}


def text_of(tmp_path, measured, study=None, figures=None, **options):
    report = volumes_report(study or about(), measured, SUBJECTS, figures or {}, **options)
    return write_report(tmp_path / "r.html", report).read_text(encoding="utf-8")


def test_what_a_reader_looks_for_is_there(tmp_path):
    text = text_of(tmp_path, metrics(), timings={"data": 2.0})
    for words in (
        "0.900 ± 0.010",
        "SSIM, 3D",
        "SSIM, whole volume",
        "scans (oasis1)",
        "123\u202f456 weights",
        "891 codes out of 256, 7128 bits; the reconstruction is made from these alone",
        "not quantised",
        "patch k-means",
        "200 of 256",
        "r 0.97",
        "any two nodes: 0.11",
        "topographic error",
        "0.1250",
        ">512<",
        "NMI 0.41",
        "place alone: 0.33",
        "1\u202f234\u202f567 voxels of tissue",
        "1.90 bits",
        "20 % fewer than the mixed tables, 1693 bits a volume",
        "8 volumes of codes",
        "ZScore(over=all)",
        "--data.shape",
    ):
        assert words in text, words
    for words in ("simulated brains", "whole image", "slice", "is not made from codes"):
        assert words not in text, words


@pytest.mark.parametrize(
    ("model", "why"),
    [({}, "vectors as they are"), ({"skips": True}, "also reads the encoder&#39;s finer levels")],
)
def test_reconstructions_that_are_not_made_from_codes(tmp_path, model, why):
    measured = metrics(bits_per_volume=None, without=("prior", "samples"))
    text = text_of(tmp_path, measured, about(**model))
    assert text.count("not made from codes") == 2  # above all, and where the measures are
    assert why in text
    assert "made from these alone" not in text
    assert "Bits a volume" not in text
    assert "200 of 256" in text
    card = volumes_card(about(**model), measured, split={"train": 1}, data_facts={})
    assert card.bits is None
    assert card.codes.endswith("the decoder does not read them")
    assert "not made from codes" in card.limitations[0]


def test_without_codes(tmp_path):
    measured = metrics(
        bits_per_volume=None,
        without=("codes", "grid", "stride", "som", "tissue", "prior", "samples", "patch_kmeans"),
    )
    text = text_of(tmp_path, measured)
    assert "This variant has no codes" in text
    for words in (
        "Use of the codebook",
        "The map",
        "The codebook",
        "Codes in the brain",
        "warning",
    ):
        assert f">{words}<" not in text
    assert 'role="note"' not in text
    card = volumes_card(about(), measured, split={"train": 1}, data_facts={})
    assert card.codes == card.shape_rule == ""


def test_a_codebook_without_a_map(tmp_path):
    text = text_of(tmp_path, metrics(som=QUANTIZATION))
    assert "<h2>The codebook</h2>" in text
    assert "1.500" in text
    for words in ("opographic", "Pearson", "Neighbours on the map"):
        assert words not in text


def test_scans_have_no_known_tissue(tmp_path):
    assert "Codes in the brain" not in text_of(tmp_path, metrics(without=("tissue",)))
    tissue = {"nmi": 0.4, "bits": 0.7, "explained": 0.5, "voxels": 10}
    text = text_of(tmp_path, metrics(tissue=tissue, simulated=True))
    assert "place of the code alone" not in text
    assert "These brains are simulated" in text


def test_figures_that_are_there_are_shown(tmp_path):
    path = code_usage_bars([3, 2, 1], tmp_path / "f.png")
    captions = {
        "reconstructions": "what its codes decode to",
        "continuous": "from the vectors before they become codes",
        "subjects": "SSIM of each test subject",
        "usage": "How often each code",
        "som_grid": "ridges part groups",
        "tsne": "it has drifted away",
        "brain_on_grid": "in the colours of the map",
        "locations": "the most used codes are found",
        "prior": "Bits per code while training",
        "samples": "Samples in three planes",
        "nearest": "the training volume nearest to each",
        "losses": "Loss per epoch",
        "ssim": "SSIM of validation subjects",
    }
    text = text_of(tmp_path, metrics(), figures=dict.fromkeys(captions, path))
    assert text.count("<img") == len(captions)
    for caption in captions.values():
        assert caption in text, caption


def test_card(tmp_path):
    facts = {"data_name": "OASIS-1", "data_licence": "its own"}
    card = volumes_card(about(), metrics(), split={"train": 14, "test": 4}, data_facts=facts)
    text = write_model_card(tmp_path / "card.md", card).read_text(encoding="utf-8")
    for words in (
        "OASIS-1",
        "18 (14 train, 4 test)",
        "(144, 176, 144, 1), voxels of 1 mm",
        "mean 0 and standard deviation 1",
        "9 x 11 x 9 codes out of 256",
        "16 voxels",
        "7128",
        "Samples are no real persons",
    ):
        assert words in text, words
    assert "Intensity:" not in text


def test_losses_of_maps_have_their_panels():
    names = (
        "reconstruction_loss",
        "continuous_reconstruction_loss",
        "commitment_loss",
        "neighbourhood_loss",
        "clustering_loss",
        "kl_loss",
        "kl_loss_2",
        "loss",
    )
    history = pd.DataFrame({name: [2.0**i, 1.0] for i, name in enumerate(names)})
    held = (history / 2).add_prefix("val_")
    figure = loss_curves(pd.concat([history, held], axis=1), None)
    drawn = {
        ax.get_title(): [line.get_ydata()[0] for line in ax.lines] for ax in figure.axes if ax.lines
    }
    assert drawn == {
        "Reconstruction": [1, 0.5],
        "Reconstruction, not quantised": [2, 1],
        "VQ": [4, 2],
        "Map (neighbourhood + clustering)": [8 + 16, 4 + 8],
        "KL": [32 + 64, 16 + 32],
        "Total": [128, 64],
    }
