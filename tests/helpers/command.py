"""What tests of commands share: a command that has ended, and steering put in a preset's place."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from steerplug.build import store_key
from steerplug.engine.engine import Engine
from steerplug.preset import Preset
from steerplug.steering.identity import Identity
from steerplug.steering.value import Steering
from steerplug.store.store import Key, Store


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Call = Callable[..., Ended]


def plant(
    preset: Preset, steering: Steering, engine: Engine, store: Store, **said: Any
) -> None:
    """Put some steering in the place of what a preset would be built to, in full or quickly."""
    is_quick = bool(said.get("fidelity", {}).get("quick"))
    key: Key = replace(store_key(preset, engine), quick=is_quick)
    identity = Identity(
        preset=preset.name, preset_version=preset.version, preset_digest=preset.digest,
        model=key.model, architecture=engine.model.architecture, chat_template=key.chat_template,
        method=key.method, seed=0, steerplug_version="0", **said,
    )  # fmt: skip
    store.publish(key, steering, identity)
