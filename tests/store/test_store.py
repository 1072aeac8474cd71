"""The store: made once, whole or not at all, and never anything but what was asked for."""

import errno
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

from steerplug.errors import SteeringError, StoreError
from steerplug.steering import Delta, Steering
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.store import store as store_module
from steerplug.store.store import Key, Made, Store

KEY = Key("love", "d1", "sha256:" + "ab" * 32, "t1", "mean", 1)
IDENTITY = Identity("love", "1.0.0", "d1", KEY.model, "llama", "t1", "mean", 0, "0.1.0")
STEERING = Steering("love", 4, 3, {1: Delta.constant(np.arange(4, dtype=np.float32))})
OTHER = Steering("love", 4, 3, {2: Delta.constant(np.ones(4, np.float32))})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def find(store: Store, key: Key = KEY) -> Made | None:
    return store.find(key, n_embd=4, n_layer=3)


def find_or_make(store: Store, make: Callable[[], Made] = lambda: (STEERING, IDENTITY)) -> Made:
    return store.find_or_make(KEY, make, n_embd=4, n_layer=3)


def never() -> Made:
    raise AssertionError("made although it was there")


def left_over(store: Store) -> list[str]:
    """Return the names of all files but the finished ones and their locks."""
    files = [path.name for path in store.folder.rglob("*") if path.is_file()]
    return [name for name in files if not name.endswith((".gguf", ".gguf.lock"))]


# --- finding and publishing ----------------------------------------------------------------------


def test_what_is_published_is_found_and_nothing_was_there_before(store: Store) -> None:
    assert find(store) is None
    assert not store.folder.exists()
    path = store.publish(KEY, STEERING, IDENTITY)
    assert path == store.path(KEY)
    found = find(store)
    assert found
    assert (found[0].digest, found[1]) == (STEERING.digest, IDENTITY)
    assert left_over(store) == []


def test_publishing_again_replaces(store: Store) -> None:
    store.publish(KEY, STEERING, IDENTITY)
    store.publish(KEY, OTHER, IDENTITY)
    found = find(store)
    assert found
    assert found[0].digest == OTHER.digest


def test_it_is_made_once_and_then_found(store: Store) -> None:
    assert find_or_make(store)[0] is STEERING
    steering, identity = find_or_make(store, never)
    assert (steering.digest, identity) == (STEERING.digest, IDENTITY)


def test_what_is_there_is_found_without_waiting_for_a_lock(store: Store) -> None:
    path = store.publish(KEY, STEERING, IDENTITY)
    lock = path.with_name(f"{path.name}.lock")
    lock.unlink()
    lock.mkdir()
    assert find_or_make(store, never)[0].digest == STEERING.digest


def test_every_part_of_the_key_is_another_file(store: Store, monkeypatch: Any) -> None:
    keys = [
        KEY,
        replace(KEY, preset="hate"),
        replace(KEY, preset_digest="d2"),
        replace(KEY, model="m2"),
        replace(KEY, chat_template="t2"),
        replace(KEY, method="pca"),
        replace(KEY, fit_version=2),
        replace(KEY, quick=True),
    ]
    paths = {store.path(key) for key in keys}
    monkeypatch.setattr(store_module, "FORMAT", 2)
    paths.add(store.path(KEY))
    assert len(paths) == len(keys) + 1


def test_a_full_fit_keeps_the_address_that_it_had_before_there_were_quick_ones() -> None:
    assert KEY.digest.startswith("f3c396ca30679198")
    assert replace(KEY, quick=True).full.digest == KEY.digest


def test_a_quick_fit_and_the_full_one_are_never_taken_for_each_other(store: Store) -> None:
    quick, its = replace(KEY, quick=True), replace(IDENTITY, fidelity={"quick": True})
    for key, identity in ((KEY, its), (quick, IDENTITY)):
        with pytest.raises(StoreError, match="says it is of another"):
            store.publish(key, STEERING, identity)
    store.publish(KEY, STEERING, IDENTITY)
    os.replace(store.path(KEY), store.path(quick))
    with pytest.raises(SteeringError, match="is not what its name says"):
        find(store, quick)


def test_a_quick_fit_waits_for_the_full_one(store: Store) -> None:
    path = store.path(KEY)
    path.parent.mkdir(parents=True)
    made: list[bool] = []

    def make() -> Made:
        with pytest.raises(Timeout):
            FileLock(f"{path}.lock").acquire(timeout=0)
        made.append(True)
        return STEERING, replace(IDENTITY, fidelity={"quick": True})

    store.find_or_make(replace(KEY, quick=True), make, n_embd=4, n_layer=3)
    assert made


def test_names_are_safe_on_every_system(store: Store) -> None:
    path = store.path(replace(KEY, preset="con.x", model='A:\\B/../"*?<>|'))
    assert path.parent.parent == store.folder
    assert path.name.startswith("con_x-")
    assert set(path.parent.name) <= set("ab_")
    with pytest.raises(StoreError, match=r"'\.\./x' cannot name a file; use"):
        replace(KEY, preset="../x")


def test_the_folder_is_the_argument_or_the_variable_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("STEERPLUG_CACHE", "")
    assert Store().folder.is_absolute()
    assert "steerplug" in Store().folder.parts
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "mine"))
    assert Store().folder == tmp_path / "mine"
    assert Store(tmp_path / "given").folder == tmp_path / "given"


# --- one of several processes makes it -----------------------------------------------------------

WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from tests.store.test_store import IDENTITY, KEY, STEERING
    from steerplug.store.store import Store

    folder = Path(sys.argv[1])

    def make():
        with (folder / "made").open("a") as file:
            file.write("x")
        deadline = time.monotonic() + 60
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return STEERING, IDENTITY

    (folder / f"ready-{sys.argv[3]}").touch()
    print(Store(folder / "cache").find_or_make(KEY, make, n_embd=4, n_layer=3)[0].digest)
    """
)


def worker(folder: Path, number: int) -> subprocess.Popen[str]:
    args = [sys.executable, "-c", WORKER, str(folder), str(Path(__file__).parent), str(number)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(12000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within two minutes")


def test_two_processes_that_need_the_same_thing_make_it_once(tmp_path: Path) -> None:
    workers = [worker(tmp_path, number) for number in (1, 2)]
    until(lambda: all((tmp_path / f"ready-{number}").exists() for number in (1, 2)))
    until((tmp_path / "made").exists)
    threading.Event().wait(0.5)  # time for the second to make it too, if no lock held it back
    (tmp_path / "go").touch()
    answers = [process.communicate(timeout=120)[0].strip() for process in workers]
    assert answers == [STEERING.digest] * 2
    assert (tmp_path / "made").read_text() == "x"


def test_what_a_killed_process_left_is_ignored_and_cleaned_up(tmp_path: Path) -> None:
    process = worker(tmp_path, 1)
    until((tmp_path / "made").exists)
    process.kill()
    process.communicate(timeout=120)
    store = Store(tmp_path / "cache")
    torn = store.path(KEY).with_name(f"{store.path(KEY).name}.{'0' * 32}.tmp")
    torn.write_bytes(b"GGUF")
    other = torn.with_name("hate-0123456789abcdef.gguf.00.tmp")
    other.write_bytes(b"GGUF")
    assert find(store) is None
    assert find_or_make(store)[0] is STEERING
    assert left_over(store) == [other.name]


# --- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError, OSError])
def test_what_stops_making_passes_and_leaves_nothing(
    store: Store, stop: type[BaseException]
) -> None:
    def make() -> Made:
        raise stop

    with pytest.raises(stop):
        find_or_make(store, make)
    assert find(store) is None
    assert left_over(store) == []
    assert find_or_make(store)[0] is STEERING


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_publication_leaves_what_was_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, old: bool, step: str
) -> None:
    if old:
        store.publish(KEY, OTHER, IDENTITY)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.publish(KEY, STEERING, IDENTITY)
    found = find(store)
    assert (found[0].digest if found else None) == (OTHER.digest if old else None)
    assert left_over(store) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cache folder .* \(No space left on device\); set STEER"):
        find_or_make(store)
    assert not find(store)
    assert left_over(store) == []


@pytest.mark.parametrize("limit", [0, 100, 1000, 1500, 100_000])
def test_a_file_that_the_system_cuts_short_is_never_published(store: Store, limit: int) -> None:
    resource = pytest.importorskip("resource")
    large = replace(OTHER, n_embd=2**16, layers={2: Delta.constant(np.ones(2**16, np.float32))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreError, match="set STEERPLUG_CACHE to a folder with space"):
            store.publish(KEY, large, IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not find(store)
    assert left_over(store) == []


@pytest.mark.parametrize("fault", ["torn", "other"])
def test_what_does_not_read_back_is_not_published(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def faulty(path: Path, steering: Steering, identity: Identity) -> None:
        write_steering(path, steering if fault == "torn" else OTHER, identity)
        if fault == "torn":
            os.truncate(path, path.stat().st_size - 1)

    monkeypatch.setattr(store_module, "write_steering", faulty)
    with pytest.raises(StoreError, match=r"did not survive|holds other numbers"):
        store.publish(KEY, STEERING, IDENTITY)
    assert not find(store)
    assert left_over(store) == []


@pytest.mark.parametrize("place", ["file", "under a file", "/proc/steerplug", "path"])
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    folders = {"file": tmp_path / "file", "under a file": tmp_path / "file" / "cache"}
    store = Store(folders.get(place, Path(place) if place[0] == "/" else tmp_path / "cache"))
    if place == "path":
        store.path(KEY).mkdir(parents=True)
    else:
        assert find(store) is None
    with pytest.raises(StoreError) as caught:
        find_or_make(store)
    assert str(caught.value).startswith(f"the cache folder {store.folder} cannot be used (")
    assert str(caught.value).endswith("set STEERPLUG_CACHE to a folder with space that you may "
                                      "write to.")  # fmt: skip


# --- nothing but what was asked for --------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def not_finite(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-32] + np.float32(np.nan).tobytes() + data[-28:])


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def of_another_width(path: Path) -> None:
    write_steering(path, replace(STEERING, n_embd=1, layers={1: Delta.constant(NUMBER)}), IDENTITY)


def of_another_depth(path: Path) -> None:
    write_steering(path, replace(STEERING, n_layer=9), IDENTITY)


def of_another_model(path: Path) -> None:
    write_steering(path, STEERING, replace(IDENTITY, model="m2"))


def of_another_preset(path: Path) -> None:
    write_steering(path, STEERING, replace(IDENTITY, preset_digest="d2"))


def made_by_others(path: Path) -> None:
    data = path.read_bytes()
    data = data.replace(b"steerplug.", b"otherplug.")
    path.write_bytes(data)


def a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


NUMBER = np.ones(1, np.float32)
BREAKS = [
    cut,
    empty,
    not_finite,
    one_bit,
    of_another_width,
    of_another_depth,
    of_another_model,
    of_another_preset,
    made_by_others,
    a_dangling_link,
]


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_file_is_refused_with_the_cure(
    store: Store, damage: Callable[[Path], None]
) -> None:
    path = store.publish(KEY, STEERING, IDENTITY)
    damage(path)
    with pytest.raises(SteeringError) as caught:
        find(store)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "delete it, or run `steerplug build love --force -m MODEL`" in said
    assert said.endswith(".")
    assert ". " not in said


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_file_is_made_again_with_a_warning(
    store: Store, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = store.publish(KEY, OTHER, IDENTITY)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert find_or_make(store)[0] is STEERING
    (warning,) = caplog.messages
    assert str(path) in warning
    assert warning.endswith("Made again.")
    found = find(store)
    assert found
    assert found[0].digest == STEERING.digest


def test_what_was_made_for_another_key_is_not_published(store: Store) -> None:
    for name in ("preset", "preset_digest", "model", "chat_template", "method"):
        changes: dict[str, Any] = {name: "else"}
        with pytest.raises(StoreError, match="says it is of another preset"):
            find_or_make(store, lambda c=changes: (STEERING, replace(IDENTITY, **c)))  # type: ignore[misc]
    assert find(store) is None
