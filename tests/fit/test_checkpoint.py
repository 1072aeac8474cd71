"""What an interrupted fit had done is there again, whole, and nothing of another fit is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.errors import StoreError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.reply_cache import CachedReply
from steerplug.steering.value import Delta

RNG = np.random.default_rng(0)
z, W, b, Z = (RNG.normal(size=n).astype(np.float32) for n in ((1, 6), (2, 6), (2,), (2, 6)))
ONE = CachedReply((5, 6, 7), "Ahoy, \N{ANCHOR}!")
TWO, NONE = CachedReply((2,), "b"), CachedReply((), "")
DELTA = Delta(z, W, b, Z, act="identity", norm="rms")


def loaded(path: Path) -> Checkpoint:
    kept = Checkpoint(path)
    kept.load()
    return kept


def test_replies_and_blocks_are_there_again(tmp_path: Path) -> None:
    kept = loaded(tmp_path / "m" / "pirate-1a.gguf")
    kept.replies["7"], kept.replies["2"] = ONE, NONE
    kept.deltas[3] = DELTA
    again = loaded(tmp_path / "m" / "pirate-1a.gguf")
    assert again.replies == {"7": ONE, "2": NONE}
    assert list(again.deltas) == [3]
    for name in ("z", "W", "b", "Z"):
        assert np.array_equal(getattr(again.deltas[3], name), getattr(DELTA, name))
    assert (again.deltas[3].act, again.deltas[3].norm) == ("identity", "rms")


def test_another_fit_of_the_preset_reads_nothing_and_deletes_it(tmp_path: Path) -> None:
    for name in ("pirate-1a", "pirate-x-1a", "json-1a"):
        loaded(tmp_path / f"{name}.gguf").replies["0"] = ONE
    assert not loaded(tmp_path / "pirate-2b.gguf").replies
    left = sorted(path.name.split(".")[0] for path in tmp_path.iterdir())
    assert left == ["json-1a", "pirate-x-1a"]


def test_a_fit_by_another_method_takes_the_replies_and_leaves_the_rest(tmp_path: Path) -> None:
    def fit(name: str, model: str, method: str) -> Checkpoint:
        kept = Checkpoint(tmp_path / f"pirate-{name}.gguf", model=model, method=method)
        kept.load()
        return kept

    trained = fit("1a", "llama-64x4-aa", "psr")
    trained.replies["0"] = ONE
    trained.keep_training({"best": np.array(0.5)})
    assert fit("2b", "llama-64x4-aa", "chain").replies == {"0": ONE}
    assert not fit("3c", "llama-64x4-ab", "psr").replies
    again = fit("1a", "llama-64x4-aa", "psr")
    assert (again.replies, float(again.training["best"])) == ({"0": ONE}, 0.5)
    fit("4d", "llama-64x4-aa", "psr")
    assert not again.is_there


def test_a_quick_fit_shares_its_replies_with_the_full_one_and_nothing_else(
    tmp_path: Path
) -> None:
    path = tmp_path / "pirate-1a.gguf"
    full = loaded(path)
    full.replies["0"], full.deltas[3] = ONE, DELTA
    full.keep_training({"best": np.array(0.5)})
    quick = Checkpoint(path, quick=True)
    quick.load()
    assert quick.replies == {"0": ONE}
    assert not quick.deltas
    assert not quick.training
    quick.replies["1"], quick.deltas[4] = TWO, DELTA
    quick.keep_training({"best": np.array(0.7)})
    again = Checkpoint(path, quick=True)
    again.load()
    assert (list(again.deltas), float(again.training["best"])) == ([4], 0.7)
    again.drop()
    full = loaded(path)
    assert full.replies == {"0": ONE, "1": TWO}
    assert (list(full.deltas), float(full.training["best"])) == ([3], 0.5)
    left = Checkpoint(path, quick=True)
    left.load()
    assert not left.deltas
    assert not left.training
    full.drop()
    assert not list(tmp_path.iterdir())


def test_a_quick_fit_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "pirate-1a.gguf", quick=True)
    kept.load()
    kept.drop()
    assert not list(tmp_path.iterdir())


def test_what_is_dropped_is_gone_and_dropping_nothing_is_fine(tmp_path: Path) -> None:
    kept = loaded(tmp_path / "pirate-1a.gguf")
    kept.drop()
    kept.replies["0"] = ONE
    kept.drop()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["cut", "changed", "foreign", "empty", "pickle", "deep"])
def test_a_damaged_file_is_done_over(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = loaded(tmp_path / "pirate-1a.gguf")
    kept.replies["0"], kept.deltas[3] = ONE, DELTA
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    middle = content.index(DELTA.W.tobytes())
    if how == "pickle":
        np.savez(path, replies=np.array([{}], object))  # runs code when it is unpickled
    elif how == "deep":
        np.savez(path, replies=np.frombuffer(b"[" * 3000, np.uint8))
    else:
        path.write_bytes({
            "cut": content[: len(content) // 2],
            "changed": content[:middle] + b"?" + content[middle + 1 :],
            "foreign": b"GGUF" + content[4:], "empty": b"",
        }[how])  # fmt: skip
    again = loaded(tmp_path / "pirate-1a.gguf")
    assert not again.replies
    assert not again.deltas
    assert "the fit begins anew" in caplog.text
    again.replies["0"] = TWO
    assert loaded(tmp_path / "pirate-1a.gguf").replies == {"0": TWO}


def test_a_save_that_fails_is_one_sentence_and_leaves_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = loaded(tmp_path / "pirate-1a.gguf")
    kept.replies["0"] = ONE

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StoreError, match=r"cannot be used .*No space left.*STEERPLUG_CACHE"):
        kept.replies["1"] = TWO
    monkeypatch.undo()
    assert loaded(tmp_path / "pirate-1a.gguf").replies == {"0": ONE}
    assert len(list(tmp_path.iterdir())) == 1


def test_two_that_save_at_once_share_no_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, savez = tmp_path / "pirate-1a.gguf", np.savez
    first, second = loaded(path), loaded(path)

    def in_between(*args: Any, **arrays: Any) -> None:
        monkeypatch.setattr(np, "savez", savez)
        second.replies["2"] = TWO
        savez(*args, **arrays)

    monkeypatch.setattr(np, "savez", in_between)
    first.replies["1"] = ONE
    assert loaded(path).replies == {"1": ONE}
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_fit_left_half_written_goes(tmp_path: Path) -> None:
    kept = loaded(tmp_path / "pirate-1a.gguf")
    kept.replies["0"] = ONE
    (path,) = tmp_path.iterdir()
    path.with_name(f"{path.name}.{'0' * 32}.tmp").write_bytes(b"PK")
    assert loaded(tmp_path / "pirate-1a.gguf").replies == {"0": ONE}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used"):
        loaded(tmp_path / "file" / "pirate-1a.gguf")
