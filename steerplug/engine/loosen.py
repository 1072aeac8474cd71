"""A JSON Schema as far as a grammar can hold a reply to it, and what of it is left out.

llguidance refuses a schema for one keyword that it cannot express. Here the keyword is left out
instead, or said another way: whatever is valid by the schema stays valid by the looser one. What is
left out is said in the log once per schema, and `violation` looks for it in finished replies. An
unknown `format` only describes, so nothing is lost with it.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from steerplug.engine.loosenings import ALWAYS, IF_NEED_BE, is_impossible, problem_of
from steerplug.engine.schema_walk import Change, Loosening
from steerplug.engine.validator import check_schema

_logger = logging.getLogger("steerplug.engine")


@dataclass(frozen=True)
class Loose:
    """A schema that a grammar can express.

    Args:
        schema: what replies are held to.
        left_out: what of the original they are not held to, such as "`uniqueItems` at #".
    """

    schema: Mapping[str, Any]
    left_out: tuple[str, ...]


def loosened(schema: Mapping[str, Any]) -> Loose:
    """Return a schema as far as a grammar can express it.

    Raises:
        ValueError, TypeError, RecursionError: it is no schema, nothing follows it, or no part of it
            can be expressed.
    """
    return _loosened(json.dumps(dict(schema)))


@lru_cache(256)
def _loosened(text: str) -> Loose:
    loosening = Loosening(json.loads(text))
    loosening.apply(*ALWAYS)
    if first := problem_of(loosening.schema):
        loosening = _climbed(loosening, first)
    left_out = tuple(dict.fromkeys(loosening.left_out))
    if left_out:
        check_schema(text)
        _logger.warning(
            "a schema asks for %s, which no reply can be held to while it is generated; finished "
            "replies are checked for it.", _listed(left_out),
        )  # fmt: skip
    return Loose(loosening.schema, left_out)


def _listed(left_out: tuple[str, ...]) -> str:
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return ", ".join(left_out[:5]) + more


def _climbed(loosening: Loosening, problem: str) -> Loosening:
    """Leave out more and more until a schema can be expressed; return it without what was in vain.

    Raises:
        ValueError: nothing helps, or nothing follows the schema.
    """
    now: str | None = problem
    rungs: list[Change] = []
    for rung in IF_NEED_BE:
        if now is None or is_impossible(now):
            break
        rungs.append(rung)
        now = problem_of(_after(loosening, rungs).schema)
    if now is not None:
        raise ValueError(now if is_impossible(now) else problem)
    for rung in rungs[:-1]:
        fewer = [other for other in rungs if other is not rung]
        if problem_of(_after(loosening, fewer).schema) is None:
            rungs = fewer
    return _after(loosening, rungs)


def _after(loosening: Loosening, rungs: list[Change]) -> Loosening:
    climbed = Loosening(loosening.schema, tuple(loosening.left_out))
    climbed.apply(*rungs)
    return climbed
