"""A chain's static prompt becomes a preset: the same chain before and after, and what it costs.

To show it in seconds, the chain has the prompt that the shipped preset `pirate` was distilled from,
so its compiled steering serves. A prompt of your own is distilled at the first call, which takes
some minutes once (pip install 'steerplug[fit]').
"""

import re
import tempfile
import time
from pathlib import Path

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from steerplug import ChatSteerplug, load_preset, preset_from_prompt, save_preset, split_prompt

QUESTIONS = ["What is rain?", "What is bread made of?"]


def prompt_of_a_chain() -> ChatPromptTemplate:
    """Return a template as chains have it: an instruction, example turns, and the question."""
    teacher = load_preset("pirate").teacher
    turns = [turn for example in teacher.examples
             for turn in (HumanMessage(example.user), AIMessage(example.assistant))]
    return ChatPromptTemplate([("system", teacher.system), *turns, ("human", "{question}")])


def main() -> None:
    model = ChatSteerplug(model="smollm2", temperature=0, max_tokens=40)
    prompt = prompt_of_a_chain()
    preset = preset_from_prompt(prompt, "pirate")
    _, rest = split_prompt(prompt)
    with tempfile.TemporaryDirectory() as folder:
        steering = str(save_preset(preset, Path(folder)))
        prompted = measured("prompted", prompt | model)
        steered = measured("steered", rest | model.with_steering(steering))
        bare = measured("bare", rest | model)
    print(f"words in common with the prompted replies: steered {agreement(prompted, steered):.0%}, "
          f"bare {agreement(prompted, bare):.0%}")
    for name, replies in (("prompted", prompted), ("steered", steered), ("bare", bare)):
        print(f"[{name}]", replies[0])


def measured(name: str, chain: Runnable) -> list[str]:
    """Answer all questions; print prompt tokens and time of a reply, and return the replies."""
    chain.invoke({"question": "Hello!"})  # loads the model, and fills its cache
    begin = time.perf_counter()
    replies = [chain.invoke({"question": question}) for question in QUESTIONS]
    seconds = (time.perf_counter() - begin) / len(QUESTIONS)
    tokens = sum(reply.usage_metadata["input_tokens"] for reply in replies) / len(QUESTIONS)
    written = sum(reply.usage_metadata["output_tokens"] for reply in replies) / len(QUESTIONS)
    print(f"{name:8} {tokens:4.0f} prompt tokens, {seconds:.2f} s for {written:.0f} tokens")
    return [reply.text.strip() for reply in replies]


def agreement(some: list[str], others: list[str]) -> float:
    """Return the share of words that two replies to a question have in common, on average."""
    pairs = [(words(a), words(b)) for a, b in zip(some, others, strict=True)]
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)


def words(text: str) -> set[str]:
    """Return the words of a reply."""
    return set(re.findall(r"[a-z']+", text.lower()))


if __name__ == "__main__":
    main()
