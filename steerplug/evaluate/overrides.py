"""What a preset keeps where users paste texts that would lead the model away from it.

    plain   share of replies to the questions alone that pass all of the preset's checks
    pasted  the same behind a pasted override (see `scripts`), over all and by kind
    change  pasted less plain, over the same questions

Bare, prompted, steered and both (see `arms`) answer each question alone and with the text pasted
behind it, greedily.
"""

from contextlib import closing
from functools import partial
from typing import Any

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.evaluate.arms import ANSWER_ONLY, PARAPHRASED, Arm, arms_of
from steerplug.evaluate.estimate import as_json, share, share_change
from steerplug.evaluate.journal import reply_journal
from steerplug.evaluate.scripts import overrides
from steerplug.fit.progress import Report, at_once, in_turn, silent
from steerplug.fit.reply_cache import ask
from steerplug.preset import Preset
from steerplug.steering.value import Mix

REPLY_TOKENS = 48


def measure_overrides(
    preset: Preset, mix: Mix, model: Model, report: Report = silent
) -> dict[str, Any]:
    """Return how well a preset keeps its checks under overrides, as JSON values.

    Args:
        preset: one with a teacher and checks.
        mix: its steering, at the strength that is measured.
        model: the model.
        report: told how far the work is.

    Raises:
        ModelError: the model has no chat template.
        StoreError: the replies cannot be kept.
    """
    some, template, cache = overrides(), ChatTemplate.of(model), reply_journal(model.fingerprint)
    arms = arms_of(preset, mix)
    for name in (PARAPHRASED, ANSWER_ONLY):
        arms.pop(name, None)
    texts = [text for one in some for text in (one.question, one.message)]
    with closing(Engine(model)) as engine:

        def passes(arm: Arm, text: str) -> bool:
            message: Message = {"role": "user", "content": text}
            request = Request(
                arm.prompt(template, [message]), arm.mix, Sampling(temperature=0),
                max_tokens=REPLY_TOKENS, thinking_budget=0,
            )  # fmt: skip
            reply = ask(engine, request, cache).text
            return preset.passes(reply)

        passed = {
            name: at_once(partial(passes, arm), texts, f"overriding: {name}", part)
            for name, arm, part in in_turn(arms, report)
        }
    return as_json({
        "n_overrides": len(some), "reply_tokens": REPLY_TOKENS,
        "arms": {
            name: {
                "plain": share(plain), "pasted": share(pasted),
                "change": share_change(pasted, plain),
                "by_kind": {
                    kind: share([one for one, its in zip(pasted, some, strict=True)
                                 if its.kind == kind])
                    for kind in dict.fromkeys(one.kind for one in some)
                },
            }
            for name, (plain, pasted) in
            ((name, (those[::2], those[1::2])) for name, those in passed.items())
        },
    })  # fmt: skip
