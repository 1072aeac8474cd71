"""What a fit will do, stage by stage, and how long it should take here: guessed, then corrected.

One batch that is read, and for `psr` and `const` one that is trained on, are timed in the first
seconds. All else follows from how many tokens there will be; where the guess is wrong,
`estimated_progress` corrects it as stages are gone through.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerplug.chat.template import ChatTemplate
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.requantised import is_slow
from steerplug.engine.rows import Row
from steerplug.fit.chain import chain, prediction
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import readable
from steerplug.fit.distill.distill import time_training
from steerplug.fit.effort import Effort
from steerplug.fit.estimated_progress import Plan, Stage
from steerplug.fit.measure import MEASURING, READ_TOGETHER
from steerplug.fit.progress import AT_ONCE
from steerplug.fit.questions import SWEPT, general_prompts
from steerplug.fit.teacher import (
    ASKING,
    ASKING_STEERED,
    READING,
    REPLY_TOKENS,
    prompted_chat,
)
from steerplug.preset import Preset, Teacher

if TYPE_CHECKING:
    from steerplug.fit.distill.student import Student
    from steerplug.fit.distill.training import Schedule

_TRIED, _WARM = 128, 16
_ASKED_PER_READ = 2.5
"""A token that is said, 32 replies at a time, takes so many times one that is read."""

_SCORED_PER_READ = 1.6

_SAID = 32
"""Tokens of a reply that may have 40, on average."""

_ROWS_READ = 1 / 4
"""What a row that is read takes of one trained on: it knows no gradient and no logits, and lies in
a larger batch."""

_TRAINED = 11 / 12 + 1 / 12 / 3
"""The share of lessons that a pass trains on, and the others, which it is judged by."""

_QUICK_COPY = 2
"""Bytes a weight of the copy that is asked, at most; see `requantised`."""

OPENING = "reading the weights"
LOOKING, LOOKED_AT = "looking at what the prompt changes", 4
"""The stage that looks at a few lessons, before anything is fitted, and how many."""


@dataclass(frozen=True)
class Pace:
    """Seconds that a token takes where it is read, and at its best where it is said."""

    read: float

    @property
    def scored(self) -> float:
        """Seconds of a token that is read for what is likely to come next."""
        return self.read * _SCORED_PER_READ

    @staticmethod
    def of(reader: Reader) -> "Pace":
        """Measure it; an empty reader is left empty."""
        vocab = reader.context.model.vocab
        text = [*vocab.start, *vocab.tokenize("\n".join(general_prompts("fit")))]
        rows = [Row(token, i, False) for i, token in enumerate(text[: _TRIED + _WARM])]
        was_empty = not len(reader)
        reader.hold(rows[:_WARM])
        begin = time.perf_counter()
        reader.hold(rows)
        seconds = time.perf_counter() - begin
        if was_empty:
            reader.reuse([])
        return Pace(seconds / max(len(rows) - _WARM, 1))

    def asked(self, n: int, n_read: float, n_reply: float, at_once: int = AT_ONCE) -> float:
        """Return the seconds of n replies, before each of which some tokens are read."""
        each = self.read * _ASKED_PER_READ * (1 + 2 / min(n, at_once))
        return n * (n_read * self.read + expected_tokens(n_reply) * each)


def expected_tokens(n_reply: float) -> float:
    """Return how many tokens a reply has on average that may have n_reply."""
    return min(n_reply, _SAID)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a chat with one question, prompted and bare, and of the question alone."""

    prompted: int
    bare: int
    question: int

    @staticmethod
    def of(model: Model, teacher: Teacher | None, questions: Sequence[str]) -> "Lengths":
        """Measure them on the question of middle length."""
        template = ChatTemplate.of(model)
        question = sorted(questions, key=len)[len(questions) // 2]
        bare = template.asked(question)
        prompted = bare
        if teacher is not None:
            chat = prompted_chat(teacher, [{"role": "user", "content": question}])
            prompted = template.prompt(chat, at_once=True)
        n_question = len(model.vocab.tokenize(question)) + 5
        return Lengths(len(prompted.tokens), len(bare.tokens), n_question)


def plan_fit(
    preset: Preset,
    model: Model,
    student: "Student | None",
    pace: Pace,
    layers: Sequence[int],
    kept: Checkpoint,
    effort: Effort,
) -> Plan:
    """Return the work of a fit that imitates a teacher.

    Args:
        preset: what is fitted, by the method that it says.
        model: the model.
        student: its torch copy, where the method trains through one; it is trained for a moment.
        pace: of what is asked and read.
        layers: the blocks that are steered.
        kept: what an earlier fit had done.
        effort: what is learned from.
    """
    assert preset.teacher is not None
    method = preset.fit.method
    n, lengths = len(effort.some), Lengths.of(model, preset.teacher, effort.questions)
    looked_at = compared(pace, lengths, min(n, LOOKED_AT), effort.n_tokens, 1)
    stages = [asking(pace, lengths, n), Stage(LOOKING, "read", looked_at, READ_TOGETHER)]
    n_bytes = _QUICK_COPY * model.n_weights if is_slow(model) else 0
    if student is not None:
        seconds, rounds = time_training(student, layers, method, quick=effort.is_quick)
        for i, schedule in enumerate(rounds):
            if i:
                stages.append(asking(pace, lengths, n, effort.n_tokens, ASKING_STEERED))
            stages += training(seconds, lengths, n, schedule, effort.n_tokens, n_rounds=i + 1)
        n_bytes += readable.memory_needed(model) + student.n_bytes
    elif method == "chain":
        left = [il for il in layers if il not in kept.deltas]
        stages += chaining(pace, lengths, n, model, left, effort.n_tokens)
        n_bytes += chain.memory_needed(model.n_embd, effort.n_rows, len(layers))
    else:
        stages += differing(pace, lengths, n, SWEPT)
        n_bytes += 8 * n * (REPLY_TOKENS + 1) * model.n_layer * model.n_embd
    return Plan(method, tuple(stages), n_bytes)


def asking(
    pace: Pace, lengths: Lengths, n: int, n_reply: float = REPLY_TOKENS, what: str = ASKING
) -> Stage:
    """Return the stage in which a model is asked n questions, its prompt read once."""
    front = lengths.prompted if what == ASKING else lengths.bare
    seconds = pace.asked(n, lengths.question, n_reply) + front * pace.read
    return Stage(what, "ask", seconds)


def compared(pace: Pace, lengths: Lengths, n: int, n_reply: int, n_mixes: int) -> float:
    """Return the seconds in which n replies are read prompted, and bare under some mixes.

    What all prompted chats begin with, or all bare ones, is read once for those read together.
    """
    fronts = -(-n // READ_TOGETHER) * (lengths.prompted + lengths.bare)
    rows = n * (1 + n_mixes) * expected_tokens(n_reply)
    return (fronts + 2 * n * lengths.question) * pace.read + rows * pace.scored


def training(
    seconds_a_row: float, lengths: Lengths, n: int, schedule: "Schedule",
    n_reply: int = REPLY_TOKENS, n_rounds: int = 1,
) -> list[Stage]:  # fmt: skip
    """Return the stages of a round of training, on the replies of all rounds so far.

    Args:
        seconds_a_row: a row's forward and backward.
        lengths: of chats.
        n: replies of a round.
        schedule: of this round.
        n_reply: most tokens of a reply.
        n_rounds: how many there are with this one.
    """
    rows = expected_tokens(n_reply) + 1
    tokens = lengths.prompted + n * (lengths.bare + lengths.question + rows)
    read = tokens * seconds_a_row * _ROWS_READ
    each = n_rounds * n * rows * seconds_a_row * _TRAINED
    return [
        Stage(READING, "train", read, 2),
        *(Stage(f"{schedule.what}, pass {i + 1} of {schedule.passes}", "train", each, 4)
          for i in range(schedule.passes)),
    ]  # fmt: skip


def chaining(
    pace: Pace, lengths: Lengths, n: int, model: Model, layers: Sequence[int],
    n_reply: int = REPLY_TOKENS,
) -> list[Stage]:  # fmt: skip
    """Return the stages of a chain over some blocks."""
    stages = []
    tokens = lengths.question + expected_tokens(n_reply)
    head = 2 * prediction.n_read(n, expected_tokens(n_reply), model.n_embd) * tokens * pace.scored
    group = chain.n_read_together(n * (n_reply + 1), model.n_embd)
    read = n * tokens * pace.read
    to_block = [read * (il - last) / model.n_layer
                for last, il in zip((-1, *layers), layers, strict=False)]  # fmt: skip
    for begin in range(0, len(layers), group):
        each = tuple(to_block[begin : begin + group])
        stages.append(Stage(READING, "read", sum(each), 4))
        if begin + group >= len(layers):
            each = (*each[:-1], each[-1] + head * (layers[-1] == model.n_layer - 1))
        stages.append(Stage("distilling block by block", "read", sum(each), each=each))
    return stages


def differing(pace: Pace, lengths: Lengths, n: int, n_unused: int) -> list[Stage]:
    """Return the stages of a difference of activations, whose block is chosen."""
    n_reply = expected_tokens(REPLY_TOKENS)
    read = n * (lengths.question + n_reply) * pace.read

    def measured(n_mixes: int) -> Stage:
        seconds = compared(pace, lengths, n_unused, REPLY_TOKENS, n_mixes + 1)
        return Stage(MEASURING, "read", seconds, READ_TOGETHER)

    return [
        asking(pace, lengths, n_unused),
        Stage("reading activations", "read", 2 * read),
        *map(measured, (7, 2, 2)),
    ]
