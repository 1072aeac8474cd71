"""What replicas must have in common, and the sentence on the first thing that they have not.

The same request must be answered alike whoever answers it: so by the same steerplug, a llama.cpp
compiled alike, the same weights and the same presets. Each replica of a version of the application
reports to one actor, which Ray keeps for it; a newer version has another, so versions may differ
while one replaces the other.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_FORGOTTEN = 30.0
"""Seconds after which a replica that reports no more is nobody to agree with."""

_CURES = {
    "steerplug": "install the same version on both",
    "llama-cpp-python": "install the same version on both",
    "llama.cpp built for": "build it by the same CMAKE_ARGS on both, or give both one image",
}


@dataclass(frozen=True)
class Facts:
    """What one replica has.

    Args:
        node: where it runs, as people call that.
        software: versions and builds, by what they are of.
        models: the fingerprint of each, by its name.
        presets: the digest of each, by its name in a mix, such as `model@name`.
        compiled: of what is compiled of them, alike; which there may be none of yet.
    """

    node: str
    software: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)

    def differs_from(self, other: "Facts") -> str:
        """Return the sentence on the first difference that matters, or nothing."""
        if name := _differing(self.software, other.software):
            return (
                f"node {self.node} has {name} {self.software[name]}, and node {other.node} has "
                f"{other.software[name]}; {_CURES[name]}."
            )
        if name := _differing(self.models, other.models):
            return (
                f"the model `{name}` on node {self.node} ({self.models[name]}) is another than on "
                f"node {other.node} ({other.models[name]}); put the same file on both."
            )
        return self._presets_differ(other)

    def _presets_differ(self, other: "Facts") -> str:
        cure = "give all nodes one place of presets by --presets-at."
        for one, without in ((self, other), (other, self)):
            if lacking := min(one.presets.keys() - without.presets.keys(), default=""):
                return (
                    f"node {one.node} has the preset `{lacking}`, and node {without.node} has "
                    f"none of that name; {cure}"
                )
        for what, mine, its in (
            ("preset", self.presets, other.presets),
            ("steering of", self.compiled, other.compiled),
        ):
            if name := _differing(mine, its):
                return (
                    f"the {what} `{name}` on node {self.node} (digest {mine[name][:12]}) is "
                    f"another than on node {other.node} ({its[name][:12]}); {cure}"
                )
        return ""


def _differing(mine: Mapping[str, str], its: Mapping[str, str]) -> str:
    """Return the first name of which both say something else, or nothing."""
    return next((name for name in sorted(mine) if its.get(name, mine[name]) != mine[name]), "")


class Agreement:
    """What all replicas have; an actor of the deployment.

    Args:
        clock: tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, Facts]] = {}

    def report(self, replica: str, facts: Facts) -> str:
        """Note what a replica has, unless it is a new one that differs; return that sentence."""
        now = self._clock()
        self._known = {
            name: (seen, its) for name, (seen, its) in self._known.items()
            if now - seen < _FORGOTTEN
        }  # fmt: skip
        others = [its for name, (_, its) in self._known.items() if name != replica]
        difference = next(filter(None, map(facts.differs_from, others)), "")
        if not difference or replica in self._known:
            self._known[replica] = now, facts
        return difference


def actor() -> Any:
    """Return the configuration by which Ray keeps one for a deployment."""
    import ray
    from ray.serve.config import DeploymentActorConfig

    return DeploymentActorConfig(
        name=NAME, actor_class=ray.remote(Agreement), actor_options={"num_cpus": 0}
    )


NAME = "agreement"
