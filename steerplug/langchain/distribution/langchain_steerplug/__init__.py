"""steerplug for LangChain: the names of `steerplug.langchain` that people come for."""

from steerplug.langchain import ChatSteerplug, SteerplugLLM
from steerplug.langchain.middleware import SteeringMiddleware
from steerplug.langchain.prompts import preset_from_prompt

__all__ = ["ChatSteerplug", "SteeringMiddleware", "SteerplugLLM", "preset_from_prompt"]
