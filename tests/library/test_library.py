"""Finding presets: the user's folder, the shipped ones, paths, and what cannot be found."""

from pathlib import Path

import pytest

from steerplug.errors import PresetError, PresetNotFound
from steerplug.library.presets import (
    find_preset,
    is_path,
    is_steering_file,
    list_presets,
    load_preset,
    shipped_folder,
    user_folder,
)

TEXT = """schema: steerplug/preset-v1
name: {name}
description: mine
contrast: {{positive: a, negative: b}}
fit: {{method: mean}}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's folder, empty."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("STEERPLUG_PRESETS", str(folder))
    return folder


def write(folder: Path, name: str, suffix: str = ".yaml") -> Path:
    path = folder / f"{name}{suffix}"
    path.write_text(TEXT.format(name=name))
    return path


@pytest.mark.usefixtures("mine")
def test_a_shipped_preset_is_found_by_name() -> None:
    assert find_preset("love-hate") == shipped_folder() / "love-hate.yaml"
    assert load_preset("love-hate").fit.method == "actadd"


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_the_users_preset_comes_before_the_shipped_one(mine: Path, suffix: str) -> None:
    path = write(mine, "love-hate", suffix)
    assert find_preset("love-hate") == path
    assert load_preset("love-hate").description == "mine"
    (listed,) = [one for one in list_presets() if one.name == "love-hate"]
    assert (listed.path, listed.shipped) == (path, False)


def test_a_preset_is_found_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "own")
    assert load_preset(str(path)).name == "own"
    monkeypatch.chdir(tmp_path)
    assert load_preset("own.yaml").name == "own"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_preset("~/own.yaml") == path


def test_a_steering_file_is_found_but_not_read_as_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "calm.gguf"
    path.write_bytes(b"GGUF")
    assert find_preset(str(path)) == path
    assert is_steering_file(path)
    assert not is_steering_file(tmp_path / "calm.yaml")
    with pytest.raises(PresetError, match="holds steering numbers, not a preset; use it in a mix"):
        load_preset(str(path))


@pytest.mark.parametrize("reference", ["a/b", "./a", "a.yaml", "A.GGUF", "a.yml", "C:\\a", ".."])
def test_a_separator_or_suffix_makes_a_path(reference: str) -> None:
    assert is_path(reference) == (reference != "..")


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all(mine: Path) -> None:
    write(mine, "pirate")
    with pytest.raises(PresetNotFound, match=r"no preset `pirat`; did you mean `pirate`\?$"):
        find_preset("pirat")
    with pytest.raises(PresetNotFound, match="no preset `PIRATE`; did you mean `pirate`"):
        find_preset("PIRATE")
    with pytest.raises(PresetNotFound, match="`zzzz`; name one of these, or give a path") as e:
        find_preset("zzzz")
    assert "love-hate" in str(e.value)
    assert str(mine) in str(e.value)


@pytest.mark.parametrize("name", ["..", "none", "", ".hidden", "love-hate\n", "x" * 500])
def test_a_name_never_leads_out_of_the_folders(mine: Path, name: str) -> None:
    write(mine.parent, "secret")
    write(mine, ".hidden")
    write(mine, "none")
    with pytest.raises(PresetNotFound, match="there is no preset `") as caught:
        find_preset(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "reference",
    ["no/such.yaml", "x.gguf", "a\0.yaml", "x/" * 2000 + ".yaml", "~nobody-here/x.yaml"],
)
def test_a_path_that_is_not_there_is_named(reference: str) -> None:
    with pytest.raises(PresetNotFound, match=r"no preset file `.*`; check the path") as caught:
        find_preset(reference)
    assert str(caught.value).isprintable()


def test_a_broken_preset_hides_no_other(mine: Path) -> None:
    write(mine, "good")
    (mine / "bad.yaml").write_text("name: bad\n")
    (mine / "love-hate.yaml").write_bytes(b"\xff")
    (mine / "folder.yaml").mkdir()
    (mine / "notes.txt").write_text("no preset")
    (mine / ".draft.yaml").write_text("name: draft\n")
    (mine / "dead.yaml").symlink_to(mine / "gone")
    listed = {one.name: one for one in list_presets()}
    assert listed["good"].preset is not None
    assert listed["weddings"].preset is not None
    assert listed["weddings"].shipped
    assert "notes" not in listed
    errors = {name: one.error for name, one in listed.items() if one.error}
    assert sorted(errors) == ["bad", "dead", "folder", "love-hate"]
    assert "`schema` is missing" in errors["bad"]
    assert "is not UTF-8" in errors["love-hate"]
    assert "is not a file" in errors["folder"]
    with pytest.raises(PresetError, match="is not UTF-8"):
        load_preset("love-hate")


def test_a_file_is_called_after_its_preset(mine: Path) -> None:
    write(mine, "one").rename(mine / "two.yaml")
    with pytest.raises(PresetError, match=r"says `name: one`; call the file one\.yaml, or"):
        load_preset("two")


def test_a_file_is_not_read_beyond_the_limit(mine: Path) -> None:
    (mine / "big.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(PresetError, match=r"big.yaml is larger than 256 kB"):
        load_preset("big")


def test_a_file_that_may_not_be_read_is_named(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write(mine, "locked")
    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(
        PresetError, match=r"locked.yaml cannot be read \(Permission denied\); check its perm"
    ):
        load_preset("locked")


def test_a_folder_in_a_files_place_is_named(mine: Path) -> None:
    (mine / "folder.yaml").mkdir()
    with pytest.raises(PresetNotFound, match=r" is a folder; name a preset.s file in it"):
        load_preset(str(mine / "folder.yaml"))


def test_a_missing_user_folder_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERPLUG_PRESETS", "/no/such/folder")
    assert user_folder() == Path("/no/such/folder")
    assert load_preset("weddings").name == "weddings"


def test_without_a_setting_the_users_folder_is_the_platforms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STEERPLUG_PRESETS", raising=False)
    assert user_folder().parts[-2:] == ("steerplug", "presets")


def test_a_wheel_serves_its_bundled_presets_and_a_checkout_its_own(tmp_path: Path) -> None:
    package = tmp_path / "steerplug"
    (tmp_path / "presets").mkdir()
    assert shipped_folder(package) == package / "bundled_presets"
    (tmp_path / "pyproject.toml").touch()
    assert shipped_folder(package) == tmp_path / "presets"
