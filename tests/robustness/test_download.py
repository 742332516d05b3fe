"""Downloads: https only, resumed, checked; against a server in this process."""

import contextlib
import hashlib
import http.server
import threading
import urllib.error
import urllib.request

import pytest

from mclir_nb.method import download

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "https://weights.example/net.pth"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, as `how` says."""

    how, asked = "whole", []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.how != "no ranges" else 0
        if self.how == "moved":
            self.send_response(302)
            self.send_header("Location", "http://weights.example/net.pth")
            self.end_headers()
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        content = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        content = {"broken": content[: len(content) // 2], "other": content[::-1]}.get(self.how, content)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

    def log_message(self, *arguments):
        """Nothing on the screen."""


@pytest.fixture
def server(monkeypatch):
    """The server behind every address; the class, to say how it serves."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as own:
        threading.Thread(target=own.serve_forever, daemon=True).start()
        real = urllib.request.build_opener

        class Here:
            def __init__(self, *handlers):
                self.opener = real(urllib.request.ProxyHandler({}), *handlers)

            def open(self, request, timeout):
                request.full_url = f"http://127.0.0.1:{own.server_port}/net.pth"
                return self.opener.open(request, timeout=timeout)

        monkeypatch.setattr(urllib.request, "build_opener", Here)
        monkeypatch.setattr(Server, "how", "whole")
        monkeypatch.setattr(Server, "asked", [])
        yield Server
        own.shutdown()


def test_a_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        file = download.fetch(URL, SHA256, tmp_path / "kept")
    assert file.read_bytes() == CONTENT and list(file.parent.iterdir()) == [file]
    assert server.asked == [None]
    file.write_bytes(b"damaged")
    assert download.fetch(URL, SHA256, tmp_path / "kept").read_bytes() == CONTENT


@pytest.mark.parametrize("afterwards", ["whole", "no ranges"])
def test_a_broken_download_goes_on_where_it_broke_off(afterwards, server, tmp_path):
    server.how = "broken"
    with pytest.raises(ConnectionError, match=f"broke after {len(CONTENT) // 2} bytes.* try again to go on from there"):
        download.fetch(URL, SHA256, tmp_path)
    server.how = afterwards
    assert download.fetch(URL, SHA256, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"] and len(list(tmp_path.iterdir())) == 1


def test_a_download_killed_after_its_last_byte_is_complete(server, tmp_path):
    (tmp_path / f"net.pth.{SHA256[:8]}.part").write_bytes(CONTENT)
    assert download.fetch(URL, SHA256, tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_with_its_hash_and_not_kept(server, tmp_path):
    server.how = "other"
    found = hashlib.sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(ValueError, match=f"arrived with sha256 {found}, not {SHA256}, and was thrown away"):
        download.fetch(URL, SHA256, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_https_is_used_wherever_the_server_sends_us(server, tmp_path):
    for url in ("http://weights.example/net.pth", "file:///etc/passwd", "ftp://weights.example/net.pth"):
        with pytest.raises(ValueError, match="is refused: files are fetched over https only"):
            download.fetch(url, SHA256, tmp_path)
    server.how = "moved"
    with pytest.raises(ValueError, match="^http://weights.example/net.pth is refused"):
        download.fetch(URL, SHA256, tmp_path)


def test_no_connection_is_a_sentence(tmp_path, monkeypatch):
    def refuse(url, aside):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(download, "_append", refuse)
    with pytest.raises(ConnectionError, match="cannot fetch https.*no network.* 0 bytes of it are kept"):
        download.fetch(URL, SHA256, tmp_path)
