import contextlib
import errno
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import brainvq.data.download as module
from brainvq.data import load_scan, open_cohort
from brainvq.data.download import DATASETS, RemoteDataset, download, download_file, fetch
from brainvq.data.tractoinferno import download_tractoinferno
from brainvq.errors import UserError

CONTENT = np.random.default_rng(0).bytes(40_000)
QUICK = {"progress": False, "backoff": 0.0, "timeout": 5.0}


class Server:
    """A web server on the loopback that misbehaves on request.

    Attributes:
        files: path → bytes.
        faults: what to do with the next requests, one each: an int drops the connection after so
            many bytes of the body, "ignore range" sends the whole file, "busy" answers 503,
            "wrong place" continues at another byte than asked, "no" behaves well.
        etag: how the file is labelled: "strong", "weak", "date", or "none".
        chunked: True to send no Content-Length.
        requests: list of (method, path, Range header or None, status).
    """

    def __init__(self):
        self.files, self.faults, self.requests = {}, [], []
        self.label, self.chunked, self.refuse = "strong", False, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                outer.answer(self, body=False)

            def do_GET(self):
                outer.answer(self, body=True)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None  # clients that hang up are the point here
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def validators(self, content):
        digest = hashlib.sha1(content).hexdigest()[:12]
        seconds = int(digest, 16) % 60
        date = {"Last-Modified": f"Mon, 01 Jan 2024 00:00:{seconds:02d} GMT"}
        return {
            "strong": {"ETag": f'"{digest}"'},
            "weak": {"ETag": f'W/"{digest}"', **date},
            "date": date,
            "none": {},
        }[self.label]

    def answer(self, request, body):
        content = self.files.get(request.path)
        asked = request.headers.get("Range")
        fault = self.faults.pop(0) if body and self.faults else "no"
        status, start, total = 200, 0, len(content or b"")
        headers = self.validators(content) if content is not None else {}
        condition = request.headers.get("If-Range")
        if self.refuse or content is None or fault == "busy":
            status = 503 if fault == "busy" else (self.refuse or 404)
            content, headers = b"sorry", {}
        elif asked and fault != "ignore range" and condition in (None, *headers.values()):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= total:
                status, content = 416, b""
                headers["Content-Range"] = f"bytes */{total}"
            else:
                status = 206
                start -= 5 if fault == "wrong place" else 0
                content = content[start:]
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self.requests.append((request.command, request.path, asked, status))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if self.chunked and body:
            request.send_header("Transfer-Encoding", "chunked")
        else:
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if not body:
            return
        cut = content[:fault] if isinstance(fault, int) else content
        if self.chunked:
            request.wfile.write(b"%x\r\n" % len(content) + cut)
            if cut == content:
                request.wfile.write(b"\r\n0\r\n\r\n")
        else:
            request.wfile.write(cut)
        if len(cut) < len(content):
            request.close_connection = True

    def ranges(self):
        return [asked for method, _, asked, _ in self.requests if method == "GET"]


@pytest.fixture(scope="module")
def running():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(running, monkeypatch):
    """The server, well-behaved, with one file "/file"."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    reset(running)
    return running


def reset(server):
    server.files = {"/file": CONTENT}
    server.faults, server.requests = [], []
    server.label, server.chunked, server.refuse = "strong", False, None


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- one file ---


def test_a_file_arrives_whole(server, tmp_path):
    path = download_file(f"{server.url}/file", tmp_path / "deep" / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file"]
    download_file(f"{server.url}/file", path, **QUICK)
    assert len(server.requests) == 1  # the second call asks nothing


@pytest.mark.parametrize("label", ["strong", "weak", "date"])
def test_a_dropped_connection_is_resumed(server, tmp_path, label):
    server.label, server.faults = label, [15_000, 10_000]
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=15000-", "bytes=25000-"]


def test_without_a_validator_the_download_starts_over(server, tmp_path):
    server.label, server.faults = "none", [15_000]
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, None]


def test_a_server_that_ignores_ranges(server, tmp_path):
    server.faults = [15_000, "ignore range"]
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert [status for *_, status in server.requests] == [200, 200]


def test_a_server_that_continues_at_another_place(server, tmp_path):
    server.faults = [15_000, "wrong place"]
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=15000-", None]


def test_chunked_answers(server, tmp_path):
    server.chunked, server.faults = True, [0]
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("label", ["strong", "date"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, label):
    server.label, server.faults = label, [15_000] + ["busy"] * 3
    with pytest.raises(UserError, match="gave up after 2 attempts"):
        download_file(f"{server.url}/file", tmp_path / "file", retries=1, **QUICK)
    assert names(tmp_path) == ["file.part", "file.part.json"]
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:15_000]
    server.files["/file"] = new = CONTENT[::-1]
    server.faults = []
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == new
    assert names(tmp_path) == ["file"]


def test_a_part_from_another_address_is_not_continued(server, tmp_path):
    server.faults = [15_000] + ["busy"] * 3
    with pytest.raises(UserError, match="gave up"):
        download_file(f"{server.url}/file", tmp_path / "file", retries=1, **QUICK)
    server.faults, server.requests = [], []
    server.files["/other"] = CONTENT[::-1]
    path = download_file(f"{server.url}/other", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT[::-1]
    assert server.ranges() == [None]


def part_of(tmp_path, server, content):
    (tmp_path / "file.part").write_bytes(content)
    sidecar = {
        "url": f"{server.url}/file",
        "validator": server.validators(CONTENT)["ETag"],
        "total": len(CONTENT),
    }
    (tmp_path / "file.part.json").write_text(json.dumps(sidecar))


def test_a_part_that_was_complete_already(server, tmp_path):
    part_of(tmp_path, server, CONTENT)
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert [status for *_, status in server.requests] == [416]


def test_a_part_that_is_too_long(server, tmp_path):
    part_of(tmp_path, server, CONTENT + b"more")
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert [status for *_, status in server.requests] == [416, 200]


@pytest.mark.parametrize("sidecar", ["", "[]", "{", '{"url": 3}'])
def test_a_part_with_a_damaged_sidecar(server, tmp_path, sidecar):
    part_of(tmp_path, server, b"something else")
    (tmp_path / "file.part.json").write_text(sidecar)
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT


def test_busy_servers_are_asked_again(server, tmp_path):
    server.faults = ["busy"] * 3
    path = download_file(f"{server.url}/file", tmp_path / "file", retries=3, **QUICK)
    assert path.read_bytes() == CONTENT


def test_attempts_that_bring_bytes_do_not_count(server, tmp_path):
    server.faults = [1000] * 20
    path = download_file(f"{server.url}/file", tmp_path / "file", retries=0, **QUICK)
    assert path.read_bytes() == CONTENT


def test_a_server_that_always_drops_and_cannot_resume_is_given_up(server, tmp_path):
    server.label, server.faults = "none", [1000] * 50
    with pytest.raises(UserError, match="gave up after 3 attempts"):
        download_file(f"{server.url}/file", tmp_path / "file", retries=2, **QUICK)
    assert len(server.requests) == 4


def test_waiting_times_double(server, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    server.faults = ["busy"] * 9
    with pytest.raises(UserError, match="the server answered 503"):
        download_file(f"{server.url}/file", tmp_path / "file", retries=8, progress=False)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals_are_final(server, tmp_path, status):
    server.refuse = status
    with pytest.raises(UserError, match=f"/file: the server answered {status}"):
        download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_no_server(tmp_path, server):
    with pytest.raises(UserError, match="gave up after 2 attempts") as caught:
        download_file("http://127.0.0.1:9/file", tmp_path / "file", retries=1, **QUICK)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no address to download from"):
        download_file("somewhere/file", tmp_path / "file", **QUICK)


def test_checksum(server, tmp_path):
    good = hashlib.md5(CONTENT).hexdigest()
    path = download_file(f"{server.url}/file", tmp_path / "file", md5=good.upper(), **QUICK)
    assert path.read_bytes() == CONTENT
    server.files["/file"] = CONTENT[:-1] + b"!"
    with pytest.raises(UserError, match=f"expected {good}; the file was damaged or tampered"):
        download_file(f"{server.url}/file", tmp_path / "new", md5=good, **QUICK)
    assert names(tmp_path) == ["file"]


def test_a_file_that_lies_there_and_is_another(server, tmp_path):
    (tmp_path / "file").write_bytes(b"half of it")
    with pytest.raises(UserError, match="file: md5 differs"):
        download_file(f"{server.url}/file", tmp_path / "file", md5="0" * 32, **QUICK)
    assert (tmp_path / "file").read_bytes() == b"half of it"
    assert server.requests == []


def test_a_part_tampered_with_on_disk_is_caught(server, tmp_path):
    part_of(tmp_path, server, b"?" * 15_000)
    with pytest.raises(UserError, match="tampered"):
        download_file(
            f"{server.url}/file", tmp_path / "file", md5=hashlib.md5(CONTENT).hexdigest(), **QUICK
        )
    assert names(tmp_path) == []


def test_ctrl_c_keeps_the_part(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 4000)
    write = module._write

    def interrupted(file, chunk):
        if file.tell() >= 12_000:
            raise KeyboardInterrupt
        write(file, chunk)

    monkeypatch.setattr(module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    part = (tmp_path / "file.part").read_bytes()  # reads bring 4000 bytes at most
    assert 12_000 <= len(part) < 16_000
    assert CONTENT.startswith(part)
    monkeypatch.setattr(module, "_write", write)
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={len(part)}-"]


def test_disk_full_while_writing_keeps_the_part(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 4000)
    write = module._write

    def full(file, chunk):
        if file.tell() >= 12_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, chunk)

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(UserError, match="the disk is full; make room"):
        download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    part = (tmp_path / "file.part").read_bytes()  # reads bring 4000 bytes at most
    assert 12_000 <= len(part) < 16_000
    assert CONTENT.startswith(part)
    monkeypatch.setattr(module, "_write", write)
    path = download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={len(part)}-"]


def small_disk(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_disk_too_small_is_found_before_the_first_byte(server, tmp_path, monkeypatch):
    small_disk(monkeypatch, 30_000)
    with pytest.raises(UserError, match="needs 0.00 GB more"):
        download_file(f"{server.url}/file", tmp_path / "file", **QUICK)
    assert names(tmp_path) == []
    part_of(tmp_path, server, CONTENT[:15_000])  # the rest of it fits
    assert download_file(f"{server.url}/file", tmp_path / "file", **QUICK).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        download_file(f"{server.url}/file", tmp_path / "file" / "deeper", **QUICK)


def test_progress_bar(server, tmp_path, capsys):
    download_file(f"{server.url}/file", tmp_path / "file", md5=hashlib.md5(CONTENT).hexdigest())
    shown = capsys.readouterr().err
    assert "file: 100%" in shown
    assert "40.0k/40.0k" in shown


faults = st.one_of(
    st.integers(0, len(CONTENT) - 1),
    st.sampled_from(["ignore range", "busy", "wrong place", "no"]),
)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(faults, max_size=4), min_size=1, max_size=4),
    label=st.sampled_from(["strong", "weak", "date", "none"]),
    chunked=st.booleans(),
    retries=st.integers(0, 2),
)
def test_any_interruptions_end_with_identical_bytes(
    running, tmp_path_factory, calls, label, chunked, retries
):
    reset(running)
    running.label, running.chunked = label, chunked
    path = tmp_path_factory.mktemp("interrupted") / "file"
    for faults_of_call in calls:
        running.faults = list(faults_of_call)
        with contextlib.suppress(UserError):
            download_file(f"{running.url}/file", path, retries=retries, **QUICK)
        assert not path.exists() or path.read_bytes() == CONTENT
    running.faults = []
    download_file(f"{running.url}/file", path, retries=retries + 1, **QUICK)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file"]


# --- data sets ---


def tarball(root):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root, arcname=root.name)
    return buffer.getvalue()


@pytest.fixture
def oasis(server, make, tmp_path):
    """The server with discs 1 and 2 of a generated OASIS-1 and both parts of OASIS-2."""
    source = tmp_path / "published"
    make.oasis1(source, table=None, text=True)
    make.oasis2(source)
    server.files = {}
    for disc in (1, 2):
        server.files[f"/oasis_cross-sectional_disc{disc}.tar.gz"] = tarball(source / f"disc{disc}")
        server.files[f"/OAS2_RAW_PART{disc}.tar.gz"] = tarball(source / f"OAS2_RAW_PART{disc}")
    shutil.rmtree(source)
    return server


def test_terms_are_shown_and_must_be_accepted(oasis, tmp_path, capsys):
    root = tmp_path / "data"
    with pytest.raises(UserError, match=r"--data\.accept-terms") as caught:
        download("oasis1", root, base_url=oasis.url)
    assert "sites.wustl.edu/oasisbrains" in str(caught.value)
    shown = capsys.readouterr().out
    assert "data use agreement" in shown
    assert "15.8 GB" in shown
    assert not root.exists()
    assert oasis.requests == []


def test_parts_of_a_data_set(oasis, tmp_path, capsys):
    kwargs = {"base_url": oasis.url + "/", "accept_terms": True, "checksums": {}, **QUICK}
    paths = download("oasis1", tmp_path, parts=["2", 1], **kwargs)
    assert [path.name for path in paths] == [
        "oasis_cross-sectional_disc2.tar.gz",
        "oasis_cross-sectional_disc1.tar.gz",
    ]
    for path in paths:
        assert path.read_bytes() == oasis.files[f"/{path.name}"]
    assert "agreement" in capsys.readouterr().out
    # What is there needs neither terms nor network.
    oasis.requests.clear()
    again = download("oasis1", tmp_path, parts="1", **{**kwargs, "accept_terms": False})
    assert again == [paths[1]]
    assert oasis.requests == []


def test_the_known_checksum_is_used(oasis, tmp_path):
    with pytest.raises(UserError, match="expected c83e216ef8654a7cc9e2a30a4cdbe0cc"):
        download("oasis1", tmp_path, parts=[1], base_url=oasis.url, accept_terms=True, **QUICK)


def test_the_disk_is_checked_for_all_parts_together(oasis, tmp_path, monkeypatch):
    sizes = [len(oasis.files[f"/OAS2_RAW_PART{part}.tar.gz"]) for part in (1, 2)]
    small_disk(monkeypatch, max(sizes) + 10)
    with pytest.raises(UserError, match="2 files from"):
        download("oasis2", tmp_path, base_url=oasis.url, accept_terms=True, **QUICK)
    assert not any(method == "GET" for method, *_ in oasis.requests)


@pytest.mark.parametrize(
    ("dataset", "parts", "message"),
    [
        ("oasis9", None, "'oasis9' cannot be downloaded; expected one of oasis1, oasis2"),
        ("oasis1", ["13"], "no part 13; parts are 1, 2"),
        ("oasis1", [], "no part .none given."),
    ],
)
def test_unknown_data_sets_and_parts(tmp_path, dataset, parts, message):
    for function in (download, fetch):
        with pytest.raises(UserError, match=message):
            function(dataset, tmp_path, parts=parts, accept_terms=True)


@pytest.mark.parametrize(("dataset", "subjects"), [("oasis1", 5), ("oasis2", 2)])
def test_fetch_ends_with_a_cohort(oasis, tmp_path, dataset, subjects):
    kwargs = {"parts": ["1", "2"], "base_url": oasis.url, "checksums": {}, **QUICK}
    root = fetch(dataset, tmp_path / "data", accept_terms=True, **kwargs)
    cohort = open_cohort(dataset, root)
    assert len(cohort.subjects) == subjects
    for paths in cohort.table["paths"]:
        assert load_scan(paths)[0].ndim == 3
    stored = {path.name for path in root.rglob("*") if path.is_file()}
    assert not any(name.endswith("_t88_gfc.img") for name in stored)  # not needed, not unpacked
    assert not any("3906" in name for name in stored)
    if dataset == "oasis1":
        assert cohort.table["age"].notna().all()  # from the text file of each session
        assert (cohort.table["segmentation"] != "").all()
    oasis.requests.clear()
    assert fetch(dataset, root, **kwargs) == root  # all done: no terms, no network
    assert oasis.requests == []


def test_fetch_without_keeping_archives(oasis, tmp_path):
    kwargs = {"base_url": oasis.url, "accept_terms": True, **QUICK}
    root = fetch("oasis2", tmp_path / "data", keep_archives=False, **kwargs)
    assert names(root) == ["OAS2_RAW_PART1", "OAS2_RAW_PART2"]
    oasis.requests.clear()
    fetch("oasis2", root, **kwargs)
    assert oasis.requests == []


def test_fetch_of_a_truncated_archive(oasis, tmp_path):
    name = "/OAS2_RAW_PART1.tar.gz"
    oasis.files[name] = oasis.files[name][:-100]
    with pytest.raises(UserError, match=r"OAS2_RAW_PART1\.tar\.gz: is truncated"):
        fetch("oasis2", tmp_path / "data", base_url=oasis.url, accept_terms=True, **QUICK)
    assert names(tmp_path / "data") == ["OAS2_RAW_PART1.tar.gz"]


def test_fetch_looks_for_folders_in_the_way_first(oasis, tmp_path):
    (tmp_path / "OAS2_RAW_PART1" / "OAS2_0001_MR1").mkdir(parents=True)
    with pytest.raises(UserError, match="OAS2_RAW_PART1: exists and is no finished copy"):
        fetch("oasis2", tmp_path, base_url=oasis.url, accept_terms=True, **QUICK)
    assert oasis.requests == []


def test_the_register():
    assert list(DATASETS["oasis1"].parts) == [str(disc) for disc in range(1, 13)]
    for known in DATASETS.values():
        assert isinstance(known, RemoteDataset)
        assert known.base_url.startswith("https://")
        assert not known.base_url.endswith("/")
        assert known.terms
        assert set(known.md5) <= {*known.parts.values(), *known.tables}
        assert set(known.default or ()) <= set(known.parts)
        assert all(re.fullmatch(r"[0-9a-f]{32}", md5) for md5 in known.md5.values())


# --- TractoInferno: a list of files, page after page ---


def listing(keys, files, token=None):
    """A page of S3's list; `token` leads to the next one."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(files[key])}</Size></Contents>" for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>{entries}{more}"
        "</ListBucketResult>"
    ).encode()


@pytest.fixture
def bucket(server):
    """The server as a bucket of three people; the list of the test set has three pages."""
    place = "ds003900/derivatives/testset"
    content = {}
    for number, subject in enumerate(("1006", "1007", "1010")):
        for bundle in ("MCP", "PYT_L", "AF_L"):
            if (subject, bundle) != ("1007", "MCP"):
                key = f"{place}/sub-{subject}/tractography/sub-{subject}__{bundle}.trk"
                content[key] = CONTENT[: 20_000 + number]
        content[f"{place}/sub-{subject}/anat/sub-{subject}__T1w.nii.gz"] = b"image"
    content[f"{place}/../sub-1/tractography/sub-1__MCP.trk"] = b"elsewhere"
    server.files = {f"/{key}": value for key, value in content.items()}
    keys, first = list(content), f"/?list-type=2&prefix={place.replace('/', '%2F')}%2F"
    server.files[first] = listing(keys[:4], content, "a/+b=")
    server.files[f"{first}&continuation-token=a%2F%2Bb%3D"] = listing(keys[4:8], content, "c")
    server.files[f"{first}&continuation-token=c"] = listing(keys[8:], content)
    server.first, server.place = first, place
    return server


def stored(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_bundles_of_chosen_people_arrive(bucket, tmp_path, capsys):
    options = {"base_url": bucket.url + "/", "accept_terms": True, **QUICK}
    bundles = ("MCP", "PYT_L")
    root = download_tractoinferno(tmp_path, ["sub-1006", "1007"], bundles, **options)
    names_ = ["sub-1006__MCP.trk", "sub-1006__PYT_L.trk", "sub-1007__PYT_L.trk"]
    assert stored(root) == names_
    path = root / "derivatives/testset/sub-1007/tractography/sub-1007__PYT_L.trk"
    assert path.read_bytes() == CONTENT[:20_001]
    assert open_cohort("tractoinferno", root).subjects == ["1006", "1007"]
    shown = capsys.readouterr().out
    assert "CC0" in shown
    assert "1 of 4 bundles are not published" in shown
    # A second call fetches the list alone, a third what is new in it.
    bucket.requests.clear()
    download_tractoinferno(tmp_path, ["1006", "1007"], bundles, **options)
    assert len(bucket.requests) == 3
    download_tractoinferno(tmp_path, 1, None, **options)
    assert stored(root) == sorted([*names_, "sub-1006__AF_L.trk"])
    download_tractoinferno(tmp_path, None, ["MCP"], **options)
    assert stored(root) == sorted([*names_, "sub-1006__AF_L.trk", "sub-1010__MCP.trk"])


def test_interrupted_bundles_are_resumed(bucket, tmp_path):
    options = {"base_url": bucket.url, "accept_terms": True, "bundles": ["MCP"], **QUICK}
    # The first page drops and is resumed; then the second file drops, and the server is busy.
    bucket.faults = [100, "no", "no", "no", "no", 9000, "busy", "busy"]
    with pytest.raises(UserError, match=r"sub-1010__MCP\.trk: gave up"):
        download_tractoinferno(tmp_path, retries=1, **options)
    assert stored(tmp_path) == [
        "sub-1006__MCP.trk",
        "sub-1010__MCP.trk.part",
        "sub-1010__MCP.trk.part.json",
    ]
    bucket.faults, bucket.requests = [], []
    download_tractoinferno(tmp_path, **options)
    assert stored(tmp_path) == ["sub-1006__MCP.trk", "sub-1010__MCP.trk"]
    assert bucket.ranges() == [None, None, None, "bytes=9000-"]


def test_bundles_that_cannot_be_had(bucket, tmp_path, monkeypatch):
    options = {"base_url": bucket.url, "accept_terms": True, **QUICK}
    for wanted, message in (
        ({"split": "train"}, "found split 'train'; expected one of trainset"),
        ({"subjects": ["1006", "1111"]}, "has no subject 1111; expected some of 1006, 1007, 1010"),
        ({"subjects": []}, "has no subject .none given."),
        ({"subjects": 9}, "subjects: found 9; expected 1 to the 3 there"),
        ({"bundles": ["MCP", "XY"]}, "has no bundle XY; expected some of AF_L, MCP, PYT_L"),
        ({"subjects": "1007", "bundles": ["MCP"]}, "none of the subjects has one of MCP"),
        ({"split": "validset"}, "the server answered 404"),
        ({"accept_terms": False}, r"--data\.accept-terms"),
    ):
        with pytest.raises(UserError, match=message):
            download_tractoinferno(tmp_path, **{"bundles": ["MCP"], **options, **wanted})
    small_disk(monkeypatch, 30_000)
    with pytest.raises(UserError, match="2 bundles needs"):
        download_tractoinferno(tmp_path, bundles=["MCP"], **options)
    assert stored(tmp_path) == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"<html><body>Welcome</body></html>", "is no list of files .found <html>"),
        (b"not XML", "is no list of files"),
        (b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>", "is no list"),
        (b"<ListBucketResult/>", "lists no bundles"),
        (
            b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "the list of files does not end",
        ),
    ],
)
def test_lists_that_are_none(bucket, tmp_path, page, message):
    bucket.files[bucket.first] = page
    with pytest.raises(UserError, match=message):
        download_tractoinferno(tmp_path, base_url=bucket.url, accept_terms=True, **QUICK)


def test_a_file_of_another_size_than_listed(bucket, tmp_path):
    key = f"/{bucket.place}/sub-1006/tractography/sub-1006__MCP.trk"
    bucket.files[key] = CONTENT[:10]
    options = {"base_url": bucket.url, "accept_terms": True, **QUICK}
    with pytest.raises(UserError, match="found 10 bytes; expected the 20000"):
        download_tractoinferno(tmp_path, ["1006"], ["MCP"], **options)
