"""A file from a URL, which is known by its sha256 before the first byte arrives.

A transfer that breaks off goes on where it stopped (HTTP Range), a few times. Redirects may not
leave https. What does not have the expected hash is never opened.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from steerplug.errors import PackError
from steerplug.files.yaml_file import printable
from steerplug.packs.manifest import MAX_TOTAL
from steerplug.packs.reference import is_loopback

ATTEMPTS = 6
_PIECE = 2**18
_TIMEOUT = 30


def download(url: str, sha256: str, path: Path, *, pause: float = 0.5) -> None:
    """Bring the file at `url` to `path`.

    Args:
        url: https, or http on this machine.
        sha256: of the file, in hex.
        path: where to put it; there is nothing yet.
        pause: seconds to wait after the first break-off; doubled each time.

    Raises:
        PackError: it cannot be had, is too large, or is not what the hash says.
    """
    opener = urllib.request.build_opener(_Redirects())
    for attempt in range(ATTEMPTS):
        try:
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            _go_on(opener, url, path)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise _unreachable(url, f"{error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise _unreachable(url, str(getattr(error, "reason", error))) from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise PackError(
            f"{printable(url)} has the sha256 {digest[:16]}..., and {sha256[:16]}... was asked "
            "for; do not use it, and ask its author."
        )


def _go_on(opener: urllib.request.OpenerDirector, url: str, path: Path) -> None:
    """Append to `path` what is not there yet, or begin anew where the server cannot go on."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "steerplug"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with opener.open(request, timeout=_TIMEOUT) as answer:
        goes_on = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(
            f"bytes {have}-"
        )
        have = have if goes_on else 0
        expected = have + (answer.length or 0)
        with path.open("ab" if goes_on else "wb") as file:
            while piece := answer.read(_PIECE):
                have += len(piece)
                if have > MAX_TOTAL:
                    raise PackError(
                        f"{printable(url)} is larger than {MAX_TOTAL >> 20} MB; do not use it."
                    )
                file.write(piece)
    if have < expected:
        raise ConnectionError("the transfer broke off")


def _unreachable(url: str, reason: str) -> PackError:
    return PackError(
        f"{printable(url)} cannot be fetched ({printable(reason)}); check the address, and that "
        "you are online."
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and on this machine to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: Any, newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        """Return the next request, or refuse to make it."""
        parts = urlsplit(newurl)
        local = is_loopback(urlsplit(req.full_url).hostname) and is_loopback(parts.hostname)
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise PackError(
                f"{printable(req.full_url)} leads to {printable(newurl)}, which is not https; ask "
                "its author for another address."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
