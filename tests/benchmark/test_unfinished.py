"""What an interrupted comparison of rivals had done is of one model, and held by one at a time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock, Timeout

from steerplug.benchmark.rivals.unfinished import unfinished
from steerplug.fit.reply_cache import CachedReply
from steerplug.library.presets import load_preset
from steerplug.store.store import Store


def model(digit: str) -> Any:
    return SimpleNamespace(fingerprint=f"qwen3next-2048x48-{digit * 64}")


def test_models_that_differ_in_the_hash_alone_share_and_delete_nothing(tmp_path: Path) -> None:
    store, preset, reply = Store(tmp_path), load_preset("pirate"), CachedReply((1, 2), "hi")
    with unfinished(store, preset, model("a")) as (replies, _):
        replies.replies["x"] = reply
    with unfinished(store, preset, model("b")) as (replies, trained):
        assert not replies.replies
        replies.replies["y"] = trained.replies["z"] = reply
    with unfinished(store, preset, model("a")) as (replies, trained):
        assert replies.replies == {"x": reply}
        assert not trained.replies


def test_another_comparison_of_the_same_waits(tmp_path: Path) -> None:
    store, preset = Store(tmp_path), load_preset("pirate")
    with unfinished(store, preset, model("a")):
        (lock,) = tmp_path.rglob("*.lock")
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        with unfinished(store, preset, model("b")), unfinished(
            store, load_preset("concise"), model("a")
        ):
            pass
    FileLock(lock).acquire(timeout=0)
