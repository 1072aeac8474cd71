"""A git repository as a source of files, read from its objects: nothing is ever checked out.

So no hook, filter, line ending, submodule or link of the repository acts on this machine. The `git`
command runs without a shell, without configuration of the system or the user, without prompts, and
with the protocols of `reference` alone; what it fetches is one commit, watched for size and time.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from steerplug.errors import PackError
from steerplug.files.yaml_file import printable
from steerplug.packs.manifest import MAX_TOTAL
from steerplug.packs.reference import is_loopback
from steerplug.packs.source import check_total, missing, not_plain, too_large

SECONDS = 600
_PLAIN = ("100644", "100755")
_ENTRY = re.compile(rb"(\d+) (\w+) ([0-9a-f]+) +(-|\d+)\t([^\0]*)\0")
_SETTINGS = (
    "core.hooksPath=/dev/null", "credential.helper=", "gc.auto=0", "maintenance.auto=false",
    "transfer.fsckObjects=true", "fetch.recurseSubmodules=false", "protocol.version=2",
    "http.lowSpeedLimit=1", "http.lowSpeedTime=60",
)  # fmt: skip


class Git:
    """One commit of a repository, fetched.

    Args:
        url: where it is; checked by `reference`.
        rev: branch, tag or commit; empty for the head.
        work: an empty folder for git's objects.
        label: what messages call it.
        folder: the pack's folder in it.

    Raises:
        PackError: there is no git, no such repository or revision, or it is too large.
    """

    def __init__(self, url: str, rev: str, work: Path, label: str, folder: str = "") -> None:
        self.label, self._work = label, work
        self._environment = _environment(url)
        self._run("init", "--quiet", "--bare", "--template=", str(work))
        self._fetch(url, rev or "HEAD")
        self.commit = self._run("rev-parse", "--verify", "FETCH_HEAD^{commit}").decode().strip()
        self._tree = f"{self.commit}:{folder}"

    def top(self) -> list[str]:
        """Return the names of the files at its top."""
        return [name for name, (mode, _, _) in self._entries("").items() if mode != "040000"]

    def read(self, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files; see `Source.read`."""
        folders = {name.rpartition("/")[0] for name in limits}
        entries = {folder: self._entries(folder) for folder in folders}
        objects, total = {}, 0
        for name, limit in limits.items():
            folder, _, file = name.rpartition("/")
            if file not in entries[folder]:
                raise missing(self.label, name)
            mode, size, objects[name] = entries[folder][file]
            if mode not in _PLAIN:
                raise not_plain(self.label, name)
            if size > limit:
                raise too_large(self.label, name, limit)
            total += size
        check_total(self.label, total)
        yield from self._contents(objects)

    def _contents(self, objects: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Yield the blobs of one commit; their sizes were looked at before."""
        asked = "\n".join(objects.values()).encode() + b"\n"
        answer = self._run("cat-file", "--batch", given=asked)
        at = 0
        for name in objects:
            end = answer.index(b"\n", at)
            size = int(answer[at:end].split()[-1])
            yield name, answer[end + 1 : end + 1 + size]
            at = end + 1 + size + 1

    def _entries(self, folder: str) -> dict[str, tuple[str, int, str]]:
        """Return name -> (mode, size, object) of one folder."""
        between = "/" if folder and not self._tree.endswith(":") else ""
        try:
            listed = self._run("ls-tree", "-z", "-l", f"{self._tree}{between}{folder}")
        except PackError:
            if not folder:
                raise
            listed = b""  # no such folder, so what should be in it is missing
        return {
            name.decode("utf-8", "replace"): (mode.decode(), int(size), sha.decode())
            if size != b"-"
            else (mode.decode(), 0, sha.decode())
            for mode, _, sha, size, name in _ENTRY.findall(listed)
        }

    def _fetch(self, url: str, rev: str) -> None:
        """Fetch one commit and nothing around it; stop what grows or takes beyond measure."""
        words = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-commit-graph", "--",
                 url, rev)  # fmt: skip
        with self._started(*words) as process:
            begin = time.monotonic()
            while True:
                try:
                    _, complaint = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if _size(self._work) > MAX_TOTAL or time.monotonic() - begin > SECONDS:
                        process.kill()
                        raise PackError(
                            f"{self.label} is larger than {MAX_TOTAL >> 20} MB, or takes over "
                            f"{SECONDS // 60} minutes to fetch; do not use this pack."
                        ) from None
        if process.returncode:
            raise self._failed(complaint)

    def _run(self, *words: str, given: bytes = b"") -> bytes:
        with self._started(*words) as process:
            answer, complaint = process.communicate(given)
        if process.returncode:
            raise self._failed(complaint)
        return answer

    def _started(self, *words: str) -> "subprocess.Popen[bytes]":
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                ["git", *settings, *words], cwd=self._work, env=self._environment,
                stdin=pipe, stdout=pipe, stderr=pipe,
            )  # fmt: skip
        except FileNotFoundError:
            raise PackError(f"{self.label} needs the command `git`; install it first.") from None

    def _failed(self, complaint: bytes) -> PackError:
        lines = [line for line in complaint.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("fatal")), (lines or ["?"])[0])
        return PackError(
            f"{self.label} cannot be fetched ({printable(reason.removeprefix('fatal: '))}); check "
            "the address and the revision, and that you are online."
        )


def _environment(url: str) -> dict[str, str]:
    """Return the environment of git: ours, without what would configure it or make it ask."""
    parts = urlsplit(url)
    kept = {
        key: value for key, value in os.environ.items()
        if not key.startswith("GIT_") and key not in ("SSH_ASKPASS", "DISPLAY")
    }  # fmt: skip
    local = is_loopback(parts.hostname) and parts.scheme in ("http", "git")
    return kept | {
        "GIT_ALLOW_PROTOCOL": f"https:ssh:{parts.scheme}" if local else "https:ssh",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DIR": ".",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def _size(folder: Path) -> int:
    """Return the bytes below a folder that git is writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total
