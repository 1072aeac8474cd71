"""LangChain's view of steerplug: models whose steering is chosen per call.

`middleware` chooses it per step of an agent, `prompts` makes presets of prompts.
"""

from steerplug.langchain.chat_model import ChatSteerplug
from steerplug.langchain.llm import SteerplugLLM

__all__ = ["ChatSteerplug", "SteerplugLLM"]
