"""`steerplug lint`: every problem of every file, with its line and its cure."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from steerplug.commands.main import main
from steerplug.library.lint import lint, preset_files
from steerplug.library.presets import shipped_folder
from steerplug.preset.schema import SCHEMA_FILE

GOOD = """\
schema: steerplug/preset-v1
name: good
contrast: {positive: Love, negative: Hate}
fit: {method: mean}
"""
BAD = """\
schema: steerplug/preset-v1
name: bad
contrast: {positive: Love, negative: Hate}
fit:
  method: meen
  layres: auto
strength: {default: 9, min: 0, max: 2}
checks:
  - {kind: includes, phrases: []}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


Write = Callable[[str, str], Path]


def test_every_problem_of_a_file_has_its_line_and_its_cure(write: Write) -> None:
    path = write("bad.yaml", BAD)
    found = lint(path)
    assert [problem.line for problem in found] == [5, 6, 7, 9]
    for problem, wanted in zip(found, (
        "`fit.method` is 'meen', .*; did you mean `mean`?",
        "`fit.layres` is not a key that a preset has; did you mean `layers`?",
        "`strength` has min 0, default 9 and max 2; they must be in rising order.",
        r"`checks.0.phrases` is \[\], .*; write for example `phrases: ",
    ), strict=True):  # fmt: skip
        start = f"{path}, line {problem.line}: "
        assert problem.said.startswith(start)
        assert re.match(wanted, problem.said.removeprefix(start)), problem.said


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("good.yaml", GOOD.replace("schema:", "schema:\n\t-"), 2, "this is not valid YAML"),
        ("good.yaml", GOOD + "name: again\n", 5, "the key `name` stands here and on line 2"),
        ("other.yaml", GOOD, 2, "call the file good.yaml, or write `name: other`"),
        ("good.yaml", "- a\n", None, "must hold `key: value` lines"),
        ("good.yaml", GOOD + "tags: !!python/none x\n", 5, "the tag `.*` is refused"),
    ],
)
def test_what_is_no_preset_at_all_has_one_problem(
    name: str, text: str, line: int | None, says: str, write: Write
) -> None:
    (problem,) = lint(write(name, text))
    assert problem.line == line
    assert re.search(says, problem.said)


def test_a_good_file_has_none_and_those_that_ship_are_good(write: Write) -> None:
    assert lint(write("good.yaml", GOOD)) == []
    shipped = list(preset_files([shipped_folder()]))
    assert len(shipped) > 10
    assert [problem for path in shipped for problem in lint(path)] == []


def test_a_folder_is_searched_but_not_behind_links_or_dots(
    write: Write, tmp_path: Path
) -> None:
    good, deep = write("a/good.yaml", GOOD), write("a/b/deep.yml", GOOD)
    write("a/.hidden/good.yaml", "x")
    write("a/.good.yaml", "x")
    write("a/notes.txt", "x")
    (tmp_path / "a" / "link.yaml").symlink_to("/etc/hostname")
    assert list(preset_files([tmp_path / "a"])) == [good, deep]


def test_the_command_prints_each_problem_and_ends_with_code_2(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write("good.yaml", GOOD), write("bad.yaml", BAD)
    assert main(["lint", str(good)]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "1 file checked; none with problems.\n")
    assert main(["lint", str(tmp_path), str(good)]) == 2
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [
        f"{bad}, line {n}" for n in (5, 6, 7, 9)
    ]
    assert said.err == "2 files checked; 1 with problems.\n"
    assert main(["lint", str(bad), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == [str(bad)]
    assert [one["line"] for one in report["problems"]] == [5, 6, 7, 9]


@pytest.mark.parametrize("stem", ["My Preset", "Glad", "_glad", "glad (1)", "g" * 65, "froh-ä"])
def test_a_name_that_no_preset_can_have_is_not_advised(stem: str, write: Write) -> None:
    (problem,) = lint(write(f"{stem}.yaml", GOOD))
    assert problem.said.endswith("a preset's file is called after it; call the file good.yaml.")


def test_a_preset_is_named_as_everywhere(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    write("bad.yaml", BAD)
    assert main(["lint", "bad"]) == 2
    assert "bad.yaml, line 5: `fit.method` is 'meen'" in capsys.readouterr().out
    assert main(["lint", "pirate"]) == 0


def test_the_head_of_a_pack_is_no_bad_preset(write: Write, tmp_path: Path) -> None:
    write("sea/good.yaml", GOOD)
    head = write("sea/pack.yaml", "schema: steerplug/pack-v1\nname: sea\n")
    assert [problem for path in preset_files([tmp_path]) for problem in lint(path)] == []
    head.write_text("schema: steerplug/pack-v1\nname: sea\nversion: new\n")
    (problem,) = lint(head)
    assert problem.line == 3
    assert "`version` is 'new', but must match pattern" in problem.said


@pytest.mark.parametrize("says", ["there is no preset file", "holds no .yaml file"])
def test_a_path_that_is_not_there_is_one_sentence(
    says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path if "holds" in says else tmp_path / "gone.yaml"
    assert main(["lint", str(path)]) == 2
    assert says in capsys.readouterr().err


def test_presets_tells_the_line_that_gives_editors_completion(
    capsys: pytest.CaptureFixture[str], write: Write
) -> None:
    assert main(["presets", "--schema"]) == 0
    line = capsys.readouterr().out
    assert line == f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}\n"
    assert lint(write("good.yaml", line + GOOD)) == []
