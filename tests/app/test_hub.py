"""Models handed on: folder and card for a hub, and loading from one, a server on this machine."""

import hashlib
import http.server
import json
import shutil
import sys
import threading

import numpy as np
import pytest
import yaml

import brainvq
from brainvq.errors import UserError
from brainvq.training.shipped import SHIPPED, card_facts, name_of
from tests.training.test_pretrained import images, model, prior

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run in a private place, that its card and command name."""
    folder = tmp_path_factory.mktemp("private-place")
    study = {"name": "oasis2d", "variant": "best", "runs": str(folder)}
    study["data"] = {"source": "bids", "root": str(folder / "scans"), "cache": "c"}
    command = f"train.py --data.root {folder}/scans"
    about = {"study": study, "steps": [], "command": command}
    made = brainvq.training.runs.RunFolder.create(folder, "oasis2d", "best", about)
    model().save(made.file("model.keras"))
    prior().save(made.file("prior.keras"))
    card = (
        f"# oasis2d best\n\n- Name: Resting state ds002748.v1\n- Licence: CC0\n\n{folder}/scans\n"
    )
    made.file("MODEL_CARD.md").write_text(card)
    means = {name: {"mean": mean, "sd": 0.1, "n": 3} for name, mean in (("ssim", 0.93), ("x", 2.0))}
    made.file("metrics.json").write_text(json.dumps({"reconstruction": means, "at": str(folder)}))
    return made.path


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """What `save_pretrained` makes of it."""
    made = tmp_path_factory.mktemp("out") / "model"
    return brainvq.save_pretrained(run, made, licence="apache-2.0", tags=["t1w"])


def test_the_card_says_what_a_hub_asks_for(run, folder):
    text = (folder / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "brainvq"
    assert {"brainvq", "oasis2d", "slices", "real-scans", "t1w"} <= set(header["tags"])
    assert header["datasets"] == ["openneuro/ds002748"]
    assert header["metrics"] == ["ssim"]
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"]["name"] == "Resting state ds002748.v1"
    assert result["metrics"] == [{"type": "ssim", "name": "ssim", "value": 0.93}]
    assert "# oasis2d best" in text
    assert "brainvq.load(" in text


def test_no_place_of_the_machine_is_handed_on(run, folder):
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "MODEL_CARD.md", "study.json", "metrics.json", "model.zip", "prior.zip")
    }
    for path in folder.iterdir():
        assert run.parent.name.encode() not in path.read_bytes(), path.name
        assert b"/tmp" not in path.read_bytes(), path.name


def test_the_folder_loads(run, folder):
    found, original = brainvq.load(folder), brainvq.load(run)
    restored, expected = (one.model.reconstruct(images()) for one in (found, original))
    np.testing.assert_allclose(restored, expected, atol=5e-3)
    with pytest.raises(UserError, match="is not empty"):
        brainvq.save_pretrained(found, folder)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as downloading a model asks for."""

    protocol_version = "HTTP/1.1"
    folder, asked = None, None

    def log_message(self, *_):
        """Says nothing."""

    def do_HEAD(self):
        """As GET, without the body."""
        self.do_GET(body=False)

    def do_GET(self, body=True):
        """The list of files, or one of them."""
        self.asked.append(self.path)
        files = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        if self.path.startswith("/api/models/ann/brains/tree/"):
            rows = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in files.items()]
            return self.answer(json.dumps(rows).encode(), body)
        if self.path.startswith("/api/models/ann/brains") and "gone" not in self.path:
            rows = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            about = {"id": "ann/brains", "sha": COMMIT, "siblings": rows, "private": False}
            about |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
            return self.answer(json.dumps(about).encode(), body)
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/ann/brains/resolve/") and name in files:
            tag = hashlib.sha1(files[name]).hexdigest()
            return self.answer(files[name], body, ETag=f'"{tag}"')
        return self.answer(b"{}", body, status=404, **{"X-Error-Code": "RepoNotFound"})

    def answer(self, content, body, status=200, **headers):
        """Sends a response."""
        self.send_response(status)
        headers |= {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub on this machine that has the model as ann/brains; yields the list of what is asked."""
    shutil.copytree(folder, tmp_path / "served")
    (tmp_path / "served" / "evil.py").write_text("raise SystemExit")
    handler = type("Served", (Hub,), {"folder": tmp_path / "served", "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler.asked
    server.shutdown()
    server.server_close()


def test_a_model_of_a_hub_loads(hub, folder, monkeypatch, tmp_path):
    found = brainvq.load("hf://ann/brains")
    expected = brainvq.load(folder)
    np.testing.assert_array_equal(*(m.model.encode(images()) for m in (found, expected)))
    assert not any("evil.py" in path and "resolve" in path for path in hub)
    assert name_of(found.path) == "ann/brains@01234567"
    made = found.results(tmp_path / "out")
    assert made.about["Model"] == "ann/brains@01234567"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf://ann/nothing", "hf://ann/nothing: cannot be downloaded .*expected a public model"),
        ("hf://ann", "hf://ann: found no name of a hub; expected hf://USER/NAME"),
        ("hf://ann/b/c", "found no name of a hub"),
        ("hf://../b", "hf://../b: "),
        ("hf://ann/brains@gone", "hf://ann/brains@gone: cannot be downloaded"),
    ],
)
def test_what_a_hub_has_not_is_said_in_a_line(hub, name, told):
    with pytest.raises(UserError, match=told) as caught:
        brainvq.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense", "http://[", "ftp://x"])
def test_a_server_that_is_not_there(monkeypatch, tmp_path, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hf://ann/brains: cannot be downloaded") as caught:
        brainvq.load("hf://ann/brains")
    assert "\n" not in str(caught.value)


def test_without_the_package_one_line_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf://a/b: needs huggingface_hub.*brainvq\[hub\]"):
        brainvq.load("hf://a/b")
    with pytest.raises(UserError, match=r"save_pretrained: needs .*brainvq\[hub\]"):
        brainvq.save_pretrained(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_presets_are_listed_with_their_data_and_terms():
    presets = brainvq.list_presets()
    assert sorted(presets) == brainvq.shipped()
    for name, line in presets.items():
        folder = SHIPPED / name
        facts = card_facts((folder / "MODEL_CARD.md").read_text())
        assert facts["Name"] in line
        assert "\n" not in line
        # That of whole volumes holds the mean brain, voxel by voxel.
        most = 6_500_000 if name == "t1w3d" else 5_000_000
        assert sum(path.stat().st_size for path in folder.glob("*.zip")) <= most
        for path in folder.iterdir():
            assert b"/tmp" not in path.read_bytes()
            assert b"/work" not in path.read_bytes()
