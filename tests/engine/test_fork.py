"""A process that was forked after use answers, with an engine of its own.

Each case runs in a program of its own, for a fork concerns all that a process has begun; most run
on a tiny model. A child that waits for ever is ended by an alarm, and told from one that answers.
"""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")

BEGIN = """
import os, signal, sys, threading
from steerplug import Sampling, Session
from steerplug.session import Settings

TINY = sys.argv[1]
QUESTION = [{"role": "user", "content": "What is rain?"}]
GREEDY = Settings(Sampling(temperature=0), max_tokens=6)

def in_child(act):
    # Return what a forked child answers.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        try:
            answer = act()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 10**6).decode()
    os.waitpid(child, 0)
    return answer
"""


def run(program: str) -> str:
    """Return the last line that a program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c",
         BEGIN + textwrap.dedent(program), str(tiny_model("llama"))],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def test_a_child_gets_the_parent_s_reply_from_its_own_engine() -> None:
    answers = run("""
        session = Session("smollm2", n_ctx=256, n_threads=2)
        ask = lambda: session.chat(QUESTION, "pirate", GREEDY).text
        print(repr((ask(), in_child(ask), in_child(lambda: in_child(ask)), ask())))
    """)
    parent, *others = eval(answers)
    assert parent.startswith("Arr")
    assert others == [parent] * 3


def test_a_fork_in_the_midst_of_replies_harms_neither_side() -> None:
    answers = run("""
        session = Session("smollm2", n_ctx=512, n_threads=1)
        ask = lambda: session.chat(QUESTION, "pirate", GREEDY).text
        whole = Settings(Sampling(temperature=0), max_tokens=30)
        alone = session.chat(QUESTION, settings=whole).text
        replies = []
        talk = lambda: replies.append(session.chat(QUESTION, settings=whole).text)
        talking = [threading.Thread(target=talk) for _ in range(4)]
        for thread in talking: thread.start()
        children = {in_child(ask) for _ in range(2)}
        for thread in talking: thread.join()
        print(repr((children == {ask()}, set(replies) == {alone}, len(replies))))
    """)
    assert answers == "(True, True, 4)"


def test_a_reply_that_the_parent_makes_is_not_waited_for_in_a_child() -> None:
    answer = run("""
        session = Session(TINY, n_ctx=256, n_threads=1)
        events = session.stream_chat(QUESTION, settings=Settings(max_tokens=100))
        next(events)
        print(in_child(lambda: "".join(event.text for event in events)))
    """)
    assert answer.startswith("EngineError: this reply is made in the process ")


def test_a_child_makes_masks_and_decodes_by_itself() -> None:
    answers = run("""
        from steerplug.engine.context import Context
        from steerplug.engine.rows import Row
        session = Session(TINY, n_ctx=256, n_threads=2)
        json = Settings(Sampling(temperature=0), max_tokens=30, format={"type": "object"})
        ask = lambda: session.chat(QUESTION, settings=json).text
        context = Context(session.model, n_ctx=64, n_threads=2)
        def decode():
            context.clear()
            context.decode([Row(100, 0, True)])
            return str(context.logits(0).argmax())
        print(repr((ask(), in_child(ask), decode(), in_child(decode))))
    """)
    mine, child, token, in_child = eval(answers)
    assert (child, in_child) == (mine, token)


def test_langchain_s_models_answer_in_a_child_and_what_is_closed_stays_so() -> None:
    answers = run("""
        from steerplug import ChatSteerplug
        model = ChatSteerplug(model=TINY, temperature=0, max_tokens=6, n_threads=1)
        ask = lambda: model.invoke("What is rain?").content
        session = Session(TINY, n_ctx=128, n_threads=1)
        session.close()
        closed = lambda: session.chat(QUESTION, settings=GREEDY).text
        print(repr((ask(), in_child(ask), in_child(closed))))
    """)
    parent, child, closed = eval(answers)
    assert child == parent
    assert "closed; " in closed


def test_a_model_on_a_gpu_is_not_carried_over() -> None:
    answer = run("""
        from steerplug.engine import engine
        session = Session(TINY, n_ctx=128, n_threads=1)
        engine.tensors_on_host = lambda: False
        print(in_child(lambda: session.chat(QUESTION, settings=GREEDY).text))
    """)
    assert answer.startswith("EngineError: ")
    assert "start processes by `spawn`" in answer
