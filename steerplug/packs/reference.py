"""How people say where a pack is, and what that means.

    ./path, pack.zip                  a folder or a zip here
    gh:owner/repo[/path]@rev          a repository on GitHub, or a folder in it
    git+URL@rev                       a git repository: https, ssh, or http and git on this machine
    hf:org/repo@rev                   a repository on the Hugging Face hub
    https://host/pack.zip#sha256=HEX  a zip; http only on this machine

Without `@rev` it is the head of the default branch. Whatever was meant, it is pinned when added.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from steerplug.errors import PackError
from steerplug.files.yaml_file import printable

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
_GITHUB = re.compile(rf"({_PART}/{_PART})((?:/{_PART}){{0,20}})")
_HUB = re.compile(rf"{_PART}/{_PART}")
_REV = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]{0,199}")
_HASH = re.compile(r"sha256=([0-9a-f]{64})")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FORMS = (
    "write ./path, pack.zip, gh:owner/repo@rev, git+https://host/repo@rev, hf:org/repo@rev or "
    "https://host/pack.zip#sha256=HEX"
)


@dataclass(frozen=True)
class Reference:
    """Where a pack is.

    Args:
        kind: how to get there.
        text: as it is pinned; reading it gives this reference again.
        place: a path, a URL, or org/repo.
        rev: branch, tag or commit; empty for the default branch.
        folder: the pack's folder in a repository; empty for its top.
        sha256: of the zip at a URL.
    """

    kind: Literal["path", "git", "hub", "url"]
    text: str
    place: str
    rev: str = ""
    folder: str = ""
    sha256: str = ""

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.place if self.kind == "url" else self.text

    @property
    def is_fixed(self) -> bool:
        """Whether it can only ever mean the same bytes."""
        return bool(self.sha256 or _COMMIT.fullmatch(self.rev))


def read_reference(text: str, base: Path) -> Reference:
    """Return what a reference means; relative paths begin at `base`.

    Raises:
        PackError: it is none of the forms above.
    """
    if not text.strip() or not text.isprintable() or len(text) > 1000:
        raise PackError(f"`{printable(text)}` does not say where a pack is; {_FORMS}.")
    if text.startswith("gh:"):
        return _github(text)
    if text.startswith("git+"):
        return _git(text)
    if text.startswith("hf:"):
        return _hub(text)
    if "://" in text:
        return _url(text)
    return _path(text, base)


def pinned_in(reference: Reference, folder: Path) -> Reference:
    """Return the reference as a lock in `folder` says it, where a path begins at that folder."""
    if reference.kind != "path":
        return reference
    path = Path(reference.place).resolve()
    if path.is_relative_to(folder.resolve()):
        return replace(reference, text=f"./{path.relative_to(folder.resolve()).as_posix()}")
    return replace(reference, text=str(path))


def is_loopback(host: str | None) -> bool:
    """Say whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _github(text: str) -> Reference:
    place, rev = _rev(text, text.removeprefix("gh:"))
    match = _GITHUB.fullmatch(place)
    if not match:
        raise PackError(
            f"`{printable(text)}` does not name a repository on GitHub; write gh:owner/repo@rev or "
            "gh:owner/repo/folder@rev."
        )
    url = f"https://github.com/{match[1]}.git"
    return Reference("git", text, url, rev, match[2].removeprefix("/"))


def _git(text: str) -> Reference:
    url = text.removeprefix("git+")
    host = url.find("/", url.find("://") + 3)
    path, rev = _rev(text, url[host:]) if host > 0 else ("", "")
    place = url[:host] + path
    _check_url(text, place, secure=("https", "ssh"), local=("http", "git"))
    return Reference("git", text, place, rev)


def _hub(text: str) -> Reference:
    place, rev = _rev(text, text.removeprefix("hf:"))
    if not _HUB.fullmatch(place):
        raise PackError(
            f"`{printable(text)}` does not name a repository on the hub; write hf:org/repo@rev."
        )
    return Reference("hub", text, place, rev)


def _url(text: str) -> Reference:
    place, _, fragment = text.partition("#")
    _check_url(text, place, secure=("https",), local=("http",))
    match = _HASH.fullmatch(fragment)
    if not match:
        raise PackError(
            f"`{printable(text)}` does not say what to expect there; add #sha256= and the zip's 64 "
            "hexadecimal digits, which its author gives."
        )
    return Reference("url", text, place, sha256=match[1])


def _path(text: str, base: Path) -> Reference:
    try:
        path = base / Path(text).expanduser()
        is_there = path.is_dir() or path.is_file()  # a pipe or a device may never end
    except (OSError, ValueError, RuntimeError):  # too long, or no such `~user`
        is_there = False
    if not is_there:
        raise PackError(f"there is no pack at `{printable(text)}`; check the path, or {_FORMS}.")
    return Reference("path", text, str(path))


def _rev(text: str, place: str) -> tuple[str, str]:
    place, at, rev = place.rpartition("@") if "@" in place else (place, "", "")
    if at and (not _REV.fullmatch(rev) or ".." in rev or rev.endswith((".lock", "/"))):
        raise PackError(
            f"`{printable(text)}` asks for `{printable(rev)}`, which is no branch, tag or commit; "
            "write for example @v1.0.0."
        )
    return place, rev


def _check_url(text: str, url: str, *, secure: tuple[str, ...], local: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    if not host or port == 0 or host.startswith("-") or not parts.path.strip("/"):
        raise PackError(f"`{printable(text)}` is not a URL of a pack; {_FORMS}.")
    if parts.password or (parts.username and parts.scheme != "ssh"):
        raise PackError(
            f"the URL of {host} holds a name or password, which would be pinned for all to read; "
            "leave it out."
        )
    allowed = secure + local if is_loopback(host) else secure
    if parts.scheme not in allowed:
        raise PackError(
            f"`{printable(text)}` uses {parts.scheme or 'no'} transport; use "
            f"{' or '.join(secure)}."
        )
