"""The report: one file, escaped, complete."""

import base64
import re

import numpy as np
import pandas as pd
import pytest

from brainvq.errors import UserError
from brainvq.reports import Report, Section, write_report
from brainvq.reports.figures import code_usage_bars
from brainvq.reports.html import format_cell


def written(tmp_path, **fields):
    path = write_report(tmp_path / "report.html", Report("A title", **fields))
    return path.read_text(encoding="utf-8")


def test_holds_everything_in_one_file(tmp_path):
    picture = code_usage_bars(np.arange(1, 5), tmp_path / "usage.png")
    content = picture.read_bytes()
    table = pd.DataFrame({"subject": ["a"], "ssim": [0.91234], "n": [12]})
    page = written(
        tmp_path,
        subtitle="of a study",
        cards=[("SSIM", 0.91234, "window 7"), ("Codes", "506 of 512")],
        warnings=["simulated brains"],
        sections=[
            Section("One", "First.\n\nSecond.", [("scores", table)], [(picture, "usage")]),
            Section("Two"),
        ],
        footer="brainvq",
    )
    picture.unlink()
    embedded = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(embedded[1]) == content
    for text in ("of a study", "0.9123", "window 7", "506 of 512", "simulated brains", "brainvq"):
        assert text in page
    assert "<p>First.</p>" in page
    assert "<p>Second.</p>" in page
    assert page.count('<a href="#section-') == 2
    assert 'id="section-2"' in page
    assert '<td class="number">0.9123</td><td class="number">12</td>' in page
    assert "<td>a</td>" in page
    assert 'alt="usage"' in page


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = written(tmp_path, sections=[Section("One"), Section("Two")])
    assert not re.search(r"https?://|<script[^>]+src|<link|@import", page)
    assert "prefers-color-scheme: dark" in page


def test_markup_is_escaped_everywhere(tmp_path):
    bad = "<b>&\"'"
    picture = code_usage_bars(np.arange(1, 5), tmp_path / "usage.png")
    page = written(
        tmp_path,
        subtitle=bad,
        cards=[(bad, bad, bad)],
        warnings=[bad],
        sections=[
            Section(bad, bad, [(bad, pd.DataFrame({bad: [bad]}))], [(picture, bad)]),
            Section(bad),
        ],
        footer=bad,
    )
    assert "<b>" not in page
    # subtitle, card (3), warning, contents (2), headings (2), text, caption, column, cell,
    # alternative text, figure caption, footer
    assert page.count("&lt;b&gt;&amp;&#34;&#39;") == 16


def test_an_empty_report_has_no_contents(tmp_path):
    page = written(tmp_path)
    assert "<h1>A title</h1>" in page
    assert "<nav" not in page


def test_missing_figure_leaves_the_old_report(tmp_path):
    before = written(tmp_path)
    with pytest.raises(UserError, match=r"gone\.png: cannot be read"):
        written(tmp_path, sections=[Section("One", figures=[(tmp_path / "gone.png", "")])])
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert len(list(tmp_path.iterdir())) == 1


def test_only_pictures_are_embedded(tmp_path):
    secret = tmp_path / "notes.txt"
    secret.write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt: found text/plain, expected a picture"):
        written(tmp_path, sections=[Section("One", figures=[(secret, "")])])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.912345, "0.9123"),
        (-0.5, "−0.5000"),
        (30.3727, "30.37"),
        (1234.56, "1235"),
        (123456.7, "123\u202f457"),
        (0.000922, "0.000922"),
        (8.99e-05, "8.99e−05"),
        (0.0, "0"),
        (np.float32(0.5), "0.5000"),
        (2304, "2304"),
        (np.int64(7), "7"),
        (float("nan"), "–"),
        (None, "–"),
        (pd.NA, "–"),
        (float("inf"), "∞"),
        (-float("inf"), "−∞"),
        (True, "yes"),
        ("sub-01", "sub-01"),
    ],
)
def test_cells(value, text):
    assert format_cell(value) == text


def test_integers_stay_integers_beside_floats(tmp_path):
    table = pd.DataFrame({"n": [1, 2], "x": [0.5, np.nan], "ok": [True, False]})
    page = written(tmp_path, sections=[Section("One", tables=[("t", table)])])
    row = '<td class="number">2</td><td class="number">–</td><td>no</td>'
    assert row in page


def test_notes_are_no_alarm_and_figures_can_be_enlarged(tmp_path):
    page = written(tmp_path, notes=["60 participants have no T1w"], sections=[])
    assert '<p class="remark">60 participants have no T1w</p>' in page
    assert 'class="warning"' not in page
    assert "showModal" in page
