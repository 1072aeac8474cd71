"""A chat model with arguments or a config bound to it, which no later step of a chain loses.

LangChain's own binding hands `bind_tools` and `with_structured_output` to the bare model, so that
`model.bind(steering="formal")` would lose its steering in an agent. This one keeps it.
"""

from collections.abc import Sequence
from typing import Any, Self, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding

from steerplug.langchain.errors import langchain_errors
from steerplug.langchain.structured import Schema, structured
from steerplug.langchain.tools import ToolLike


class Bound(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef]
    """A chat model with arguments and a config for every call; a call's own win."""

    def bind(self, **kwargs: Any) -> Self:
        """Return it with more arguments."""
        return cast("Self", super().bind(**kwargs))

    def bind_tools(self, tools: Sequence[ToolLike], **kwargs: Any) -> Self:
        """Return it with tools as well; see `ChatSteerplug.bind_tools`."""
        with_tools = cast("Any", self.bound).bind_tools(tools, **kwargs)
        return self.bind(**with_tools.kwargs)

    def with_structured_output(
        self, schema: Schema | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a chain whose replies follow a schema; see `ChatSteerplug`."""
        with langchain_errors():
            return structured(self, schema, **kwargs)

    def with_steering(self, steering: str | None) -> Self:
        """Return it with another steering; None is none."""
        return self.bind(steering=steering or "none")
