"""Servers that stall, lie or send elsewhere: the right bytes, or one line soon."""

import email.utils
import hashlib
import socket
import threading
import time

import numpy as np
import pytest
import requests

import brainvq.data.download as module
from brainvq.data.download import Session, download_file
from brainvq.errors import UserError

CONTENT = np.random.default_rng(1).bytes(5000)
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = {"progress": False, "backoff": 0.0, "timeout": 0.3, "retries": 1}


class Server:
    """Answers each connection with the next of its scripts, the last one again and again.

    A script is a function of the request as text that returns or yields pieces of bytes; a number
    among them is a pause in seconds.
    """

    def __init__(self):
        self.scripts, self.requests = [], []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/file"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            request = connection.recv(65536).decode()
            self.requests.append(request)
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            try:
                for piece in script(request):
                    if isinstance(piece, bytes):
                        connection.sendall(piece)
                    else:
                        time.sleep(piece)
            except OSError:
                pass  # the client has hung up


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    yield made
    made.listening.close()


def head(status=200, length=5000, **headers):
    named = {"ETag": '"1"', "Connection": "close", "Content-Length": length, **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status} word", *lines, "", ""]).encode()


def good(request):
    """The file, or the rest of it."""
    start = 0
    for line in request.splitlines():
        if line.startswith("Range: bytes="):
            start = int(line.split("=")[1].rstrip("-"))
    if start >= len(CONTENT):
        return [head(416, 0, Content_Range=f"bytes */{len(CONTENT)}")]
    if not start:
        return [head(), CONTENT]
    place = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return [head(206, len(CONTENT) - start, Content_Range=place), CONTENT[start:]]


def cut(request):
    return [head(), CONTENT[:1234]]


def stall(request):
    return [head(), CONTENT[:1234], 1.5]


def silence(request):
    return [1.5]


def trickle(request):
    yield head()
    for byte in CONTENT:
        yield bytes([byte])
        yield 0.05


def wrong(request):
    return [head(), CONTENT[::-1]]


def too_much(request):
    return [head(), CONTENT, b"more"]


def longer_than_it_is(request):
    return [head(length=len(CONTENT) + 100), CONTENT]


def no_number(request):
    return [head(length="9" * 5000), CONTENT]


def busy(status=503, **headers):
    return lambda request: [head(status, 0, **headers)]


def elsewhere(place):
    return lambda request: [head(302, 0, Location=place)]


def fetched(server, tmp_path, *scripts, **options):
    server.scripts = list(scripts)
    began = time.monotonic()
    try:
        return download_file(server.url, tmp_path / "file", **QUICK | options).read_bytes()
    finally:
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("fault", [cut, stall, silence, trickle, too_much, no_number, busy(429)])
def test_what_goes_wrong_once_is_mended(server, tmp_path, fault):
    assert fetched(server, tmp_path, fault, good, md5=MD5) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (stall, "gave up after 2 attempts"),
        (silence, "gave up after 2 attempts .*0.0 MB are kept"),
        (trickle, "less than 100 bytes in a second"),
        (longer_than_it_is, "gave up after 2 attempts .the connection ended early"),
        (wrong, "md5 of the download is .*, expected .*was removed"),
        (busy(404), "the server answered 404"),
        (busy(403), "the server answered 403"),
        (busy(429), "gave up after 2 attempts .the server answered 429"),
        (busy(503, Retry_After="7200"), "answered 503, try again in 7200 s"),
        (elsewhere("/file"), "sends us in a circle"),
        (elsewhere("ftp://127.0.0.1/file"), "no address to download from"),
    ],
)
def test_what_stays_wrong_is_one_line_soon(server, tmp_path, fault, message):
    with pytest.raises(UserError, match=message) as caught:
        fetched(server, tmp_path, fault, md5=MD5)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "file").exists()


def test_what_is_there_after_a_stall_is_kept(server, tmp_path):
    with pytest.raises(UserError, match="gave up"):
        fetched(server, tmp_path, stall, silence, retries=0)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1234]
    assert fetched(server, tmp_path, good, md5=MD5) == CONTENT
    assert "Range: bytes=1234-" in server.requests[-1]


def in_ten_seconds():
    return email.utils.formatdate(time.time() + 10, usegmt=True)


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", [7]), ("", [0]), ("soon", [0]), (in_ten_seconds, [10])]
)
def test_retry_after_is_kept_to(server, tmp_path, monkeypatch, asked, waited):
    found = []
    with monkeypatch.context() as patched:
        patched.setattr(module.time, "sleep", found.append)
        patched.setattr(time, "sleep", found.append)
        later = asked() if callable(asked) else asked
        assert fetched(server, tmp_path, busy(429, Retry_After=later), good) == CONTENT
    assert found == pytest.approx(waited, abs=3)


def test_another_server_may_have_the_file(server, tmp_path):
    other = Server()
    other.scripts = [cut, good]
    assert fetched(server, tmp_path, elsewhere(other.url), md5=MD5) == CONTENT
    other.listening.close()


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/file", "HTTP://127.0.0.1:9/x"])
def test_from_https_there_is_no_way_to_http(tmp_path, monkeypatch, place):
    class Sends(requests.adapters.BaseAdapter):
        def send(self, request, **options):
            answer = requests.Response()
            answer.status_code, answer.url, answer.request = 302, request.url, request
            answer.headers["Location"] = place
            answer.raw = type("Raw", (), {"read": lambda *_, **__: b"", "close": lambda _: None})()
            return answer

        def close(self):
            pass

    with Session() as session:
        session.mount("https://", Sends())
        with pytest.raises(UserError, match="without encryption") as caught:
            download_file("https://data.org/file", tmp_path / "file", session=session, **QUICK)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
