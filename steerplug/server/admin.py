"""`/v1/models`, `/steering/presets`, `/steering`: what can be asked for, what is the default.

`POST /steering/compile` has a preset compiled in idle time. The guard lets only the admin key post.

`GET /steering` has the shape of llama.cpp's adapter endpoints: a list of id, name and strength.
`POST /steering` takes such a list and makes it the default of all requests that say nothing
themselves; presets it leaves out get 0. The guard lets only the admin key do so.
"""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field

from steerplug.preset.mix import MAX_INGREDIENTS
from steerplug.server.errors import Refused
from steerplug.server.requests import AdapterBody, PresetBody
from steerplug.server.state import ServerState

Adapters = Annotated[list[AdapterBody], Field(max_length=256)]


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""
    catalog, chooser = serving.catalog, serving.chooser

    def model(name: str) -> dict[str, Any]:
        created = int(serving.started)
        return {"id": name, "object": "model", "created": created, "owned_by": "steerplug"}

    @app.get("/v1/models")
    @app.get("/models", include_in_schema=False)
    async def models() -> dict[str, Any]:
        """List the model, bare and with each preset."""
        return {"object": "list", "data": [model(name) for name in chooser.models()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """Describe one model, which may be a mix."""
        await asyncio.to_thread(chooser.choose, name, None, None)
        return model(name)

    @app.get("/steering/presets")
    async def presets() -> dict[str, Any]:
        """Describe all presets, with what carries each on this model now."""
        jobs = serving.session.compiler.jobs
        listed = sorted(catalog.listed.items())
        described = [offer.describe(jobs.get(name)) for name, offer in listed]
        return {"object": "list", "data": described}

    @app.post("/steering/compile")
    async def compile_preset(wanted: PresetBody) -> dict[str, Any]:
        """Have a preset compiled in idle time, and describe it."""
        name = wanted.name
        await asyncio.to_thread(serving.compile, name)
        return catalog.listed[name].describe(serving.session.compiler.jobs.get(name))

    @app.get("/steering")
    async def defaults() -> list[dict[str, Any]]:
        """Return how replies are steered if nobody says."""
        now = {preset.name: preset.strength for preset in chooser.default.steering.ingredients}
        names = sorted(catalog.offers)
        return [{"id": i, "name": name, "strength": now.get(name, 0.0)}
                for i, name in enumerate(names)]  # fmt: skip

    @app.post("/steering")
    async def set_defaults(adapters: Adapters) -> list[dict[str, Any]]:
        """Change how replies are steered if nobody says."""
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
        return await defaults()
