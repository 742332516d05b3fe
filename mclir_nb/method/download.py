"""Fetching a published file: only when asked, only over https, resumed where it broke off, and checked by its hash."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

PIECE = 1 << 20  # bytes


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follow a server to another address only if that is https too."""

    def redirect_request(self, request, answer, code, message, headers, address):
        _check(address)
        return super().redirect_request(request, answer, code, message, headers, address)


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """The file behind `url`, kept in `folder` under its own name; fetched if it is not there, whole and right.

    What arrived before a connection broke is kept beside it as NAME.HASH.part, and the next call goes on there. A file
    with another hash is never kept.

    Raises: ValueError for an address that is not https, or a file with another hash, naming both; ConnectionError if
        it cannot be fetched; OSError if it cannot be written.
    """
    _check(url)
    target = folder / url.rsplit("/", 1)[-1]
    if target.is_file() and digest(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{target.name}.{sha256[:8]}.part"
    try:
        _append(url, aside)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        there = aside.stat().st_size if aside.exists() else 0
        raise ConnectionError(
            f"cannot fetch {url} ({error}); {there} bytes of it are kept, so try again to go on from there, or get it "
            "elsewhere and give the file."
        ) from error
    found = digest(aside)
    if found != sha256:
        aside.unlink()
        raise ValueError(
            f"{url} arrived with sha256 {found}, not {sha256}, and was thrown away; try again, or get it elsewhere and "
            "give the file."
        )
    os.replace(aside, target)
    return target


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(url: str) -> None:
    if not url.startswith("https://"):
        raise ValueError(f"{url} is refused: files are fetched over https only.")


def _append(url: str, aside: Path) -> None:
    """Fetch what is missing in `aside`; everything, if the server does not know how to begin in the middle."""
    there = aside.stat().st_size if aside.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        answer = urllib.request.build_opener(_OnlyHttps).open(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with answer, open(aside, "ab" if answer.status == 206 else "wb") as file:
        wanted = answer.headers.get("Content-Length")
        got = 0
        while piece := answer.read(PIECE):
            file.write(piece)
            got += len(piece)
    if wanted is not None and got < int(wanted):
        raise ConnectionError(f"the connection broke after {there + got} bytes")
