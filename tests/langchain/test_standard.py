"""LangChain's own standard tests; nothing that a text model can is turned off.

What a model says of itself is asked of the real SmolLM2, all else of random weights. Where a test
asks more of the model's wits than 135 million parameters have, its failure is expected and says
why. No test is overridden.
"""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from steerplug import ChatSteerplug
from tests.helpers.real_models import QWEN_0_5B, QWEN_1_5B, RealModel, path_of
from tests.helpers.tiny_models import tiny_model

TOO_SMALL = {
    "test_agent_loop": "135M parameters may not see by themselves that a tool is to be called",
}

ITS_OWN_WORDS = {
    "test_agent_loop", "test_conversation", "test_json_mode", "test_stream",
    "test_structured_output", "test_tool_calling", "test_tool_calling_async",
    "test_unicode_tool_call_integration",
}  # fmt: skip
"""What the real model is asked."""

pytestmark = pytest.mark.usefixtures("folder")


class Standard:
    """What both suites are told of the model."""

    @property
    def chat_model_class(self) -> type[ChatSteerplug]:
        return ChatSteerplug

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2", "temperature": 0, "n_ctx": 1024, "n_threads": 1}


class TestUnit(Standard, ChatModelUnitTests):
    """Without weights."""


class Integration(Standard, ChatModelIntegrationTests):
    """What the suites with weights are told of the model."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "max_tokens": 40}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "smollm2"

    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatSteerplug(**self.chat_model_params)
        model.invoke("What is rain?")
        if not stream:
            return model.invoke("What is rain?")
        whole = AIMessageChunk(content="")
        for chunk in model.stream("What is rain?"):
            whole = whole + chunk
        return whole


class TestIntegration(Integration):
    """With weights: the real ones, as a fit reads them, or random ones, for what is plumbing."""

    path: Path

    @pytest.fixture(autouse=True)
    def _weights(self, request: pytest.FixtureRequest, quick_path: Path) -> None:
        name = request.node.originalname
        self.path = quick_path if name in ITS_OWN_WORDS else tiny_model("llama_untied")
        if name in TOO_SMALL:
            request.applymarker(pytest.mark.xfail(reason=TOO_SMALL[name], strict=False))

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "model": str(self.path), **self.sizes}

    @property
    def sizes(self) -> dict[str, int]:
        """The tiny model has few tokens, so that a text takes many."""
        is_tiny = self.path == tiny_model("llama_untied")
        return {"n_ctx": 2048, "max_tokens": 80} if is_tiny else {}

    @property
    def model_override_value(self) -> str:
        return str(self.path)


class OnFile(Integration):
    """With the weights of a larger model, where the tests' user has them."""

    real: ClassVar[RealModel]

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "model": str(path_of(self.real))}

    @property
    def model_override_value(self) -> str:
        return str(self.chat_model_params["model"])


class TestQwen15B(OnFile):
    """All of it, and nothing of it is expected to fail."""

    real = QWEN_1_5B


class TestQwen05B(OnFile):
    """Its calls; the rest is as that of the larger one."""

    real = QWEN_0_5B

    @pytest.fixture(autouse=True)
    def _calls_alone(self, request: pytest.FixtureRequest) -> None:
        if not {"tool", "agent"} & set(request.node.originalname.split("_")):
            pytest.skip("it is asked for calls alone")
