"""Is a steering vector more than an injected token? The question of llama.cpp issue 1460.

A vector taken from the embeddings, "weddings" - " ", is a token, blended into another one; a vector
taken from a middle block is what the model has made of that token. Each is added to the first token
of an opening, and both are compared with the word itself, put in front of the opening.

Method: the model's own continuations of several openings (sampled, unsteered) are read again in
each of these ways. Shift: change of the log of the probability, averaged over tokens, of wedding
words other than "wedding" and "weddings" themselves. Damage: nats per token by which those
continuations become less likely. Dose c adds c times the difference that belongs to the block where
it is added; a vector from elsewhere is brought to that length, so columns compare.

Honesty: steerplug adds at the output of a block, so the place nearest to the embeddings is the
output of block 0. The embeddings themselves are read from the model's file.

Seen on SmolLM2-135M (`--full`, 8 texts of 20 tokens; largest shift with damage <= 0.5): the word
in the prompt +0.22, its embedding added at block 0 +0.34, random vectors there +0.17 on average. So
a blended token does about what the token does. The vector of block 0's output, at its own place,
does +0.84 at 0.11 nats of damage: more than a token, after one block of the model's own reading.
Deeper is not better: vectors of blocks 8 and 16 at their own places +0.08 and +0.09, no more than
random ones at 16, for one token changed so late is hardly looked back at. One word, one model, few
texts: an indication, not a law.
"""

import argparse
from collections.abc import Sequence

import gguf
import numpy as np

from steerplug import Sampling, Session
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Request
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.scope import Prompt
from steerplug.fit.choose import MAX_DAMAGE
from steerplug.fit.difference import actadd
from steerplug.fit.distill.gguf_reading import TensorReader
from steerplug.fit.measure import reply_log_probs
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering

PAIR = (" weddings", " ")
WORDS = (
    "bride groom marriage married marry ceremony vows engagement veil church cake guests reception "
    "husband wife"
)
OPENINGS = ("I went up to my friend and said", "Last week we were talking about",
            "The people in the hall were", "Next summer I am going to")  # fmt: skip
N_TOKENS = 20

Text = tuple[tuple[int, ...], tuple[int, ...]]
"""An opening, and the model's own continuation of it."""


def own_texts(engine: Engine, n_openings: int, n_each: int) -> list[Text]:
    vocab, texts = engine.model.vocab, []
    for opening in OPENINGS[:n_openings]:
        tokens = tuple(vocab.tokenize(" " + opening))
        prompt = Prompt((vocab.bos, *tokens), has_bos=True)
        for seed in range(n_each):
            request = Request(prompt, NOTHING, Sampling(temperature=1, seed=seed), (), N_TOKENS)
            drawn = (piece.token for piece in engine.generate(request))
            texts.append((tokens, tuple(token for token in drawn if token is not None)))
    return texts


def read(
    reader: Reader, texts: Sequence[Text], words: Sequence[int], mix: Mix, front: Sequence[int] = ()
) -> np.ndarray:
    """Return the log-probability of the words, and per token that of the model's own text."""
    bos, of_words, of_own = reader.context.model.vocab.bos, [], []
    for opening, own in texts:
        prompt = Prompt((bos, *front, *opening), has_bos=True)
        (log_probs,) = reply_log_probs(reader, prompt, own, [mix])
        of_words.append(np.log(np.exp(log_probs[:, words]).sum(axis=1)))
        of_own.append(log_probs[np.arange(len(own)), own])
    return np.array([np.concatenate(of_words).mean(), np.concatenate(of_own).mean()])


def embedded(model: Model, tokens: Sequence[int]) -> Array:
    """Return the embeddings of tokens, dequantised: (n_tokens, n_embd)."""
    tensors = TensorReader(model.path).tensors
    table = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
    return np.asarray(gguf.dequantize(table.data[list(tokens)], table.tensor_type))


def at_first_token(model: Model, il: int, vector: Array, length: float) -> Steering:
    """Return what adds `vector`, brought to `length`, to the first token after BOS."""
    rows = np.stack([np.zeros_like(vector), vector * (length / np.linalg.norm(vector))])
    return Steering("vector", model.n_embd, model.n_layer, {il: Delta.constant(rows)}, "front")


def main() -> None:
    parser = argparse.ArgumentParser(description="Injected tokens against steering vectors.")
    parser.add_argument("--full", action="store_true", help="more blocks, doses and text")
    full = parser.parse_args().full
    places, doses = ((0, 8, 16, 24), (1, 2, 4, 8)) if full else ((0, 12), (1, 4))
    session = Session("smollm2", n_ctx=512)
    model, vocab = session.model, session.model.vocab
    reader = Reader(Context(model, n_ctx=512))
    texts = own_texts(session.engine, *((4, 2) if full else (1, 1)))
    tokens = [vocab.tokenize(f" {word}") for word in WORDS.split()]
    words = [one[0] for one in tokens if len(one) == 1]
    word, space = (vocab.tokenize(text)[0] for text in PAIR)
    native = {il: rows[1] for il, rows in actadd(reader, PAIR, places).items()}
    rng, n_random = np.random.default_rng(0), 4 if full else 2
    vectors = {
        "the embedding": [np.subtract(*embedded(model, (word, space)))],
        **{f"block {il}": [vector] for il, vector in native.items()},
        f"{n_random} random ones": list(rng.normal(size=(n_random, model.n_embd))),
    }
    bare = read(reader, texts, words, NOTHING)

    def line(way: str, readings: Sequence[np.ndarray]) -> None:
        changes = [reading - bare for reading in readings]
        best = max((up for up, own in changes if -own <= MAX_DAMAGE), default=np.nan)
        shown = "".join(f"  {up:+.2f} / {-own:<5.2f}" for up, own in changes)
        print(f"{way:32}{shown}  {best:+.2f}")

    print(f"shift / damage in nats, and the largest shift with damage <= {MAX_DAMAGE}")
    print(f"{'':32}" + "".join(f"  x {n:<11}" for n in (1, 2, 3)))
    line("the word in the prompt",
         [read(reader, texts, words, NOTHING, [word] * n) for n in (1, 2, 3)])  # fmt: skip
    print(f"{'the vector of':32}" + "".join(f"  c = {c:<9}" for c in doses))
    for source, group in vectors.items():
        for il, own in native.items():
            length = float(np.linalg.norm(own))
            added = [at_first_token(model, il, vector, length) for vector in group]
            mark = " *" if group[0] is own or (source == "the embedding" and il == 0) else ""
            line(f"{source}, added at {il}{mark}",
                 [np.mean([read(reader, texts, words, c * one) for one in added], axis=0)
                  for c in doses])  # fmt: skip
    print("* its own place, or the nearest there is")
    session.close()


if __name__ == "__main__":
    main()
