"""What a preset is fitted on: the prompted model's replies, and the same replies in a bare chat.

The teacher is the chat with the preset's instruction and example turns; the student is the bare
chat. Replies are sampled from the teacher, and in a second round from the steered student; both
read the same reply tokens: row i of one and row i of the other are the same place in the same text
and differ by the prompt alone.

A model that thinks is asked to answer at once: what is learned is how it answers, and its thoughts
are left unsteered when it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.engine import Engine
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError
from steerplug.fit.progress import Report, silent
from steerplug.fit.reply_cache import ReplyCache, ask_all, name_of
from steerplug.preset import Teacher
from steerplug.steering.value import NOTHING, Mix

REPLY_TOKENS = 40
TEMPERATURE = 0.7
ASKING, ASKING_STEERED = "asking the prompted model", "asking the steered model"
READING = "reading the prompted model"


@dataclass(frozen=True)
class Lesson:
    """One reply, with both prompts it can follow.

    Rows of a lesson are the boundary token and the reply's tokens: `len(reply) + 1` of them. Each
    predicts the reply token after it, the last one what follows the reply.
    """

    prompted: Prompt
    bare: Prompt
    reply: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        """How many tokens of the lesson are steered and compared."""
        return len(self.reply) + 1


def prompted_chat(teacher: Teacher, messages: Sequence[Message]) -> list[Message]:
    """Return a chat with the teacher's instruction and example turns put in front.

    A system message of the chat's own follows the instruction in the same message.
    """
    own = [m["content"] for m in messages[:1] if m["role"] == "system"]
    system = "\n\n".join([*([teacher.system] if teacher.system else []), *own])
    shown: list[Message] = [{"role": "system", "content": system}] if system else []
    for example in teacher.examples:
        shown += [
            {"role": "user", "content": example.user},
            {"role": "assistant", "content": example.assistant},
        ]
    return [*shown, *messages[len(own) :]]


def teach(
    engine: Engine,
    template: ChatTemplate,
    teacher: Teacher,
    questions: Sequence[str],
    *,
    seed: int,
    temperature: float = TEMPERATURE,
    n_tokens: int = REPLY_TOKENS,
    schema: Mapping[str, Any] | None = None,
    some: Sequence[int] | None = None,
    steered: Mix | None = None,
    cache: ReplyCache | None = None,
    report: Report = silent,
) -> list[Lesson]:
    """Sample one reply of the teacher to each question; questions it leaves unanswered are skipped.

    Args:
        engine: the model.
        template: how it reads a chat.
        teacher: the prompt that is replaced.
        questions: what users ask.
        seed: of the first reply; the next one has the next.
        temperature: how freely replies are drawn; 0 is greedy.
        n_tokens: most tokens of a reply.
        schema: a JSON Schema that the replies must follow.
        some: the numbers of those that are asked; default: all.
        steered: how the bare model is steered that replies in the teacher's place.
        cache: replies that are not asked for again; new ones are put in.
        report: told how far the work is.

    Raises:
        FitError: the teacher answers nothing at all.
    """
    def prompts(i: int) -> tuple[Prompt, Prompt]:
        bare: list[Message] = [{"role": "user", "content": questions[i]}]
        prompted = template.prompt(prompted_chat(teacher, bare), at_once=True)
        return prompted, template.prompt(bare, at_once=True)

    def request(i: int) -> Request:
        prompted, bare = prompts(i)
        return Request(
            prompted if steered is None else bare,
            NOTHING if steered is None else steered,
            sampling=Sampling(temperature=temperature, seed=seed + i),
            max_tokens=n_tokens,
            grammar=schema,
            thinking_budget=0,
        )

    cache = {} if cache is None else cache
    requests = {i: request(i) for i in (range(len(questions)) if some is None else some)}
    left = [each for each in requests.values() if name_of(each) not in cache]
    before = len(requests) - len(left)
    what = ASKING if steered is None else ASKING_STEERED
    ask_all(engine, left, cache, what, report, before=before)
    replies = {i: cache[name_of(each)].tokens for i, each in requests.items()}
    lessons = [Lesson(*prompts(i), reply) for i, reply in replies.items() if reply]
    if not lessons and steered is None:
        raise FitError(
            f"the prompted model answers none of {len(requests)} questions; "
            "give the teacher another instruction or example turns."
        )
    return lessons


def n_common(texts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all texts share, leaving each at least its last one."""
    most = min(map(len, texts)) - 1
    first = texts[0]
    return next((i for i in range(most) if any(t[i] != first[i] for t in texts)), most)
