"""Packs over real transports: git, http, a zip, a folder, a Python package; pinned and used."""

import http.server
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from steerplug.commands.main import main
from steerplug.errors import PackError, PresetError
from steerplug.library.presets import find_preset, list_presets, load_preset
from steerplug.packs import download, entry_points
from steerplug.packs.installed import packs
from steerplug.packs.lock import packs_folder, read_lock
from steerplug.packs.make import make_pack
from steerplug.packs.manifest import digest
from steerplug.packs.reference import read_reference
from steerplug.store.measurements import remember
from tests.helpers.packs import (
    MODEL,
    TEXT,
    committed,
    compiled,
    contents,
    git,
    git_over_http,
    pack,
    presets,
    put,
    served,
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh user and working folder."""
    monkeypatch.setenv("STEERPLUG_PACKS", str(tmp_path / "packs"))
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "mine"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def call(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command; return its exit code, stdout and stderr."""
    assert here.exists()

    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def answer_of(ended: tuple[int, str, str]) -> dict[str, object]:
    code, out, err = ended
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    return found


# Making


def test_a_folder_becomes_a_pack_with_a_readme_and_a_lock(here: Path, call: Call) -> None:
    folder = presets(here / "sea", "ahoy", "calm")
    compiled(folder, "ahoy")
    made = answer_of(call("pack", str(folder), "--json"))
    assert (made["pack"], made["version"], made["license"]) == ("sea", "1.0.0", "MIT")
    assert made["sha256"] == digest((folder / "pack.lock").read_bytes())
    assert made["changed"] == sorted({*contents(folder)} - {"README.md", "pack.lock"})
    readme = (folder / "README.md").read_text()
    assert "| ahoy | Says ahoy. Too much says only that. | 0 to 2 | 75% on tiny-8x4 |" in readme
    head, _, body = readme.removeprefix("---\n").partition("\n---\n")
    mine = f"---\n# mine\nlanguage: en\n{head}\n---\n# Mine\n\n{body}\nThanks.\n"
    (folder / "README.md").write_text(mine)
    code, out, err = call("pack", str(folder))
    assert (code, err.count("\n")) == (0, 2)
    assert "`base_model: [org/model]`" in err
    assert f"Next: `steerplug add {folder}` tries it here" in err
    assert "changed  nothing" in out
    assert (folder / "README.md").read_text() == mine
    (folder / "calm.yaml").write_text(TEXT.format(name="calm").replace("Calm", "Storm"))
    _, out, err = call("pack", str(folder))
    assert "calm.yaml" in out
    assert "The version is still 1.0.0; raise it" in err


def test_pack_takes_along_what_was_built_here_for_the_presets_as_they_are(
    here: Path, call: Call
) -> None:
    folder = presets(here / "sea", "ahoy", "calm")
    built = [compiled(folder, name) for name in ("ahoy", "calm")]
    (folder / "compiled").rename(here / "cache")
    (folder / "calm.yaml").write_text(TEXT.format(name="calm").replace("Calm", "Storm"))
    answer_of(call("pack", str(folder), "--compiled", "--json"))
    assert [path.exists() for path in built] == [True, False]
    _, _, err = call("pack", str(folder), "--compiled")
    assert "as no full build of them is kept here: calm." in err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bad.yaml", b"name: [", "bad.yaml, line 1: this is not valid YAML"),
        ("Bad.yaml", b"", "`Bad.yaml` cannot be part of a pack; presets are NAME.yaml"),
        ("x.yml", b"", "`x.yml` cannot be part of a pack"),
        ("compiled/a/x.gguf", b"", "`compiled/a/x.gguf` cannot be part of a pack"),
        ("README.md", b"\xff", "README.md is not UTF-8 text; save it again"),
        ("other.yaml", TEXT.format(name="ahoy").encode(), "other.yaml says `name: ahoy`"),
        ("pack.yaml", b"schema: steerplug/pack-v1\nname: steerplug\n", "names the presets that sh"),
        ("pack.yaml", b"name: sea\n", "`schema` is missing; a pack's author refreshes it"),
    ],
)
def test_what_cannot_be_packed_is_named_and_nothing_is_written(
    here: Path, call: Call, name: str, content: bytes, said: str
) -> None:
    folder = put(presets(here / "sea", "ahoy"), {name: content})
    before = contents(folder)
    code, out, err = call("pack", str(folder))
    assert (code, out) == (2, "")
    assert said in err
    assert contents(folder) == before


# Names


def test_a_preset_of_a_pack_is_found_by_name_and_knows_its_pack(here: Path, call: Call) -> None:
    pack(here / "sea", "ahoy", "pirate")
    assert call("add", "../sea", "--yes")[0] == 0
    ahoy = load_preset("ahoy")
    assert ahoy.origin is not None
    assert (ahoy.origin.pack, ahoy.origin.folder) == ("sea@1.0.0", find_preset("ahoy").parent)
    assert load_preset("sea/ahoy") == ahoy
    with pytest.raises(PresetError, match=r"several presets; say which: sea/pirate or steerplug/p"):
        load_preset("pirate")
    assert load_preset("steerplug/pirate").origin is None
    names = {one.name: one.pack for one in list_presets()}
    assert names["ahoy"] == names["sea/pirate"] == "sea@1.0.0"
    assert "pirate" not in names
    assert "pack      sea@1.0.0" in call("show", "ahoy")[1]
    presets(here / "mine", "pirate")
    assert find_preset("pirate") == here / "mine" / "pirate.yaml"
    assert {one.name for one in list_presets()} >= {"pirate", "sea/pirate"}


def test_a_file_of_a_pack_that_was_changed_is_refused_by_name(here: Path, call: Call) -> None:
    pack(here / "sea", "ahoy", "calm")
    assert call("add", "../sea", "--yes")[0] == 0
    assert call("packs", "verify") == (0, "sea\t6 files are what was pinned\n", "")
    path = find_preset("ahoy")
    path.write_text(path.read_text().replace("ahoy", "ahoi"))
    for words in (("packs", "verify"), ("show", "ahoy")):
        code, _, err = call(*words)
        assert code == 2
        assert "`ahoy.yaml` was changed since it was pinned; run `steerplug packs remo" in err
    assert load_preset("calm").name == "calm"
    (listed,) = [one for one in list_presets() if one.name == "ahoy"]
    assert listed.error is not None
    assert call("add", "../sea", "--yes")[0] == 0
    assert load_preset("ahoy").name == "ahoy"


def test_a_working_folder_that_was_removed_is_no_reason_to_crash(here: Path, call: Call) -> None:
    pack(here / "sea", "ahoy")
    assert call("add", "../sea", "--yes")[0] == 0
    (here / "work").rmdir()
    assert "\tsea@1.0.0\t" in call("presets")[1]
    for words in (("add", "../sea"), ("add", "gh:a/b", "--here"), ("pack", ".")):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert err == "steerplug: the working folder is gone; change to one that exists.\n"


# Adding, updating, removing


def test_nothing_is_added_without_a_yes(here: Path, call: Call) -> None:
    pack(here / "sea", "ahoy", "pirate")
    code, out, err = call("add", "../sea")
    assert code == 2
    assert "nobody is here to be asked; add --yes" in err
    for said in ("sea/ahoy  Says ahoy. [tiny-8x4: its author claims 75%]", "license  MIT",
                 "kB in 6 files", "pirate is also steerplug/pirate: say which in a mix"):
        assert said in out
    assert answer_of(call("add", "../sea", "--json"))["packs"][0]["added"] is False  # type: ignore[index]
    assert packs() == {}
    assert sorted(path.name for path in packs_folder().iterdir()) == [".lock"]


def test_an_update_says_in_words_what_changes(here: Path, call: Call) -> None:
    folder = pack(here / "sea", "ahoy", "calm", "gone")
    call("add", "../sea", "--yes")
    assert "is as it was" in call("packs", "update")[2]
    (folder / "gone.yaml").unlink()
    presets(folder, "new")
    (folder / "calm.yaml").write_text(TEXT.format(name="calm").replace("Calm", "Storm"))
    compiled(folder, "ahoy", 2.0)
    text = (folder / "pack.yaml").read_text()
    (folder / "pack.yaml").write_text(text.replace("1.0.0", "1.1.0"))
    make_pack(folder)
    code, out, _ = call("packs", "update", "--yes")
    assert code == 0
    for said in ("sea 1.0.0 -> 1.1.0", "gone: goes away", "new: is new", "1.0.0` becomes `1.1.0",
                 "calm: contrast.negative: `Calm` becomes `Storm`",
                 "ahoy: other numbers for tiny-8x4; claimed gap closed 75% becomes 75%"):
        assert said in out
    assert packs()["sea"].pinned.version == "1.1.0"
    assert len([path for path in packs_folder().iterdir() if path.is_dir()]) == 1


def test_a_removed_pack_is_gone_unless_another_project_pins_it(here: Path, call: Call) -> None:
    pack(here / "sea", "ahoy")
    call("add", "../sea", "--yes")
    assert call("add", "../sea", "--yes", "--here")[0] == 0
    lock = Path("steerplug.lock")
    assert read_lock(lock).packs["sea"].sha256 == packs()["sea"].pinned.sha256
    (place,) = [path for path in packs_folder().iterdir() if path.is_dir()]
    assert call("packs", "remove", "sea")[0] == 0
    assert place.is_dir()
    assert packs() == {}
    lock.unlink()
    assert call("packs", "remove", "sea")[0] == 0
    assert not place.exists()
    code, _, err = call("packs", "remove", "sea")
    assert (code, "pins no pack `sea`" in err) == (2, True)


def test_what_a_lock_pins_comes_back_and_only_that(here: Path, call: Call) -> None:
    folder = pack(here / "work" / "sea", "ahoy")
    call("add", "./sea", "--yes", "--here")
    assert read_lock(Path("steerplug.lock")).packs["sea"].ref == "./sea"
    (here / "packs").rename(here / "elsewhere")
    code, _, err = call("show", "ahoy")
    assert (code, "pinned and not here; run `steerplug add`" in err) == (2, True)
    assert call("add", "--yes")[0] == 0
    assert load_preset("ahoy").name == "ahoy"
    (here / "packs").rename(here / "elsewhere too")
    presets(folder, "ahoy", "more")
    make_pack(folder)
    code, _, err = call("add", "--yes")
    assert code == 2
    assert "./sea is not the pack that steerplug.lock pins" in err


def test_what_was_measured_here_takes_the_place_of_a_claim(here: Path, call: Call) -> None:
    pack(here / "sea", "ahoy")
    added = answer_of(call("add", "../sea", "--yes", "--json"))["packs"][0]  # type: ignore[index]
    (figures,) = added["presets"][0]["compiled"]
    assert (figures["claimed_gap_closed"], figures["measured_gap_closed"]) == (0.75, None)
    cells = listed(call, "ahoy")
    assert cells[-2:] == ["75% claimed", "-"]
    (numbers,) = packs_folder().rglob("ahoy-*.gguf")
    remember(numbers, "tiny-8x4-of-another-quantisation", {"gap_closed": 0.25})
    assert listed(call, "ahoy")[-2:] == ["25%", "-"]
    remember(numbers, MODEL, {"gap_closed": 0.5, "prompt_tokens_saved": 20.0})
    said = call("packs")[1]
    assert "tiny-8x4: closes 50% of the gap, measured here" in said
    assert "another file of the model: closes 25%, measured here" in said
    assert listed(call, "ahoy")[-2:] == ["50%", "20"]


def listed(call: Call, name: str) -> list[str]:
    """The cells of a preset's line in `steerplug presets`."""
    lines = [line.split("\t") for line in call("presets")[1].splitlines()]
    (cells,) = [cells for cells in lines if cells[0] == name]
    return cells


def test_a_claim_of_any_shape_is_shown_or_left_out_and_never_a_crash(
    here: Path, call: Call
) -> None:
    folder = presets(here / "sea", "ahoy")
    shapes = ("?", -1e308, 10**400, True, None, [1], {"x": 1}, float("1e-300"))
    for i, shape in enumerate(shapes):
        claims = {key: shape for key in (
            "gap_closed", "gap_closed_interval", "checks", "prompt_tokens_saved", "n_prompts",
            "sweep", "dial", "coefficient",
        )}  # fmt: skip
        compiled(folder, "ahoy", fidelity=claims)
        make_pack(folder)
        for words in (("add", "../sea", "--yes"), ("packs",), ("presets",), ("presets", "--json")):
            code, _, err = call(*words)
            assert code == 0, (i, words, err)


def test_claims_that_change_with_the_same_numbers_are_told(here: Path, call: Call) -> None:
    folder = pack(here / "sea", "ahoy")
    call("add", "../sea", "--yes")
    compiled(folder, "ahoy", fidelity={"gap_closed": 0.99})
    make_pack(folder)
    out = call("packs", "update", "--yes")[1]
    assert "ahoy: the same numbers for tiny-8x4; claimed gap closed 75% becomes 99%" in out


# Transports


def test_twenty_presets_come_from_a_git_server_and_only_once(here: Path, call: Call) -> None:
    folder = pack(here / "git" / "sea.git", *(f"one{i}" for i in range(20)))
    first = committed(folder, "v1")
    with served(git_over_http(here / "git")) as (url, asked):
        ref = f"git+{url}/sea.git@v1"
        assert call("add", ref, "--yes")[0] == 0
        assert packs()["sea"].pinned.commit == first
        assert packs()["sea"].pinned.ref == ref
        n_asked = len(asked)
        assert n_asked > 0
        code, _, err = call("add", ref, "--yes")
        assert (code, "is what was pinned" in err) == (0, True)
        assert len(asked) == n_asked
        presets(folder, "more")
        make_pack(folder)
        committed(folder, "v1")
        (here / "packs").rename(here / "elsewhere")
        (here / "packs").mkdir()
        (here / "elsewhere" / "steerplug.lock").rename(here / "packs" / "steerplug.lock")
        assert call("add", "--yes")[0] == 0  # the pinned commit, though the tag has moved
        assert packs()["sea"].pinned.commit == first
        code, out, _ = call("packs", "update", "--yes")
        assert (code, "more: is new" in out) == (0, True)
        assert packs()["sea"].pinned.commit != first
        code, _, err = call("add", f"git+{url}/sea.git@v9", "--yes")
        assert (code, "v9" in err) == (2, True)
        assert "cannot be fetched (couldn't find remote ref v9); check the address" in err
    assert len(load_preset("one7").description) > 0


def test_no_hook_filter_link_or_submodule_of_a_repository_acts(here: Path, call: Call) -> None:
    folder = pack(here / "git" / "sea.git", "ahoy")
    (folder / ".gitattributes").write_text("*.yaml filter=evil eol=crlf\n")
    (folder / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ./nowhere\n')
    committed(folder)
    original = (folder / "ahoy.yaml").read_bytes()
    with served(git_over_http(here / "git")) as (url, _):
        assert call("add", f"git+{url}/sea.git", "--yes")[0] == 0
        assert find_preset("ahoy").read_bytes() == original
        (folder / "ahoy.yaml").unlink()
        (folder / "ahoy.yaml").symlink_to("/etc/hostname")
        committed(folder)
        code, _, err = call("packs", "update", "--yes")
        assert (code, "`ahoy.yaml` is a link or no plain file" in err) == (2, True)
    assert git(folder, "status", "--short") == ""


def zipped(path: Path, folder: Path, top: str = "") -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents(folder).items():
            archive.writestr(f"{top}{name}", content)
    return digest(path.read_bytes())


def test_a_zip_is_a_pack_at_its_top_or_in_one_folder(here: Path, call: Call) -> None:
    folder = pack(here / "sea", "ahoy")
    for top in ("", "sea-main/"):
        zipped(here / "sea.zip", folder, top)
        assert call("add", "../sea.zip", "--yes")[0] == 0
        assert call("packs", "remove", "sea")[0] == 0


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)  # type: ignore[attr-defined]
    sha256 = zipped(here / "sea.zip", pack(here / "sea", "ahoy"))
    content, ranges = (here / "sea.zip").read_bytes(), []

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        """Break off after a thousand bytes, twice."""
        said = request.headers.get("Range")
        ranges.append(said)
        begin = int(said.removeprefix("bytes=").removesuffix("-")) if said else 0
        rest = content[begin:]
        request.send_response(206 if said else 200)
        if said:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[:1000] if len(ranges) < 3 else rest)

    with served(answer) as (url, asked):
        ref = f"{url}/sea.zip#sha256={sha256}"
        assert call("add", ref, "--yes")[0] == 0
        assert ranges == [None, "bytes=1000-", "bytes=2000-"]
        assert call("add", ref, "--yes")[0] == 0
        assert len(asked) == 3
        code, _, err = call("add", f"{url}/sea.zip#sha256={'0' * 64}", "--yes")
        assert code == 2
        assert f"has the sha256 {sha256[:16]}..., and 0000000000000000..." in err
        assert "is fixed by its reference" in call("packs", "update")[2]


def test_a_url_may_not_lead_away_from_https(here: Path, call: Call) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "http://example.org/x.zip")
        request.end_headers()

    assert here.exists()
    with served(answer) as (url, _):
        code, _, err = call("add", f"{url}/x.zip#sha256={'0' * 64}", "--yes")
    assert (code, "leads to http://example.org/x.zip, which is not https" in err) == (2, True)


HUB = """
import sys
from steerplug.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_pack_comes_from_the_hub_through_its_real_client(here: Path) -> None:
    files = contents(pack(here / "sea", "ahoy"))
    commit, api = "c" * 40, "/api/models/a/sea"

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        length = int(request.headers.get("Content-Length") or 0)
        request.rfile.read(length)
        body, headers = b"", {"Content-Type": "application/json"}
        name = path.partition(f"/resolve/{commit}/")[2]
        if path in (f"{api}/revision/v1", f"{api}/revision/{commit}"):
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": "a/sea", "sha": commit, "siblings": siblings}).encode()
        elif path in (f"{api}/paths-info/{commit}", f"{api}/tree/{commit}"):
            sizes = [{"type": "file", "path": n, "size": len(c), "oid": digest(c)[:40]}
                     for n, c in files.items()]  # fmt: skip
            body = json.dumps(sizes).encode()
        elif name in files:
            body = files[name]
            headers = {"ETag": f'"{digest(body)[:40]}"', "X-Repo-Commit": commit}
        request.send_response(200 if body else 404)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", HUB, *words], capture_output=True, text=True, check=False,
            env={**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0",
                 "HF_HOME": str(here / "hf"), "HF_HUB_DISABLE_XET": "1",
                 "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip

    with served(answer) as (url, asked):
        ran = call("add", "hf:a/sea@v1", "--yes", "--json")
        assert ran.returncode == 0, (ran.stderr, asked)
        assert json.loads(ran.stdout)["packs"][0]["commit"] == commit
        assert ran.stderr.startswith("\nAdded, and pinned in ")
        n_asked = len(asked)
        assert any(path.endswith(f"/a/sea/resolve/{commit}/ahoy.yaml") for path in asked)
        assert call("add", "hf:a/sea@v1", "--yes").returncode == 0
        assert len(asked) == n_asked
        ran = call("add", "hf:a/nothing", "--yes")
        assert ran.returncode == 2
        assert ran.stderr.startswith("steerplug: hf:a/nothing cannot be fetched (")
    assert load_preset("ahoy").origin is not None


def test_a_python_package_brings_its_pack_and_is_not_imported(
    here: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    site = here / "site"
    pack(site / "sea_presets" / "pack", "ahoy")
    (site / "sea_presets" / "__init__.py").write_text("raise SystemExit('imported')")
    meta = site / "sea_presets-2.0.dist-info"
    put(meta, {"METADATA": b"Metadata-Version: 2.1\nName: sea-presets\nVersion: 2.0\n",
               "entry_points.txt": b"[steerplug.packs]\nsea = sea_presets.pack\n"})
    monkeypatch.syspath_prepend(str(site))
    entry_points.packages.cache_clear()
    try:
        assert packs()["sea"].package == "sea-presets"
        preset = load_preset("ahoy")
        assert preset.origin is not None
        assert preset.origin.pack == "sea@1.0.0"
        assert "from     the Python package sea-presets" in call("packs")[1]
        for word in ("remove", "update"):
            code, _, err = call("packs", word, "sea")
            assert (code, "package sea-presets; update or uninstall that" in err) == (2, True)
        (site / "sea_presets" / "pack" / "ahoy.yaml").write_text("x: 1")
        with pytest.raises(PackError, match="was changed since it was pinned; install sea-presets"):
            load_preset("ahoy")
    finally:
        entry_points.packages.cache_clear()


# References


@pytest.mark.parametrize(
    ("text", "kind", "place", "rev", "folder"),
    [
        ("gh:a/b@v1", "git", "https://github.com/a/b.git", "v1", ""),
        ("gh:a/b/presets/sea@main", "git", "https://github.com/a/b.git", "main", "presets/sea"),
        ("git+https://x.org/a/b.git", "git", "https://x.org/a/b.git", "", ""),
        ("git+ssh://git@x.org/a/b@feature/x", "git", "ssh://git@x.org/a/b", "feature/x", ""),
        ("hf:a/b@v1", "hub", "a/b", "v1", ""),
    ],
)
def test_references_say_where_a_pack_is(
    text: str, kind: str, place: str, rev: str, folder: str, tmp_path: Path
) -> None:
    found = read_reference(text, tmp_path)
    assert (found.kind, found.place, found.rev, found.folder) == (kind, place, rev, folder)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "x", "gh:", "gh:a", "gh:../b", "gh:a/b/../c", "gh:-a/b", "gh:a/b@-x", "gh:a/b@a..b",
     "gh:a/b@x y", "gh:a/b@", "git+file:///etc", "git+ext::sh -c x", "git+http://x.org/a",
     "git+git://x.org/a", "git+https://user:word@x.org/a", "git+https://-x/a", "git+https://x.org",
     "git+https://x.org:99999/a", "git+https://x.org/a@--upload-pack=x", "git+-x", "hf:a",
     "hf:a/b/c", "hf:../b", "https://x.org/a.zip", "https://x.org/a.zip#sha256=12", "ftp://x.org/a.zip",
     "http://x.org/a.zip#sha256=" + "0" * 64, "file:///a.zip#sha256=" + "0" * 64, "\0",
     "~nobody9/x", "https://[::1/a.zip#sha256=" + "0" * 64, "a" * 2000],
)  # fmt: skip
def test_what_names_no_pack_is_one_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(PackError) as caught:
        read_reference(text, tmp_path)
    said = str(caught.value)
    assert said.isprintable()
    assert said.endswith(".")
    assert len(said) < 420
