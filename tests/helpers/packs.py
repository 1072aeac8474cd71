"""What tests of packs share: packs of any content, and servers on loopback that count."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from steerplug.packs.make import make_pack
from steerplug.packs.manifest import digest
from steerplug.preset import Preset
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering
from steerplug.store.store import Key, Store

MODEL = "tiny-8x4-" + "ab" * 32
N_EMBD, N_LAYER = 8, 4
HEAD = "schema: steerplug/pack-v1\nname: sea\nversion: 1.0.0\nlicense: MIT\n"
TEXT = """\
schema: steerplug/preset-v1
name: {name}
description: Says {name}. Too much says only that.
license: MIT
contrast: {{positive: "{name}", negative: Calm}}
fit: {{method: mean}}
"""


def presets(folder: Path, *names: str) -> Path:
    """A folder of presets that is no pack yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.yaml").write_text(TEXT.format(name=name))
    return folder


def compiled(folder: Path, name: str, size: float = 1.0, **said: Any) -> Path:
    """Steering of a preset of `folder` for a model of four blocks; `said` goes into the file."""
    preset = Preset.from_yaml((folder / f"{name}.yaml").read_bytes())
    key = Key(name, preset.digest, MODEL, "", "mean", 1)
    z = np.full((1, N_EMBD), size, np.float32)
    steering = Steering(name, N_EMBD, N_LAYER, {1: Delta.constant(z), 2: Delta.constant(z)})
    identity = Identity(
        name, preset.version, preset.digest, MODEL, "tiny", "", "mean", 0, "0",
        **{"fidelity": {"gap_closed": 0.75}, **said},
    )  # fmt: skip
    store = Store(folder / "compiled")
    path = store.path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_steering(path, steering, identity)
    return path


def pack(folder: Path, *names: str) -> Path:
    """The pack `sea`, its first preset compiled."""
    presets(folder, *names)
    (folder / "pack.yaml").write_text(HEAD)
    compiled(folder, names[0])
    make_pack(folder)
    return folder


def sealed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same files with a `pack.lock` that vouches for every one, whatever it holds."""
    lock = {"schema": "steerplug/pack-lock-v1", "files": {n: digest(c) for n, c in files.items()}}
    return {**files, "pack.lock": yaml.safe_dump(lock).encode()}


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file() and ".git" not in path.parts
    }  # fmt: skip


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder of those files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def git(folder: Path, *words: str) -> str:
    """What the real git answers in a folder."""
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    ran = subprocess.run(
        ["git", "-C", str(folder), *names, *words], capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def committed(folder: Path, *tags: str) -> str:
    """Make a folder a repository with one more commit, and return that."""
    git(folder, "init", "--quiet", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "presets")
    for tag in tags:
        git(folder, "tag", "-f", tag)
    return git(folder, "rev-parse", "HEAD")


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def served(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Serve GET, HEAD and POST with `answer` on loopback; yield the URL and what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            answer(self)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def git_over_http(root: Path) -> Answer:
    """Answer with git's own `http-backend` for the repositories below `root`."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        ran = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, check=False,
            env={
                "PATH": "/usr/bin:/bin", "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": request.command,
                "CONTENT_TYPE": request.headers.get("Content-Type") or "",
                "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding") or "",
                "GIT_PROTOCOL": request.headers.get("Git-Protocol") or "",
                "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            },
        )  # fmt: skip
        head, _, content = ran.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        request.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    return answer
