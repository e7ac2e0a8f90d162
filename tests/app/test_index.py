import re
from urllib.parse import unquote

from brainvq.app.index import index_runs
from brainvq.files import write_json
from brainvq.options import to_dict
from brainvq.studies import STUDIES
from brainvq.training.runs import RunFolder


def make(folder, study, variant, name, cards=None, smoke=False, **files):
    about = {"study": to_dict(STUDIES[study][variant]), "smoke": smoke}
    run = RunFolder.create(folder, study, variant, about, name)
    if cards is not None:
        write_json(run.file("report.json"), {"title": "", "cards": cards})
        run.file("report.html").write_text("", encoding="utf-8")
        run.file("finished.json").write_text("{}", encoding="utf-8")
    return run


def test_runs_stand_side_by_side_newest_first(tmp_path):
    make(tmp_path, "oasis2d", "best", "a-20261120-101500", [["SSIM", "0.9", "unseen"]])
    second = make(
        tmp_path,
        "oasis2d",
        "paper",
        "b & c-20261121-090000",
        [["SSIM", 0.8, ""], ["bits", 256, ""]],
    )
    second.file("figures").mkdir()
    second.file("figures", "losses.png").write_bytes(b"")
    make(tmp_path, "som3d", "ae", "d-20261122-000000")
    make(tmp_path, "oasis2d", "best", "e-20261119-000000", [], smoke=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text("{", encoding="utf-8")

    page = index_runs(tmp_path)
    assert page == tmp_path.with_name(f"{tmp_path.name}.html")
    text = page.read_text("utf-8")
    tables = re.findall(r"<h2>Study (\w+)</h2>(.*?)</section>", text, re.S)
    assert [name for name, _ in tables] == ["som3d", "oasis2d"]
    oasis = dict(tables)["oasis2d"]
    links = [unquote(link) for link in re.findall(r'href="([^"]+)"', oasis)]
    names = ("b & c-20261121-090000", "a-20261120-101500", "e-20261119-000000")
    assert links == [f"{tmp_path.name}/{name}/report.html" for name in names]
    assert all((page.parent / link).exists() for link in links)
    (picture,) = re.findall(r'src="([^"]+)"', oasis)
    assert (page.parent / unquote(picture)).exists()
    heads = re.findall(r'<th scope="col">([^<]*)</th>', oasis)
    assert heads[-2:] == ["SSIM", "bits"]
    assert "smoke run" in oasis
    assert "<td>2026-11-21 09:00</td>" in oasis
    assert "not finished" in dict(tables)["som3d"]
    assert "b &amp; c" in oasis


def test_a_folder_without_runs_has_a_page(tmp_path):
    assert "No runs yet" in index_runs(tmp_path).read_text("utf-8")


def test_no_run_fails_for_the_page(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs.html").mkdir()
    assert index_runs(tmp_path / "runs") is None
