"""The table of several runs on volumes, beside what Kapre reports of the same variants."""

import pandas as pd

from brainvq.files import write_csv
from brainvq.reports import som
from brainvq.studies.som3d import PUBLISHED

LEGEND = (
    "SSIM: 3D, 7x7x7 window, data range 1; mean and sd over test subjects; fg: foreground. "
    "Continuous: SSIM of what the vectors decode to before they become codes, whole and fg. "
    "Codes: used by test subjects, by all, and how many there are. Published: validation "
    "subjects, and codes of one training image"
)


def compare_volumes(runs, metrics, log):
    """Writes `similarity.csv` and `similarity.png` beside the runs: a row for each.

    Args:
        runs: list of `LoadedRun`.
        metrics: list of dict, their `metrics.json`.
        log: a `logging.Logger`.
    """
    order = list(PUBLISHED)
    rows = [table_row(*pair) for pair in zip(runs, metrics, strict=True)]
    # Variants that the paper does not have come last.
    rows.sort(
        key=lambda row: (
            order.index(row["variant"]) if row["variant"] in order else len(order),
            row["run"],
        )
    )
    table = pd.DataFrame(rows)
    place = runs[0].path.parent
    whole = [name for name in table if "codes_used" in name or name.endswith("_codes")]
    write_csv(place / "similarity.csv", table.astype(dict.fromkeys(whole, "Int64")))
    som.variants_table_figure(
        table, place / "similarity.png", simulated=bool(table["simulated"].all())
    )
    log.info("%s", printed(table).to_string(index=False))
    log.info(LEGEND)
    log.info("written: %s, %s", place / "similarity.csv", place / "similarity.png")


def table_row(run, metrics):
    """A row of the table of a study of volumes, as a dict."""
    reconstruction, codes = metrics["reconstruction"], metrics.get("codes", {})
    vectors, maps = metrics.get("continuous_reconstruction", {}), metrics.get("som", {})
    test = codes.get("test", {})
    epochs = len(pd.read_csv(run.file("history.csv"))) if run.has("history.csv") else None
    ssim, psnr, published_codes = PUBLISHED.get(run.study.variant, (None, None, None))
    return {
        "run": run.name,
        "variant": run.study.variant,
        **{
            f"{name}{'_sd' if part == 'sd' else ''}": reconstruction[name][part]
            for name in ("ssim", "ssim_foreground", "psnr")
            for part in ("mean", "sd")
        },
        "ssim_continuous": vectors.get("ssim", {}).get("mean"),
        "ssim_fg_continuous": vectors.get("ssim_foreground", {}).get("mean"),
        "codes_used": test.get("used"),
        "codes_used_all": codes.get("all", {}).get("used"),
        "num_codes": test.get("num_codes"),
        "codes_per_volume": test.get("used_per_volume"),
        "neighbour_r": maps.get("neighbour_correlation", {}).get("mean"),
        "topographic_error": maps.get("topographic_error"),
        "quantization_error": maps.get("quantization_error"),
        "bits_per_volume": metrics["bits_per_volume"],
        "epochs": epochs,
        "test_subjects": metrics["test_subjects"],
        "published_ssim": ssim,
        "published_psnr": psnr,
        "published_codes": published_codes,
        "simulated": metrics["simulated"],
    }


def printed(table):
    """The table of a study of volumes, short enough for a screen; all values are text."""

    def text(value, form="{}"):
        return "–" if pd.isna(value) else form.format(value)

    def several(row, **forms):
        return " ".join(text(row[name], form) for name, form in forms.items())

    def with_sd(row, name, form):
        sd = row[f"{name}_sd"]
        return form.format(row[name]) + ("" if pd.isna(sd) else " ± " + form.format(sd))

    return pd.DataFrame(
        {
            "variant": row["variant"],
            "SSIM": with_sd(row, "ssim", "{:.3f}"),
            "SSIM fg": with_sd(row, "ssim_foreground", "{:.3f}"),
            "PSNR": with_sd(row, "psnr", "{:.1f}"),
            "continuous": several(row, ssim_continuous="{:.3f}", ssim_fg_continuous="{:.3f}"),
            "codes": several(row, codes_used="{:.0f}", codes_used_all="{:.0f}", num_codes="{:.0f}"),
            "r": text(row["neighbour_r"], "{:.3f}"),
            "topo.": text(row["topographic_error"], "{:.3f}"),
            "quant.": text(row["quantization_error"], "{:.3g}"),
            "bits": text(row["bits_per_volume"], "{:.0f}"),
            "epochs": text(row["epochs"]),
            "n": row["test_subjects"],
            "published": several(
                row, published_ssim="{:.2f}", published_psnr="{:.1f}", published_codes="{:.0f}"
            ),
        }
        for row in table.to_dict("records")
    )
