"""One model being served: its session, the presets on offer, and how replies are steered."""

import asyncio
from dataclasses import dataclass, field, replace

from starlette.datastructures import Headers

from steerplug.preset.mix import Ingredient, format_mix
from steerplug.server.catalog import Catalog
from steerplug.server.config import ModelConfig
from steerplug.server.requests import Body
from steerplug.server.steering_choice import Chooser, SteeringChoice
from steerplug.session import Session


@dataclass
class Served:
    """A model on offer.

    Args:
        session: the model; it stays open when the server ends.
        config: how it is served.

    Raises:
        SteerplugError: the default steering, or a preset to be compiled, is not there.
    """

    session: Session
    config: ModelConfig
    catalog: Catalog = field(init=False)
    chooser: Chooser = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.session)
        self.chooser = Chooser(self.session, self.catalog, self.config.name, self.config.steer)
        self.begin_compiling(self.config.compile)

    def begin_compiling(self, presets: tuple[str, ...]) -> None:
        """Have these presets compiled in idle time, by the words of `ModelConfig.compile`.

        Raises:
            Refused: one of them is not there.
        """
        self.config = replace(self.config, compile=presets)
        for name in self.config.to_compile:
            self.compile(name)
        self._compile_all()

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.config.name

    def compile(self, name: str) -> None:
        """Have a preset compiled in idle time, unless it is.

        Raises:
            Refused: there is no preset of that name.
        """
        if name not in self.catalog.listed:
            self.catalog.check(name)
        self.session.compile(format_mix((Ingredient(name),)), again=True)

    def look_again(self) -> None:
        """Notice what has changed in the library."""
        self.catalog.refresh()
        self._compile_all()

    def _compile_all(self) -> None:
        """Have all presets compiled that are not, if the server was told to; each is tried once."""
        if self.config.compiles_all:
            tried = self.session.compiler.jobs
            for name, offer in self.catalog.listed.items():
                built = offer.carrying.built
                if (built is None or built.is_quick) and name not in tried:
                    self.compile(name)

    async def choose(self, headers: Headers, body: Body) -> SteeringChoice:
        """Return how to steer the reply to a request; errors are those of `Chooser.choose`."""
        return await asyncio.to_thread(
            self.chooser.choose, body.model, body.steering, headers.get("x-steering") or None,
            (body.carrier, headers.get("x-steering-carrier") or None),
        )  # fmt: skip
