"""What `steerplug eval` measured here, beside what a steering file says of itself.

    <cache>/measured/SHA256.json        model fingerprint -> fidelity report

A steering file carries the figures of its maker, on the model it was made for. If that is a pack's
author they are claims, and for another quantisation they say nothing; what was measured here says
both. SHA256 is what the file says of all that it holds, so figures stay with their very numbers.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steerplug.files.cache_folder import cache_folder
from steerplug.files.whole_file import write_whole
from steerplug.steering.header import kept_files, steering_claims
from steerplug.store.figures import Figures

_SHA256 = re.compile(r"[0-9a-f]{64}")

Reports = dict[str, Mapping[str, Any]]


def remember(steering: Path, model: str, fidelity: Mapping[str, Any]) -> None:
    """Keep a report on a verified steering file; a disk that refuses is no reason to lose it.

    Args:
        steering: the file.
        model: fingerprint of the model it was measured on.
        fidelity: the report, as JSON values.
    """
    kept = _file(steering_claims(steering))
    if kept is None:
        return
    try:
        write_whole(kept, json.dumps({**_read(kept), model: fidelity}).encode())
    except OSError:
        return


def recall(steering: Path) -> Reports:
    """Return the reports kept of a steering file, by the fingerprint of the model."""
    kept = _file(steering_claims(steering))
    return _read(kept) if kept else {}


def figures(steering: Path, model: str, fidelity: Mapping[str, Any], pack: str) -> Figures:
    """Return what is known of a steering file on a model.

    Args:
        steering: the file.
        model: the model's fingerprint.
        fidelity: what the file says itself.
        pack: the pack it came in, and its version; empty if it came in none.
    """
    here = recall(steering).get(model)
    return Figures(model, here) if here is not None else Figures(model, fidelity, pack)


def newest_figures(
    name: str, digest: str, came_with: Iterable[tuple[Path, str]]
) -> Figures | None:
    """Return what is known of a preset on any model: what was measured here, if anything was.

    Args:
        name: the preset's name.
        digest: the preset's digest; steering of an earlier wording does not count.
        came_with: folders of compiled steering that came with the preset, each with the pack that
            it belongs to, or empty.
    """

    def kept(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
        files = kept_files(name, [folder])
        return [(path, claims) for path, claims in files if claims.get("preset_digest") == digest]

    built = kept(cache_folder())
    brought = [(path, claims, pack) for folder, pack in came_with for path, claims in kept(folder)]
    here = [(path.stat().st_mtime, _claimed(claims, "")) for path, claims in built]
    here += [figures for _, claims in built for figures in _reports(claims)]
    here += [figures for _, claims, _ in brought for figures in _reports(claims)]
    if here:
        return max(here, key=lambda figures: figures[0])[1]
    return next((_claimed(claims, pack) for _, claims, pack in brought), None)


def _claimed(claims: Mapping[str, Any], pack: str) -> Figures:
    return Figures(str(claims.get("model")), claims["fidelity"], pack)


def _reports(claims: Mapping[str, Any]) -> list[tuple[float, Figures]]:
    """Return what was measured of a steering file and when, on its very model first."""
    kept = _file(claims)
    if kept is None or not (reports := _read(kept)):
        return []
    when = kept.stat().st_mtime
    models = sorted(reports, key=lambda model: model != claims.get("model"))
    return [(when, Figures(model, reports[model])) for model in models]


def _file(claims: Mapping[str, Any]) -> Path | None:
    """Return where reports on a steering file are kept, if it says what it is."""
    digest = claims.get("sha256")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        return None
    return cache_folder() / "measured" / f"{digest}.json"


def _read(kept: Path) -> Reports:
    try:
        reports = json.loads(kept.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(reports, dict):
        return {}
    return {model: report for model, report in reports.items() if isinstance(report, dict)}
