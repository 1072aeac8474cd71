"""promptfoo's configuration: its prompt becomes the teacher, what every test asserts the checks."""

import json
import re
from collections.abc import Mapping
from typing import Any

from steerplug.errors import PresetError
from steerplug.files.yaml_file import printable
from steerplug.interchange.prompts.asserts import WHOLE_WORDS, checks_of, named
from steerplug.interchange.prompts.dotprompt import filled
from steerplug.interchange.prompts.json_text import read_json
from steerplug.interchange.prompts.sorting import Part, Sorting
from steerplug.interchange.prompts.variables import NUNJUCKS, Marked, in_braces

_CHAT = re.compile(r'\s*\[\s*\{\s*"')
_REFERENCE = re.compile(
    r"[a-z]+://\S*|(?:exec|package):.*|\S+\.(?:txt|json|ya?ml|md|j2|csv|[cm]?[jt]s|py|rb|sh)(?::\w+)?"
)
"""A prompt that is kept elsewhere, or made by a program."""

_MOST_CHECKS = 32
_STAYS = {"providers": "models; name one with -m", "targets": "models; name one with -m",
          "scenarios": "tests of promptfoo", "redteam": "tests of promptfoo"}  # fmt: skip


def is_config(data: object) -> bool:
    """Say whether plain values are a configuration of promptfoo."""
    return isinstance(data, Mapping) and "prompts" in data


def sort_config(data: Mapping[str, Any], source: str) -> Sorting:
    """Return a configuration of promptfoo as a preset on its way.

    Raises:
        PresetError: it has not exactly one prompt, or that is in another file.
    """
    sorting = Sorting("a configuration of promptfoo", source)
    default = data.get("defaultTest")
    default = default if isinstance(default, Mapping) else {}
    prompt, value = _prompt(data["prompts"], source), filled(default.get("vars"), "vars", sorting)

    def marked(text: str) -> Marked:
        return in_braces(text, value, source, NUNJUCKS)

    if _CHAT.match(prompt):
        chat = read_json(prompt, f"{source}: its prompt")
        sorting.converse([(role, marked(said)) for role, said in _turns(chat, source)])
    else:
        sorting.converse([("user", marked(prompt))])
    _check(data, default, sorting)
    tests = data.get("tests")
    if tests:
        n_tests = f" ({len(tests)})" if isinstance(tests, list) else ""
        sorting.stay(f"tests{n_tests}", "questions; ask them with `steerplug eval --prompts`")
    for key, why in _STAYS.items():
        if data.get(key):
            sorting.stay(key, why)
    return sorting


def _prompt(prompts: object, source: str) -> str:
    """Return the one prompt."""
    listed = prompts if isinstance(prompts, list) else [prompts]
    if len(listed) != 1:
        raise PresetError(
            f"{source} compares {len(listed)} prompts, and a preset replaces one; leave one of "
            "them in it."
        )
    one = listed[0]
    if isinstance(one, Mapping):
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
    seen: set[str] = set()
    for one in [*_listed(default.get("assert")), *everywhere]:
        checks, why = checks_of(one)
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
        more = f" and {len(once) - 4} more" if len(once) > 4 else ""
        names = ", ".join(map(named, once[:4]))
        sorting.stay(f"assert {names}{more}", "about the question of one test")


def _is_phrases(checks: list[Mapping[str, Any]]) -> bool:
    return all("phrases" in check for check in checks)


def _asserts(tests: object) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return what all tests assert, and what only some do."""
    each = [
        _listed(test.get("assert")) for test in (tests if isinstance(tests, list) else [])
        if isinstance(test, Mapping)
    ]  # fmt: skip
    keys = [{_key(one) for one in asserts} for asserts in each]
    shared = set.intersection(*keys) if keys else set()
    everywhere = [one for one in each[0] if _key(one) in shared] if each else []
    once = {_key(one): one for asserts in each for one in asserts if _key(one) not in shared}
    return everywhere, list(once.values())


def _key(one: Mapping[str, Any]) -> str:
    return json.dumps(one, sort_keys=True, default=str)


def _listed(asserts: object) -> list[Mapping[str, Any]]:
    return [one for one in asserts if isinstance(one, Mapping)] if isinstance(asserts, list) else []
