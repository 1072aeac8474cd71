"""The models of a server, by what clients call them.

A request that is answered by a model names it: `qwen3`, or `qwen3@json-output` with how to steer.
Where clients of other servers name none, as for `/props`, the only model is meant.
"""

from collections.abc import Iterator, Sequence

from steerplug.errors import SteerplugError, nearest
from steerplug.server.errors import Refused
from steerplug.server.served import Served


class Models:
    """All models of one server.

    Args:
        served: the models, at least one.

    Raises:
        SteerplugError: two of several are called the same, or one as another's preset might be.
    """

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = tuple(served)
        check_names([one.name for one in served])

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served)

    @property
    def names(self) -> list[str]:
        """What clients call them."""
        return [one.name for one in self]

    @property
    def are_several(self) -> bool:
        """Whether there is a choice."""
        return len(self._served) > 1

    def ids(self) -> list[str]:
        """Return the ids of all: each bare, and with each of its presets."""
        return [model for one in self for model in one.chooser.models()]

    def find(self, model: str) -> Served:
        """Return the model that an id names, whatever steering it ends in.

        Raises:
            Refused: there is none.
        """
        for one in self:
            if model == one.name or model.startswith(f"{one.name}@"):
                return one
        guess = nearest(model, self.ids()) or "; GET /v1/models lists all."
        raise Refused(f"there is no model `{model[:80]}`{guess}", 404, "model_not_found", "model")

    def said(self, model: str | None) -> Served:
        """Return the model that a request names which need not, where there is but one.

        Raises:
            Refused: it names none although there are several, or one that there is not.
        """
        if model is not None:
            return self.find(model)
        if self.are_several:
            names = ", ".join(self.names)
            raise Refused(
                f"this server has several models ({names}); say which, as `model`.", param="model"
            )
        return self._served[0]


def check_names(names: Sequence[str]) -> None:
    """Refuse names of several models that clients could not tell apart; a single one may be any.

    Raises:
        SteerplugError: two are the same, or one is empty or holds an @.
    """
    for name in names if len(names) > 1 else ():
        if not name.strip() or "@" in name:
            raise SteerplugError(
                f"a model is called `{name}`; give it a name without @, which comes before presets."
            )
        if names.count(name) > 1:
            raise SteerplugError(f"two models are called `{name}`; give each a name of its own.")
