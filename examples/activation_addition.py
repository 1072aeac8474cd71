"""Weddings and anger by activation addition: at which block, how hard, and at what price?

The experiment of Turner et al. (arXiv 2308.10248): two short texts are read, the difference of
their activations at one block, times a coefficient, is added to the first tokens of an opening.

Method: the model's own continuations of the opening (sampled, unsteered) are read again under each
steering. Shift: change of the log of the probability, averaged over tokens, of a list of words; +1
nat is 2.7 times as many of them. Damage: nats per token by which those continuations become less
likely. Best: the largest shift with at most 0.5 nats of damage, against the same vector negated
and against random vectors of its length. The paper's "layer L" is block L - 1 here.

Seen on SmolLM2-135M (`--full`, 8 continuations of 20 tokens): no clean direction in either pair.
Wedding words rise by 1.16 nats at block 12, c = 4, where random vectors take away 0.57; but the
negated vector raises them by 2.15, as both texts speak of weddings, and block 9 takes away 2.1 at
the same c. Anger rises most at block 0 and hardly at all from block 9 on; the best, +0.93, is no
more than random vectors reach (most +1.40), and negated it is +1.33. Both steered samples lose the
thread, though each stays within the allowed damage: that figure alone does not promise good text.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerplug import Sampling, Session
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Request
from steerplug.engine.reader import Reader
from steerplug.engine.scope import Prompt
from steerplug.fit.choose import MAX_DAMAGE, Candidates
from steerplug.fit.difference import actadd
from steerplug.fit.measure import reply_log_probs
from steerplug.steering.value import NOTHING, Mix

N_TOKENS = 20


@dataclass(frozen=True)
class Experiment:
    """What is added, before which opening, and which words should come of it."""

    name: str
    pair: tuple[str, str]
    opening: str
    words: str


EXPERIMENTS = (
    Experiment(
        "weddings",
        ("I talk about weddings constantly", "I do not talk about weddings constantly"),
        "I went up to my friend and said",
        "wedding weddings bride groom marriage married marry ceremony vows engagement veil church "
        "cake guests reception husband wife",
    ),
    Experiment(
        "anger-calm",
        ("Anger", "Calm"),
        "I think you're",
        "anger angry mad rage furious hate annoyed upset stupid hell awful terrible worst fight "
        "frustrated",
    ),
)


def continuation(engine: Engine, prompt: Prompt, mix: Mix, seed: int) -> list[int]:
    request = Request(prompt, mix, Sampling(temperature=1, seed=seed), max_tokens=N_TOKENS)
    return [piece.token for piece in engine.generate(request) if piece.token is not None]


def read(
    reader: Reader, prompt: Prompt, own: Sequence[Sequence[int]], words: Sequence[int], mix: Mix
) -> np.ndarray:
    """Return the log-probability of the words, and per token that of the model's own text."""
    of_words, of_own = [], []
    for text in own:
        (log_probs,) = reply_log_probs(reader, prompt, text, [mix])
        of_words.append(np.log(np.exp(log_probs[:, words]).sum(axis=1)))
        of_own.append(log_probs[np.arange(len(text)), text])
    return np.array([np.concatenate(of_words).mean(), np.concatenate(of_own).mean()])


def experiment(session: Session, reader: Reader, tried: Experiment, full: bool) -> None:
    model, vocab = session.model, session.model.vocab
    blocks, coefficients = (range(0, 29, 3), (1, 2, 4, 8)) if full else ((2, 10, 18), (2, 4, 8))
    prompt = Prompt((vocab.bos, *vocab.tokenize(tried.opening)), has_bos=True)
    tokens = [vocab.tokenize(f" {word}") for word in tried.words.split()]
    words = [one[0] for one in tokens if len(one) == 1]
    own = [continuation(session.engine, prompt, NOTHING, seed) for seed in range(8 if full else 1)]
    added = Candidates(
        tried.name, model.n_embd, model.n_layer, "front", actadd(reader, tried.pair, blocks)
    )
    bare = read(reader, prompt, own, words, NOTHING)

    print(f'{tried.name}: "{tried.pair[0]}" - "{tried.pair[1]}", added to "{tried.opening}"')
    print("block " + "".join(f"  c = {c:<9}" for c in coefficients) + "  (shift / damage, nats)")
    found = {}
    for il in blocks:
        for c in coefficients:
            change = read(reader, prompt, own, words, 1.0 * added.steering([il], c)) - bare
            found[il, c] = change[0], -change[1]
        print(f"{il:5} " + "".join("  {:+.2f} / {:<5.2f}".format(*found[il, c])
                                   for c in coefficients))  # fmt: skip
    harmless = {at: shift for at, (shift, damage) in found.items() if damage <= MAX_DAMAGE}
    il, c = max(harmless, key=lambda at: harmless[at])
    best, z = added.steering([il], c), added.directions[il]
    rng, lengths = np.random.default_rng(0), np.linalg.norm(z, axis=1, keepdims=True)
    shifts = []
    for _ in range(8 if full else 2):
        rows = rng.normal(size=z.shape).astype(np.float32)
        rows *= lengths / np.linalg.norm(rows, axis=1, keepdims=True)
        random = Candidates("random", model.n_embd, model.n_layer, "front", {il: rows})
        shifts.append((read(reader, prompt, own, words, 1.0 * random.steering([il], c)) - bare)[0])
    less = (read(reader, prompt, own, words, -best) - bare)[0]
    print(f"best: block {il}, c = {c}: {found[il, c][0]:+.2f}; negated {less:+.2f}; "
          f"random vectors {np.mean(shifts):+.2f} (most {max(shifts):+.2f})")  # fmt: skip
    for way, mix in (("bare", NOTHING), ("added", 1.0 * best)):
        text = vocab.text(continuation(session.engine, prompt, mix, 1))
        print(f"[{way}] {tried.opening}{text!r}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description="Activation addition, block by block.")
    parser.add_argument("--full", action="store_true", help="more blocks, coefficients and text")
    full = parser.parse_args().full
    session = Session("smollm2", n_ctx=512)
    reader = Reader(Context(session.model, n_ctx=512))
    for tried in EXPERIMENTS:
        experiment(session, reader, tried, full)
    session.close()


if __name__ == "__main__":
    main()
