"""promptfoo's configuration: its prompt becomes the teacher, what every test asserts the checks."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from steerplug.errors import PresetError
from steerplug.files.yaml_file import printable, read_yaml
from steerplug.interchange.prompts.asserts import (
    CHANGED,
    WHOLE_WORDS,
    checks_of,
    is_template,
    named,
)
from steerplug.interchange.prompts.dotprompt import filled
from steerplug.interchange.prompts.json_text import read_json
from steerplug.interchange.prompts.sorting import PEOPLE, Part, Sorting, few
from steerplug.interchange.prompts.variables import NUNJUCKS, Marked, in_braces

_CHAT = re.compile(r'\s*\[\s*\{\s*"')
_CHAT_IN_YAML = re.compile(r"\s*-\s+role:")
_REFERENCE = re.compile(
    r"file://.*|[a-z]+://\S*|(?:exec|package):.*|\S*[/\\]\S*|"
    r"(?:.*[/\\].*|\S+)\.(?:txt|json|ya?ml|md|j2|csv|[cm]?[jt]s|py|rb|sh)(?::\w+)?"
)
"""A prompt that is kept elsewhere, or made by a program."""

_MOST_CHECKS = 32
_STAYS = {"providers": "models; name one with -m", "targets": "models; name one with -m",
          "scenarios": "tests of promptfoo", "redteam": "tests of promptfoo",
          "description": PEOPLE}  # fmt: skip


def is_config(data: object) -> bool:
    """Say whether plain values are a configuration of promptfoo."""
    return isinstance(data, Mapping) and "prompts" in data


def sort_config(data: Mapping[str, Any], source: str) -> Sorting:
    """Return a configuration of promptfoo as a preset on its way.

    Raises:
        PresetError: it has not exactly one prompt, or that is in another file.
    """
    sorting = Sorting("a configuration of promptfoo", source)
    prompt, default = _prompt(data["prompts"], sorting), _default(data, sorting)
    value = filled(default.get("vars"), "vars", sorting)

    def marked(text: str) -> Marked:
        return in_braces(text, value, source, NUNJUCKS)

    if (chat := _chat(prompt, f"{source}: its prompt")) is not None:
        sorting.converse([(role, marked(said)) for role, said in _turns(chat, source)])
    else:
        sorting.converse([("user", marked(prompt))])
    _check(data, default, sorting)
    tests = data.get("tests")
    if tests:
        n_tests = f" ({len(tests)})" if isinstance(tests, list) else ""
        sorting.stay(f"tests{n_tests}", "questions; ask them with `steerplug eval --prompts`")
    sorting.leave(data, _STAYS, ("prompts", "tests", "defaultTest"))
    return sorting


def _default(data: Mapping[str, Any], sorting: Sorting) -> Mapping[str, Any]:
    """Return what all tests have in common, less the variables that are in other files."""
    default = data.get("defaultTest") or {}
    if not isinstance(default, Mapping):
        sorting.stay("defaultTest", "it is in another file, which is not read")
        return {}
    sorting.leave_unknown(default, ("vars", "assert"), "defaultTest.")
    given = default.get("vars")
    named = given if isinstance(given, Mapping) else {}
    return {**default, "vars": {k: v for k, v in named.items() if not is_template(v)}}


def _chat(prompt: str, source: str) -> Any:
    """Return the messages of a prompt that is a chat, in JSON or in YAML; else None."""
    if _CHAT.match(prompt):
        return read_json(prompt, source)
    if _CHAT_IN_YAML.match(prompt):
        return read_yaml(f"chat:\n{prompt}".encode(), source).data["chat"]
    return None


def _prompt(prompts: object, sorting: Sorting) -> str:
    """Return the one prompt."""
    source = sorting.source
    listed = prompts if isinstance(prompts, list) else [prompts]
    if len(listed) != 1:
        raise PresetError(
            f"{source} compares {len(listed)} prompts, and a preset replaces one; leave one of "
            "them in it."
        )
    one = listed[0]
    if isinstance(one, Mapping):
        sorting.leave_unknown(one, ("raw", "id", "label"), "prompts.")
        one = one.get("raw") or one.get("id")
    if not isinstance(one, str) or not one.strip():
        raise PresetError(f"{source}: its prompt is no text; write it out under `prompts`.")
    if _REFERENCE.fullmatch(one.strip()):
        raise PresetError(
            f"{source}: its prompt is kept elsewhere, {printable(one)}, which is neither opened "
            "nor run; write the prompt out under `prompts`."
        )
    return one


def _turns(chat: object, source: str) -> list[tuple[str, str]]:
    turns = []
    for message in chat if isinstance(chat, list) else []:
        said = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(said, str):
            raise PresetError(
                f"{source}: a message of its prompt has no text as `content`; a preset replaces "
                "texts only."
            )
        turns.append((str(message.get("role")), said))
    return turns


def _check(data: Mapping[str, Any], default: Mapping[str, Any], sorting: Sorting) -> None:
    """Turn into checks what every test asserts."""
    everywhere, once = _asserts(data.get("tests"))
    let_off = _let_off([default, *_tests(data.get("tests"))])
    seen: set[str] = set()
    for one in [*_listed(default.get("assert")), *everywhere]:
        checks, why = ([], let_off) if let_off else checks_of(one)
        checks = [check for check in checks if _key(check) not in seen]
        seen |= set(map(_key, checks))
        if len(sorting.checks) + len(checks) > _MOST_CHECKS:
            checks, why = [], f"a preset has at most {_MOST_CHECKS} checks"
        sorting.checks += checks
        if checks and _is_phrases(checks):
            sorting.taught.append(
                Part(f"assert {named(one)}", f"a check of replies, {WHOLE_WORDS}")
            )
        elif checks:
            sorting.taught.append(Part(f"assert {named(one)}", "a check of replies"))
        if why:
            sorting.stay(f"assert {named(one)}", why)
        elif one.get("type") == "is-json" and one.get("value"):
            sorting.stay("the schema of assert is-json", "a schema belongs to a request")
    if once:
        sorting.stay(f"assert {few([*map(named, once)], 4)}", "about the question of one test")


def _let_off(tests: Sequence[object]) -> str:
    """Return why a reply may pass a test without its asserts, where one of the tests says so."""
    said = [test for test in tests if isinstance(test, Mapping)]
    options = [test["options"] for test in said if isinstance(test.get("options"), Mapping)]
    if any(test.get("threshold") is not None for test in said):
        return "with a `threshold` a test passes though some of its asserts fail"
    if any(one.get("transform") for one in options):
        return CHANGED
    is_off = any(one.get("disableDefaultAsserts") for one in options)
    return "a test leaves it out (`disableDefaultAsserts`)" if is_off else ""


def _is_phrases(checks: list[Mapping[str, Any]]) -> bool:
    return all("phrases" in check for check in checks)


def _asserts(tests: object) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return what all tests assert, and what only some do."""
    each = [
        _listed(test.get("assert")) if isinstance(test, Mapping) else [] for test in _tests(tests)
    ]
    keys = [{_key(one) for one in asserts} for asserts in each]
    shared = set.intersection(*keys) if keys else set()
    everywhere = [one for one in each[0] if _key(one) in shared] if each else []
    once = {_key(one): one for asserts in each for one in asserts if _key(one) not in shared}
    return everywhere, list(once.values())


def _key(one: Mapping[str, Any]) -> str:
    return json.dumps(one, sort_keys=True, default=str)


def _tests(tests: object) -> list[Any]:
    return tests if isinstance(tests, list) else []


def _listed(asserts: object) -> list[Mapping[str, Any]]:
    """Return asserts; what is none is one of a type that nobody knows."""
    listed = asserts if isinstance(asserts, list) else [asserts] if asserts else []
    return [one if isinstance(one, Mapping) else {"type": one} for one in listed]
