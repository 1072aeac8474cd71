"""Jinja for templates that nobody vouches for: no way out of them, and no work without an end.

Jinja's own sandbox hides Python's insides. What it leaves open is work: here loops and calls are
counted, and a template that takes more than `MAX_STEPS` of them is refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 200_000

_steps: ContextVar[Iterator[int]] = ContextVar("steps")


class EndlessError(TemplateError):
    """A template takes more steps than it may."""


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"**"})  # one such operation can take for ever

    def call_binop(self, _context: Context, operator: str, _left: Any, _right: Any) -> NoReturn:
        """Refuse an intercepted operator."""
        raise TemplateError(f"it uses the operator {operator}")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `obj` for a template, and count it."""
        _count()
        if isinstance(obj, LoopContext):  # a recursive loop goes down
            args = tuple(map(_counted, args))
        return super().call(context, obj, *args, **kwargs)


class _Generation(Extension):
    """The block `{% generation %}`, which marks replies for training and writes what it holds."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), True), lineno=line)


def compile_template(source: str) -> Template:
    """Return the template, for `render`; what it gets wrong raises Jinja's and Python's errors."""
    sandbox = _Sandbox(
        trim_blocks=True, lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )  # fmt: skip
    del sandbox.globals["lipsum"]  # writes as much as it is asked for
    sandbox.globals["raise_exception"] = _refuse
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    sandbox.filters["counted"] = _counted
    sandbox.filters["tojson"] = _json  # Jinja's own writes <, > and & as a web page needs them
    tree = sandbox.parse(source)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
    return sandbox.from_string(tree)


def render(template: Template, values: Mapping[str, Any]) -> str:
    """Return the text of a template within the limit on its work."""
    token = _steps.set(iter(range(MAX_STEPS)))
    try:
        return template.render(values)
    finally:
        _steps.reset(token)


def _count() -> None:
    if next(_steps.get(), None) is None:
        raise EndlessError("it does not come to an end")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _count()
        yield item


def _json(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)
