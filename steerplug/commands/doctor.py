"""`steerplug doctor`: does this model, build and machine support steering? Checked, not assumed."""

from typing import Any

import typer
from rich.text import Text

from steerplug.commands.checkup import Checkup
from steerplug.commands.examination import Finding
from steerplug.commands.exit_codes import FAILED
from steerplug.commands.loading_options import with_loading
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_hanging, print_json, put, screen
from steerplug.engine.loading import Loading


@with_loading
def doctor(model: Model = MODEL, as_json: Json = False, *, loading: Loading) -> None:
    """Check that this model, build and machine support steering."""
    checkup = Checkup(model, loading)
    checks = []
    for check in checkup.checks():
        checks.append(check)
        if not as_json:
            print_hanging(screen(), _label(check), check.detail)
    ok = all(check.ok for check in checks)
    if as_json:
        print_json(_report(ok, checks, checkup.facts))
    else:
        put(_verdict(ok, model))
    if not ok:
        raise typer.Exit(FAILED)


def _label(check: Finding) -> Text:
    mark = ("ok  ", "bold green") if check.ok else ("fail", "bold red")
    return Text.assemble(mark, f"  {check.name:<18}")


def _verdict(ok: bool, model: str) -> Text:
    if ok:
        return Text(f"\n{model} can be steered on this machine.", "bold green")
    return Text(f"\n{model} is not ready; each failed line says what to do.", "bold red")


def _report(ok: bool, checks: list[Finding], model: dict[str, Any] | None) -> dict[str, Any]:
    return {"ok": ok, "checks": [vars(check) for check in checks], "model": model}
