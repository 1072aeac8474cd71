"""Logs on stderr: lines of JSON for programs, and on a terminal plain ones; no prompts, no replies.

Texts are only there where the server was told to log them.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_TEXTS = ("messages", "prompts", "replies")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _USUAL}


class JsonLines(logging.Formatter):
    """One line of JSON per record, with whatever `extra` says."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainLines(logging.Formatter):
    """One line per record that a person reads at a glance; a traceback follows where there is one.

    Nothing in it commands the terminal, though clients write some of it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        event, extra = record.getMessage(), _extra(record)
        if event == "serving":
            event = _serving(extra)
        elif event == "request":
            event = "; ".join(_request(extra))
        else:
            event = "; ".join([event, *(f"{key} {_spelt(value)}" for key, value in extra.items())])
        line = "".join(c if c.isprintable() else "\ufffd" for c in f"{when}  {level}{event}")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _serving(told: Mapping[str, Any]) -> str:
    models = told["models"]
    names = [model for model in models if "@" not in model] or models[:1]
    n_others = len(models) - len(names)
    presets = f", and {n_others} with presets" if n_others else ""
    return (
        f"serving {', '.join(names)}{presets} at {told['address']}/v1; the playground is at "
        f"{told['address']}"
    )


def _request(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is told of a request, in the order in which it is of interest."""
    yield f"{told['method']} {told['path']} {told['status']} in {told['seconds']:.2f} s"
    if "completion_tokens" in told:
        by = f"{told['steering']} by {told['carrier']}" if told["carrier"] else "not steered"
        yield f"{told['model']}, {by}"
        yield f"{told['prompt_tokens']} prompt tokens, {told['cached_tokens']} of them cached"
        yield f"{told['completion_tokens']} reply tokens"
    if "error" in told:
        yield str(told["error"])
    for name in _TEXTS:
        if name in told:
            yield f"{name} {_spelt(told[name])}"


def _spelt(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def log_to_stderr() -> None:
    """Let everything that a server says be lines: plain on a terminal, else JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    for name, level in (("steerplug", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
