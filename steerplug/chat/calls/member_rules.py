"""Grammars of arguments that are written member by member; see `members`."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from steerplug.chat.calls.kinds import PYTHON, alternatives, of_object
from steerplug.chat.calls.members import Members
from steerplug.chat.tool import closed
from steerplug.engine.constraint import lark_json, lark_regex
from steerplug.engine.loosen import loosened

_ANY_KEY = "/[A-Za-z_][A-Za-z0-9_.-]*/"
_MOST = 10_000  # characters of a text, above which llguidance counts none


class MemberRules:
    """The rules of the arguments of one tool.

    Args:
        members: how they are written.
        schema: what they follow.
        name: what their rule is called; the names of others begin with it.
        say: returns a fixed text in Lark.
        mark_within: returns a text from the first mark on that is a token of its own.
    """

    def __init__(
        self, members: Members, schema: Mapping[str, Any], name: str, say: Callable[[str], str],
        mark_within: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._members, self._root = members, of_object(schema)
        self._say, self._mark_within = say, mark_within
        self._name, self._more, self._known = name, list[str](), dict[str, str]()

    def lines(self) -> list[str]:
        """Return the rules.

        Raises:
            RequestError: a part of the schema cannot be followed.
        """
        return [f"{self._name}: {self._object(self._root)}", *self._more]

    def _object(self, schema: Mapping[str, Any]) -> str:
        """Return the members of an object, which has no others unless its schema speaks of them."""
        schema = closed(schema)
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        required = set(schema.get("required") or ())
        members: list[tuple[str, bool | None]] = [
            (self._rule(self._member(self._say(self._members.key + key), part)), key in required)
            for key, part in known.items()
        ]
        further = schema.get("additionalProperties", True)
        if further is not False:
            key = f"{self._say(self._members.key)} {_ANY_KEY}"
            members.append((self._rule(self._member(key, further)), None))
        return self._sequence(members)

    def _rule(self, text: str, *, is_lazy: bool = False) -> str:
        """Add a rule; return its name."""
        name = f"{self._name}_{len(self._more)}"
        self._more.append(f"{name}{'[lazy]' if is_lazy else ''}: {text}")
        return name

    def _sequence(self, members: list[tuple[str, bool | None]]) -> str:
        """Return members one after another; those not required may be left out, None repeats."""
        signs = {True: "", False: "?", None: "*"}
        if not self._members.between:
            return " ".join(name + signs[kind] for name, kind in members)
        firsts, between = [], self._say(self._members.between)
        for i, (name, kind) in enumerate(members):
            rest = [f"({between} {name})*"] if kind is None else []
            rest += [f"({between} {after}){signs[each]}" for after, each in members[i + 1 :]]
            firsts.append(" ".join([name, *rest]))
            if kind:
                break
        else:
            firsts.append('""')
        return " | ".join(firsts)

    def _member(self, key: str, part: Any) -> str:
        """Return a key and what values may follow it."""
        say, members = self._say, self._members
        return " | ".join(
            f"{key} {say(members.text)} {value}" if is_text else
            f"{key} {say(members.value)} {value} {say(members.value_end)}".rstrip()
            for is_text, value in self._all_values(part)
        )  # fmt: skip

    def _item(self, part: Any) -> str:
        """Return what a value may be within another, where it is written as members are."""
        opening = self._say(self._members.text_opening)
        return self._once("item", part, lambda: " | ".join(
            f"{opening} {value}" if is_text else value
            for is_text, value in self._all_values(part)
        ))  # fmt: skip

    def _once(self, kind: str, part: Any, text: Callable[[], str]) -> str:
        """Return the rule of a part of the schema, which may hold itself."""
        said = kind + json.dumps(part, sort_keys=True)
        if said not in self._known:
            self._known[said] = self._rule("")
            n = len(self._more) - 1
            self._more[n] += text()
        return self._known[said]

    def _all_values(self, part: Any) -> Iterable[tuple[bool, str]]:
        shared = alternatives(part, self._root)
        return dict.fromkeys(value for each in shared for value in self._values(each))

    def _values(self, part: Any) -> Iterator[tuple[bool, str]]:
        """Yield what values may be that follow a schema without alternatives.

        With each is said whether it is a text, which comes with its end.
        """
        members = self._members
        part = part if isinstance(part, Mapping) else {}
        options = [part["const"]] if "const" in part else part.get("enum")
        kind = part.get("type")
        if isinstance(options, list):
            yield from (self._option(option) for option in options)
        elif kind in ("boolean", "null"):
            words = ("true", "false") if kind == "boolean" else ("null",)
            yield from ((False, json.dumps(said)) for word in words
                        for said in (word, PYTHON[word]))  # fmt: skip
        elif members.is_nested and kind == "array":
            item = self._item(part.get("items", True))
            between = self._say(members.between)
            yield False, f'"[" ({item} ({between} {item})*)? "]"'
        elif members.is_nested and kind == "object":
            inner = self._once("object", part, partial(self._object, part))
            yield False, f'"{{" {inner} "}}"'
        elif members.is_quoted or kind in ("integer", "number", "array", "object"):
            yield False, lark_json(self._shared(part))
        else:
            yield True, self._text(part)
            if kind is None and members.is_nested:
                for further in ("number", "boolean", "null", "array", "object"):
                    yield from self._values({"type": further})
            elif kind is None and members.text != members.value:
                yield False, lark_json(self._shared(part))

    def _shared(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Return a part of the schema with what it may refer to."""
        keys = ("$defs", "definitions")
        return {**{key: self._root[key] for key in keys if key in self._root}, **part}

    def _option(self, option: Any) -> tuple[bool, str]:
        if isinstance(option, str) and not self._members.is_quoted:
            said = json.dumps(option, ensure_ascii=False) if option else ""
            return True, f"{said} {self._say(self._members.text_end)}"
        said = json.dumps(option, ensure_ascii=False)
        return False, json.dumps(said, ensure_ascii=False)

    def _text(self, part: Mapping[str, Any]) -> str:
        """Return a text and what ends it; it is as short as can be, so that its end is one."""
        least, most = part.get("minLength", 0), part.get("maxLength", "")
        is_counted = isinstance(least, int) and least and least <= _MOST
        least, most = (least if is_counted else 0), (most if most and most <= _MOST else "")
        count = f"{{{least},{most}}}" if least or most else "*"
        end = self._members.text_end
        rest = self._mark_within(end)  # no text holds a mark that is a token of its own
        plain = lark_regex(end[: len(end) - len(rest)])
        text = f"/{_pattern(part) or f'(?s:.{count})'}{plain}/"
        return f"{self._rule(text, is_lazy=not rest)} {self._say(rest)}".rstrip()


def _pattern(part: Mapping[str, Any]) -> str | None:
    """Return the pattern of a whole text as it stands in Lark, if a grammar can hold one to it."""
    pattern = part.get("pattern")
    if not isinstance(pattern, str) or loosened({"type": "string", "pattern": pattern}).left_out:
        return None
    begin, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begin : len(pattern) - end].replace("/", r"\/")
    return f"{'' if begin else '(?s:.*)'}(?:{inner}){'' if end else '(?s:.*)'}"
