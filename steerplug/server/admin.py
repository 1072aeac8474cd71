"""`/v1/models`, `/steering/presets`, `/steering`: what can be asked for, what is the default.

`POST /steering/compile` has a preset compiled in idle time. The guard lets only the admin key post.

`GET /steering` has the shape of llama.cpp's adapter endpoints: a list of id, name and strength.
`POST /steering` takes such a list and makes it the default of all requests that say nothing
themselves; presets it leaves out get 0. The guard lets only the admin key do so.

Each model has presets and a default of its own: where there are several, `?model=` says which.
"""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field

from steerplug.preset.mix import MAX_INGREDIENTS
from steerplug.server.errors import Refused
from steerplug.server.requests import AdapterBody, ModelName, PresetBody
from steerplug.server.state import ServerState

Adapters = Annotated[list[AdapterBody], Field(max_length=256)]


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""

    def entry(name: str) -> dict[str, Any]:
        created = int(serving.started)
        return {"id": name, "object": "model", "created": created, "owned_by": "steerplug"}

    @app.get("/v1/models")
    @app.get("/models", include_in_schema=False)
    async def models() -> dict[str, Any]:
        """List the models, each bare and with each preset."""
        return {"object": "list", "data": [entry(name) for name in serving.models.ids()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """Describe one model, which may be a mix."""
        chooser = serving.models.find(name).chooser
        await asyncio.to_thread(chooser.choose, name, None, None)
        return entry(name)

    @app.get("/steering/presets")
    async def presets(model: ModelName | None = None) -> dict[str, Any]:
        """Describe all presets, with what carries each on this model now."""
        served = serving.models.said(model)
        jobs, listed = served.session.compiler.jobs, sorted(served.catalog.listed.items())
        described = [offer.describe(jobs.get(name)) for name, offer in listed]
        return {"object": "list", "data": described}

    @app.post("/steering/compile")
    async def compile_preset(wanted: PresetBody) -> dict[str, Any]:
        """Have a preset compiled in idle time, and describe it."""
        served, name = serving.models.said(wanted.model), wanted.name
        await asyncio.to_thread(served.compile, name)
        return served.catalog.listed[name].describe(served.session.compiler.jobs.get(name))

    @app.get("/steering")
    async def defaults(model: ModelName | None = None) -> list[dict[str, Any]]:
        """Return how replies are steered if nobody says."""
        served = serving.models.said(model)
        default = served.chooser.default.steering
        now = {preset.name: preset.strength for preset in default.ingredients}
        names = sorted(served.catalog.offers)
        return [{"id": i, "name": name, "strength": now.get(name, 0.0)}
                for i, name in enumerate(names)]  # fmt: skip

    @app.post("/steering")
    async def set_defaults(
        adapters: Adapters, model: ModelName | None = None
    ) -> list[dict[str, Any]]:
        """Change how replies are steered if nobody says."""
        served = serving.models.said(model)
        catalog, chooser = served.catalog, served.chooser
        names, strengths = sorted(catalog.offers), dict[str, float]()
        for adapter in adapters:
            name = adapter.name
            if name is None:
                if adapter.id is None:
                    raise Refused("an entry has neither name nor id; GET /steering lists both.")
                if adapter.id >= len(names):
                    raise Refused(f"there is no preset {adapter.id}; GET /steering lists all.", 404)
                name = names[adapter.id]
            catalog.check(name)
            strengths[name] = adapter.strength
        wanted = {name: x for name, x in strengths.items() if x}
        if len(wanted) > MAX_INGREDIENTS:
            raise Refused(f"a mix has at most {MAX_INGREDIENTS} presets; drop some.")
        chooser.default = await asyncio.to_thread(chooser.resolve, wanted or "none")
        return await defaults(model)
