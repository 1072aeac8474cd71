"""LangChain's view of steerplug: a chat model whose steering is chosen per call."""

from steerplug.langchain.chat_model import ChatSteerplug

__all__ = ["ChatSteerplug"]
