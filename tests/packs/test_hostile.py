"""Over two hundred hostile packs: each is refused in one sentence, and nothing of it is left.

Each is a good pack with one thing wrong. Where its own hashes would give it away, `pack.lock`
vouches for the hostile file as well, so that what refuses it is the check behind the hashes.
"""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerplug.commands.main import main
from steerplug.packs.lock import packs_folder
from steerplug.packs.manifest import digest
from tests.helpers.packs import (
    HEAD,
    TEXT,
    contents,
    pack,
    put,
    sealed,
)

Files = dict[str, bytes]
Hostile = tuple[str, Callable[[Path], None]]
GGUF = "compiled/tiny-8x4-abababa/"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A good pack of two presets, one of them compiled."""
    files: Files = contents(pack(tmp_path_factory.mktemp("good") / "sea", "ahoy", "calm"))
    return files


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], str]:
    """Add what lies at a path; return the one sentence that refuses it."""
    monkeypatch.setenv("STEERPLUG_PACKS", str(tmp_path / "packs"))
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)

    def refused(path: Path) -> str:
        outside = sorted(str(one) for one in tmp_path.rglob("*") if not one.is_relative_to(packs()))
        code = main(["add", str(path), "--yes"])
        said = capsys.readouterr()
        assert (code, said.out) == (2, ""), said.out
        assert said.err.startswith("steerplug: ")
        assert said.err.endswith((".\n", "?\n"))
        assert said.err.count("\n") == 1
        assert len(said.err) < 700
        assert all(one.isprintable() for one in said.err[:-1])
        assert sorted(one.name for one in packs().iterdir()) == [".lock"]
        assert outside == sorted(
            str(one) for one in tmp_path.rglob("*") if not one.is_relative_to(packs())
        )
        return said.err

    packs = packs_folder
    return refused


def steering_file(files: Files) -> str:
    return next(name for name in files if name.endswith(".gguf"))


# Presets, packs and locks that say what they may not


def yamls() -> Iterator[tuple[str, str, bytes]]:
    text = TEXT.format(name="ahoy")
    lines = {
        "a duplicate key": "version: 1.0.0\nversion: 1.0.1",
        "an unknown key": "run: rm -rf /",
        "an unknown method": "fit: {method: exec}",
        "a huge number": f"strength: {{max: {'9' * 5000}}}",
        "a number beyond floats": "strength: {max: 1.0e+999}",
        "NaN": "strength: {default: .nan}",
        "infinity": "strength: {max: .inf}",
        "a tag": "description: !!python/object/apply:os.system [id]",
        "an anchor": "tags: &a [x]",
        "an alias": "tags: *a",
        "a merge": "<<: {name: x}",
        "depth": "tags: " + "[" * 500 + "]" * 500,
        "a control character": 'description: "\\e[2J"',
        "a list for a text": "description: [x]",
        "a long text": "description: " + "x" * 2000,
        "many tags": f"tags: [{', '.join(f't{i}' for i in range(40))}]",
        "a list": "- x",
        "an unknown check": "checks: [{kind: shell}]",
        "a layer below 0": "fit: {method: mean, layers: [-1]}",
        "a layer of 1e30": "fit: {method: mean, layers: [1.0e+30]}",
        "another schema": "schema: steerplug/preset-v99",
        "a template": "scope: '{{ 7 * 7 }}'",
    }
    for what, line in lines.items():
        key = line.partition(":")[0]
        kept = [one for one in text.splitlines() if not one.startswith(f"{key}:")]
        yield what, "ahoy.yaml", "\n".join([*kept, line]).encode()
    yield "no UTF-8", "ahoy.yaml", b"name: \xff\xfe"
    yield "another name", "ahoy.yaml", TEXT.format(name="calm").encode()
    yield "a path for a name", "ahoy.yaml", TEXT.format(name="../../x").encode()
    yield "nothing", "ahoy.yaml", b""
    yield "zeros", "ahoy.yaml", bytes(1000)
    yield "too much", "ahoy.yaml", text.encode() + b"#" * 300_000
    yield "a pack called a path", "pack.yaml", HEAD.replace("sea", "../sea").encode()
    yield "a pack called steerplug", "pack.yaml", HEAD.replace("sea", "steerplug").encode()
    yield "a pack without a name", "pack.yaml", HEAD.replace("name: sea\n", "").encode()
    yield "a pack with code", "pack.yaml", (HEAD + "setup: import os\n").encode()
    yield "a version that is none", "pack.yaml", HEAD.replace("1.0.0", "new").encode()
    yield "a licence with an escape", "pack.yaml", HEAD.replace("MIT", '"\\e[31m"').encode()
    yield "an empty pack.yaml", "pack.yaml", b""
    yield "a list for pack.yaml", "pack.yaml", b"[]"
    yield "a binary pack.yaml", "pack.yaml", bytes(range(128, 178))


@pytest.mark.parametrize(("what", "name", "content"), list(yamls()), ids=lambda x: str(x)[:30])
def test_what_a_text_may_not_say(
    what: str, name: str, content: bytes, good: Files, tmp_path: Path,
    refused: Callable[[Path], str],
) -> None:  # fmt: skip
    files = {one: kept for one, kept in good.items() if one != "pack.lock"}
    said = refused(put(tmp_path / "bad", sealed({**files, name: content})))
    assert f"bad: {name}" in said or f"`{name}`" in said, what


NAMES = [
    "../x.yaml", "/etc/x.yaml", "a/../../x.yaml", "C:\\x.yaml", "..\\x.yaml", "x.py", "setup.py",
    "a/x.yaml", ".git/config", "pack.lock", "X.yaml", "x.yml", "compiled/x.gguf", "x.yaml\n",
    "compiled/../../x-0123456789abcdef.gguf", "compiled/a/b/x-0123456789abcdef.gguf", "x.so",
    "compiled/A/x-0123456789abcdef.gguf", "compiled/a/x.gguf", "./ahoy.yaml", "ahoy.yaml/", "",
    "a" * 300 + ".yaml", "\x00.yaml", "compiled", "README.md/x", "\u202eyaml.x", "~/x.yaml",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_that_names_what_a_pack_may_not_hold(
    name: str, good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    locked = sealed({**{n: c for n, c in good.items() if n != "pack.lock"}, name: b"x"})
    said = refused(put(tmp_path / "bad", {**good, "pack.lock": locked["pack.lock"]}))
    assert "pack.lock names" in said or "pack.lock, line" in said or "not valid YAML" in said


LOCKS = {
    "is empty": b"",
    "is zeros": bytes(100),
    "is no mapping": b"[]",
    "has no files": b"schema: steerplug/pack-lock-v1\nfiles: {}",
    "has another schema": b"schema: steerplug/pack-lock-v9\nfiles: {pack.yaml: x}",
    "has files that are a list": b"schema: steerplug/pack-lock-v1\nfiles: [pack.yaml]",
    "has a short hash": b"schema: steerplug/pack-lock-v1\nfiles: {pack.yaml: abc}",
    "has a number for a hash": b"schema: steerplug/pack-lock-v1\nfiles: {pack.yaml: 12}",
    "has a key twice": b"schema: steerplug/pack-lock-v1\nfiles: {}\nfiles: {}",
    "has a file twice": b"schema: x\nfiles: {pack.yaml: a, pack.yaml: b}",
    "has an unknown key": b"schema: steerplug/pack-lock-v1\nfiles: {}\nrun: x",
    "has an alias": b"schema: &a steerplug/pack-lock-v1\nfiles: *a",
    "is deep": b"files: " + b"{a: " * 200,
    "is too large": b"#" * 300_000,
    "has too many files": b"schema: steerplug/pack-lock-v1\nfiles:\n"
    + b"".join(b"  a%d.yaml: %064d\n" % (i, i) for i in range(1200)),
}


@pytest.mark.parametrize("what", LOCKS)
def test_a_lock_that_is_none(
    what: str, good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    assert "pack.lock" in refused(put(tmp_path / "bad", {**good, "pack.lock": LOCKS[what]}))


def test_a_lock_cut_at_every_block(
    good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    lock = good["pack.lock"]
    for end in range(0, len(lock) - 1, 32):  # the last byte ends a line
        cut = put(tmp_path / f"cut {end}", {**good, "pack.lock": lock[:end]})
        assert "pack.lock" in refused(cut)


# Hashes


def test_swapped_tampered_and_missing_files(
    good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    for name in sorted(set(good) - {"pack.lock"}):
        for how, content in {
            "flipped": good[name][:-1] + bytes([good[name][-1] ^ 1]), "cut": good[name][:-1],
            "grown": good[name] + b"\n", "empty": b"", "another": b"x" * len(good[name]),
        }.items():  # fmt: skip
            folder = tmp_path / f"{name.replace('/', '-')} {how}"
            said = refused(put(folder, {**good, name: content}))
            assert f"`{name}` is not what pack.lock says" in said
        without = {one: content for one, content in good.items() if one != name}
        said = refused(put(tmp_path / f"no {name.replace('/', '-')}", without))
        assert f"`{name}` is missing" in said
    lock = good["pack.lock"].decode()
    ahoy, calm = digest(good["ahoy.yaml"]), digest(good["calm.yaml"])
    swapped = lock.replace(ahoy, "@").replace(calm, ahoy).replace("@", calm).encode()
    assert "is not" in refused(put(tmp_path / "swapped", {**good, "pack.lock": swapped}))
    unlisted = put(tmp_path / "unlisted", {**good, "more.yaml": good["ahoy.yaml"]})
    assert "`more.yaml` is not in pack.lock" in refused(unlisted)


# Steering files


def resealed(good: Files, content: bytes) -> Files:
    files = {**good, steering_file(good): content}
    del files["pack.lock"]
    vouched: Files = sealed(files)
    return vouched


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def test_a_steering_file_cut_at_every_block(
    good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    content = good[steering_file(good)]
    ends = range(0, len(content), 32)
    assert len(ends) > 30
    for end in ends:
        said = refused(put(tmp_path / f"cut {end}", resealed(good, content[:end])))
        assert f"`{steering_file(good)}`" in said


def bad_numbers(content: bytes) -> dict[str, bytes]:
    """The steering file with one thing wrong in its header or its tensors."""
    first = content.index(b"direction.1")
    rank, n, kind, offset = first + 11, first + 15, first + 23, first + 27
    second = content.index(b"direction.2")

    def u32(x: int) -> bytes:
        return struct.pack("<I", x)

    def u64(x: int) -> bytes:
        return struct.pack("<Q", x)

    def at(place: int, new: bytes) -> bytes:
        return content[:place] + new + content[place + len(new) :]

    return {
        "NaN": content[:-4] + struct.pack("<f", float("nan")),
        "infinity": content[:-4] + struct.pack("<f", float("inf")),
        "another number": content[:-4] + struct.pack("<f", 3.0),
        "half floats": at(kind, u32(1)),
        "integers": at(kind, u32(26)),
        "quantised": at(kind, u32(2)),
        "an unknown type": at(kind, u32(999)),
        "overlapping tensors": at(second + 27, u64(0)),
        "a hole": at(second + 27, u64(4096)),
        "an offset out of range": at(offset, u64(2**60)),
        "a huge shape": at(n, u64(2**61)),
        "an empty shape": at(n, u64(0)),
        "a huge rank": at(rank, u32(2**31)),
        "a tensor twice": patched(content, b"direction.2", b"direction.1"),
        "an unknown tensor": patched(content, b"direction.2", b"eval_code.2"),
        "block 0": patched(content, b"direction.1", b"direction.0"),
        "a block beyond the model": patched(content, b"direction.2", b"direction.9"),
        "another magic": b"GGML" + content[4:],
        "another version": at(4, u32(99)),
        "big-endian": at(4, struct.pack(">I", 3)),
        "many tensors": at(8, u64(2**63)),
        "many keys": at(16, u64(2**63)),
        "no keys": at(16, u64(0)),
        "a long key": at(24, u64(2**62)),
        "appended bytes": content + bytes(64),
        "another width": patched(content, b"n_embd\x0a\0\0\0\x08", b"n_embd\x0a\0\0\0\x10"),
        "another preset": patched(content, b"\x04\0\0\0\0\0\0\0ahoy", b"\x04\0\0\0\0\0\0\0calm"),
        "another scope": patched(content, b"response", b"respons!"),
        "an unknown operation": patched(content, b"controlvector", b"shell-command"),
        "another format": patched(content, b"format\x0a\0\0\0\x01", b"format\x0a\0\0\0\x63"),
        "a changed claim": patched(content, b"0.75", b"0.99"),
        "zeros": bytes(len(content)),
        "nothing but a header": content[:24],
        "random bytes": os.urandom(2000),
        "text": b"import os; os.system('id')",
    }


def test_a_steering_file_with_one_thing_wrong(
    good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    for what, content in bad_numbers(good[steering_file(good)]).items():
        said = refused(put(tmp_path / what, resealed(good, content)))
        assert f"`{steering_file(good)}`" in said, what


def test_a_steering_file_of_another_model_preset_or_place(
    good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    name = steering_file(good)
    files = {one: content for one, content in good.items() if one != "pack.lock"}
    for place in (name.replace("tiny", "huge"), name.replace("ahoy", "calm")):
        moved = {**files, place: files[name]}
        del moved[name]
        said = refused(put(tmp_path / place.replace("/", "-"), sealed(moved)))
        assert f"`{place}` is not what its name says, but `ahoy` for the model tiny-8x4" in said
    edited = {**files, "ahoy.yaml": files["ahoy.yaml"].replace(b"Calm", b"Storm")}
    said = refused(put(tmp_path / "edited", sealed(edited)))
    assert f"`{name}` was built from another `ahoy` than the pack holds" in said


# Links, devices and zips


def test_links_and_what_is_no_file(
    good: Files, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    secret = tmp_path / "secret"
    for name in ("ahoy.yaml", "pack.lock", "README.md", steering_file(good)):
        secret.write_bytes(good[name])
        for kind in ("link", "pipe", "folder"):
            folder = put(tmp_path / f"{kind} {name.replace('/', '-')}", good)
            (folder / name).unlink()
            if kind == "link":
                (folder / name).symlink_to(secret)
            elif kind == "pipe":
                os.mkfifo(folder / name)
            else:
                (folder / name).mkdir()
            assert f"`{name}` is a link or no plain file" in refused(folder)
    folder = put(tmp_path / "linked", good)
    (folder / "compiled").rename(tmp_path / "elsewhere")
    (folder / "compiled").symlink_to(tmp_path / "elsewhere")
    assert "is a link or no plain file" in refused(folder)
    os.mkfifo(tmp_path / "sea.zip")
    for endless in (Path(os.devnull), Path("/dev/zero"), tmp_path / "sea.zip"):
        assert "there is no pack at" in refused(endless)


def zips(good: Files) -> Iterator[tuple[str, bytes]]:
    def made(add: Callable[[zipfile.ZipFile], None], **options: int) -> bytes:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in good.items():
                if name not in options:
                    archive.writestr(name, content)
            add(archive)
        return held.getvalue()

    def link(archive: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo("ahoy.yaml")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, good["ahoy.yaml"])  # so its hash is right

    def crowd(archive: zipfile.ZipFile) -> None:
        for i in range(6000):
            archive.writestr(f"{i}" + "x" * 400, b"")

    for name in ("../x", "/x", "a/../../x", "..\\x", "C:/x", "a\\..\\x"):
        yield f"a path {name}", made(lambda archive, name=name: archive.writestr(name, b"x"))  # type: ignore[misc]
    yield "a link", made(link, **{"ahoy.yaml": 1})
    yield "a bomb in a preset", made(
        lambda archive: archive.writestr("ahoy.yaml", bytes(50_000_000)), **{"ahoy.yaml": 1}
    )
    yield "a bomb in steering", made(
        lambda archive: archive.writestr(steering_file(good), bytes(70_000_000)),
        **{steering_file(good): 1},
    )
    whole = made(lambda _: None)
    yield "many members", made(crowd)
    for part in (*range(0, len(whole), 64), len(whole) - 1):
        yield f"cut at {part}", whole[:part]
    yield "zeros", bytes(5000)
    yield "a flipped byte", whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]
    yield "another way to compress", whole.replace(b"\x08\x00", b"\x63\x00")
    end = whole.rindex(b"PK\x05\x06")
    yield "a zip64 locator", whole[:end] + b"PK\x06\x07" + bytes(16) + whole[end:]
    yield "a directory of 4 GB", whole[: end + 12] + b"\xff" * 4 + whole[end + 16 :]
    flagged = bytearray(whole)
    for at in range(len(whole) - 4):
        if whole[at : at + 4] == b"PK\x01\x02":
            flagged[at + 8] |= 1
    yield "encrypted members", bytes(flagged)
    small = bytearray(made(
        lambda archive: archive.writestr("calm.yaml", bytes(5_000_000)), **{"calm.yaml": 1}
    ))  # fmt: skip
    at = small.rindex(b"calm.yaml") - 46 + 24
    small[at : at + 4] = struct.pack("<I", 200)
    yield "a bomb that lies about its size", bytes(small)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips(good: Files, tmp_path: Path, refused: Callable[[Path], str]) -> None:
    for i, (what, content) in enumerate(zips(good)):
        path = tmp_path / f"{i}.zip"
        path.write_bytes(content)
        assert f"{i}.zip" in refused(path), what
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        for name in (*good, "ahoy.yaml"):
            archive.writestr(name, good[name])
    assert "holds `ahoy.yaml` twice" in refused(twice)


# A disk that refuses


@pytest.mark.parametrize("at", range(2))
def test_a_disk_that_refuses_leaves_nothing_behind(
    at: int, good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One of the two renames fails: that of the pack's folder, or that of the lock."""
    monkeypatch.setenv("STEERPLUG_PACKS", str(tmp_path / "packs"))
    real, calls = os.replace, []

    def replace(*words: object) -> None:
        calls.append(words)
        if len(calls) == at + 1:
            raise OSError(28, "No space left on device")
        real(*words)  # type: ignore[arg-type]

    folder = put(tmp_path / "sea", good)
    monkeypatch.setattr(os, "replace", replace)
    assert main(["add", str(folder), "--yes"]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert [one.name for one in packs_folder().iterdir()] == [".lock"]
    assert main(["add", str(folder), "--yes"]) == 0
