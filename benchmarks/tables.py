"""The tables of docs/performance.md, written from benchmarks/results.json.

    python benchmarks/tables.py         after a change of the tables' form

In the page a table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"


def read():
    """The results so far; an empty dict where there are none."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(results):
    """Writes the results and the page's tables."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), results))


def page(text, results):
    """The text of the page with its tables made anew."""

    def made(match):
        if match[1] not in results:
            return match[0]
        table = TABLES[match[1]](results)
        return f"<!-- table {match[1]} -->\n\n{table}\n\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def rows(head, lines):
    """A table of Markdown; columns after the first are numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def comparison(found):
    """One comparison as a table."""
    head = [found["title"], found["unit"], "time beside ours", "of the processor"]
    head += ["memory", "of matmul"]
    return rows(head, [side_row(name, side) for name, side in found["sides"].items()])


def side_row(name, side):
    """The row of a side."""
    low, high = side["ratios"]
    shown = "1" if low == high == 1 else f"{side['ratio']:.2g} ({low:.2g} to {high:.2g})"
    share = side["share_of_matmul"]
    return [
        name,
        figure(side["rate"]),
        shown,
        f"{side['ratio_cpu']:.2g}",
        f"{side['memory'] / 1e9:.2f} GB",
        "" if share is None else f"{share:.0%}",
    ]


def figure(number):
    """A number of three digits, with commas."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def bench(results):
    """All comparisons, and what they were taken with."""
    parts = []
    for found in results["bench"].values():
        parts.append(comparison(found))
        limits, of = found["limits"], found["machine"]
        parts.append(
            f"{of['date']}, {of['rounds']} rounds, {of['threads']} "
            f"thread{'s' * (of['threads'] > 1)}; in the same rounds "
            f"{limits['matmul'] / 1e9:.0f} GFLOP/s of a product of matrices and "
            f"{limits['copy'] / 1e9:.1f} GB/s of a copy; load of the machine before: "
            f"{of['load_before']:g} of {of['cores']} cores."
        )
    last = list(results["bench"].values())[-1]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    parts.append(f"{last['cpu']}, {last['cores']} cores; Python {last['python']}, {versions}.")
    return "\n\n".join(parts)


def quality(results):
    """SSIM over minutes of processor time."""
    found = results["quality"]
    people, unseen = found["people"]
    lines = [
        [name, f"{p['minutes']:g}", f"{p['steps']:,}", f"{p['ssim']:.3f}", f"{p['foreground']:.3f}"]
        for name, points in found["curves"].items()
        for p in points
    ]
    table = rows(["", "minutes", "steps", "SSIM", "in the foreground"], lines)
    return table + (
        f"\n\n{people} people of ds002748 to train, {unseen} unseen ones, of whom "
        f"{found['measured']} slices are measured; one thread each."
    )


def figure_of_quality(results):
    """Draws the same as docs/quality.png."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharex=True)
    for axis, (key, title) in zip(
        axes, (("ssim", "SSIM"), ("foreground", "SSIM in the foreground")), strict=True
    ):
        for name, points in results["quality"]["curves"].items():
            own = name.startswith("brainvq")
            axis.plot(
                [p["minutes"] for p in points],
                [p[key] for p in points],
                "o" if own else ".-",
                label=name,
            )
        axis.set(title=title, xlabel="minutes of one core", ylim=(0, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(ROOT / "docs" / "quality.png", dpi=110)
    plt.close(figure)


def scaling(results):
    """Exponents of time and memory, and the times they are fitted to."""
    lines = [
        [
            curve["title"],
            " … ".join(f"{p['size']:,}" for p in (curve["points"][0], curve["points"][-1])),
            " … ".join(f"{p['seconds']:.2g} s" for p in curve["points"]),
            f"{curve['exponents']['seconds']:.2f}",
            " … ".join(f"{p['memory'] / 1e6:.0f} MB" for p in curve["points"]),
            "" if (slope := curve["exponents"]["memory"]) is None else f"{slope:.2f}",
        ]
        for curve in results["scaling"].values()
    ]
    head = ["size", "from … to", "time of a call", "exponent of time", "memory"]
    return rows([*head, "exponent of memory"], lines)


TABLES = {"bench": bench, "quality": quality, "scaling": scaling}


if __name__ == "__main__":
    write(read())
