"""One place of presets: what is there comes in, what is made goes out, what is torn does not."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import fsspec
import numpy as np
import pytest

from steerplug.cluster.place import Place
from steerplug.errors import StoreError
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering

FILE = "compiled/llama-8x2/sailor-0123456789abcdef.gguf"


def write(path: Path, size: float = 1.0) -> bytes:
    """Write a file of steering, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    z = np.full(8, size, np.float32)
    identity = Identity("sailor", "1.0.0", "d", "llama-8x2", "llama", "", "mean", 0, "0")
    write_steering(path, Steering("sailor", 8, 2, {1: Delta.constant(z)}), identity)
    return path.read_bytes()


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that is a folder, and one that is not."""
    there = f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path / "place")
    system, root = fsspec.url_to_fs(there)
    system.makedirs(root)
    system.pipe_file(f"{root}/sailor.yaml", b"name: sailor")
    system.pipe_file(f"{root}/notes.txt", b"not ours")
    return there


@pytest.fixture
def node(tmp_path: Path) -> Callable[[str, str], Place]:
    return lambda url, name: Place(url, tmp_path / name)


def test_what_one_node_compiles_the_others_have(
    url: str, node: Callable[[str, str], Place], tmp_path: Path
) -> None:
    one, other = node(url, "one"), node(url, "other")
    for each in (one, other):
        each.pull()
        assert [path.name for path in each.folder.iterdir() if path.is_file()] == ["sailor.yaml"]
    content = write(one.folder / FILE)
    one.push()
    one.pull()
    other.pull()
    assert (other.folder / FILE).read_bytes() == content
    system, root = fsspec.url_to_fs(url)
    system.rm(f"{root}/sailor.yaml")
    system.pipe_file(f"{root}/{FILE}", write(tmp_path / "new.gguf", 2.0))
    other.pull()
    assert not (other.folder / "sailor.yaml").exists()
    assert (other.folder / FILE).read_bytes() != content


def test_a_file_that_is_not_what_it_says_is_not_taken_and_the_old_one_stays(
    url: str, node: Callable[[str, str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = node(url, "one")
    place.pull()
    system, root = fsspec.url_to_fs(url)
    content = write(place.folder / FILE)
    place.push()
    for wrong in (content[:-1], content[:-3] + b"\x7f" + content[-2:], b"", b"GGUF"):
        with caplog.at_level(logging.WARNING):
            system.pipe_file(f"{root}/{FILE}", wrong)
            place.pull()
        assert (place.folder / FILE).read_bytes() == content
        assert f"{url}/{FILE} is not taken: " in caplog.text
        assert len(list((place.folder / FILE).parent.iterdir())) == 1
        caplog.clear()


RECORDS = {
    "whole": None, "lost": b"", "cut": b'{"sailor', "another": b'["sailor.yaml"]',
    "binary": b"\xff\xfe", "deep": b"[" * 200_000,
}  # fmt: skip


def is_empty(url: str) -> bool:
    system, root = fsspec.url_to_fs(url)
    return not any("sailor" in str(path) for path in system.find(root))


@pytest.mark.parametrize("record", RECORDS)
def test_what_is_withdrawn_while_a_node_is_down_goes_there_too_and_never_returns(
    url: str, node: Callable[[str, str], Place], record: str
) -> None:
    one, down = node(url, "one"), node(url, "down")
    one.pull()
    write(one.folder / FILE)
    one.push()
    down.pull()
    assert (down.folder / FILE).exists()
    system, root = fsspec.url_to_fs(url)
    for name in (FILE, "sailor.yaml"):
        system.rm(f"{root}/{name}")
    file, content = down.folder.with_suffix(".json"), RECORDS[record]
    if content is not None:
        file.unlink() if record == "lost" else file.write_bytes(content)
    again = node(url, "down")
    again.push()
    again.pull()
    again.push()
    assert is_empty(url)
    assert not [path for path in again.folder.rglob("*") if path.is_file()]
    content = write(again.folder / FILE)  # and compiled anew it goes out again
    again.push()
    assert system.cat_file(f"{root}/{FILE}") == content


def test_what_was_made_while_the_place_was_away_goes_out_after_a_restart(
    url: str, node: Callable[[str, str], Place]
) -> None:
    node(url, "one").pull()
    content = write(node(url, "one").folder / FILE)
    again = node(url, "one")
    again.pull()
    again.push()
    system, root = fsspec.url_to_fs(url)
    assert system.cat_file(f"{root}/{FILE}") == content
    system.rm(f"{root}/{FILE}")
    again.push()  # what was sent is not sent twice
    assert not system.exists(f"{root}/{FILE}")


@pytest.mark.parametrize("ends_midway", [True, False])
def test_what_came_in_is_not_taken_for_made_here_by_who_ended_midway_or_shares_the_copy(
    url: str, node: Callable[[str, str], Place], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, ends_midway: bool,
) -> None:  # fmt: skip
    one, beside = node(url, "node"), node(url, "node")
    beside.pull()
    system, root = fsspec.url_to_fs(url)
    system.makedirs(f"{root}/{FILE}".rpartition("/")[0], exist_ok=True)
    system.pipe_file(f"{root}/{FILE}", write(tmp_path / "made.gguf"))
    bring = Place._bring

    def end_midway(place: Place, name: str) -> None:
        bring(place, name)
        raise KeyboardInterrupt

    if ends_midway:
        monkeypatch.setattr(Place, "_bring", end_midway)
    with pytest.raises(KeyboardInterrupt) if ends_midway else nullcontext():
        one.pull()
    assert (one.folder / FILE).exists()
    system.rm(f"{root}/sailor.yaml")
    system.rm(f"{root}/{FILE}")
    beside.push()
    assert is_empty(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("/no/such/place", "there is no folder /no/such/place; make it"),
        ("memory://no-such-place", "there is no folder memory://no-such-place"),
        ("nosuch://bucket", "nosuch://bucket is no place of presets"),
    ],
)
def test_a_place_that_cannot_be_used_is_a_sentence(
    url: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=sentence):
        Place(url, tmp_path)
