"""The table of what was tried on which architecture, made by the checks themselves.

python -m tests.architectures.page      # writes steerplug/engine/ARCHITECTURES.md
"""

import functools
from pathlib import Path
from typing import NamedTuple

import steerplug
from steerplug.engine.engine import Engine
from tests.helpers.conformance import CHECKS, N_CTX, opened
from tests.helpers.tiny_specs import SPECS

PAGE = Path(steerplug.__file__).parent / "engine" / "ARCHITECTURES.md"

HEAD = """\
# Which architectures are steered

Made by `python -m tests.architectures.page`; do not edit. Every row is a tiny model with random
weights, of the same graph in llama.cpp as its large relatives. What all rows have been through:

- *exact*: at every block h becomes h + z, to the bit, nothing below changes, the logits do
- *strength 0*: the logits of llama.cpp without a hook, to the bit
- *as llama.cpp*: constants give the logits of llama.cpp's own control vectors, to the bit
  (hy_v4, nemotron_h, plamo2 and qwen4exp heed none, or at another place)
- *all ways*: by callback, and by get and set as on a GPU, the same to the bit
- *given*: where nodes steer one stream, what left a block stands for all below it, to the bit (but
  of rwkv7, whose blocks need values of the first)
- *token by token*: a text in pieces is the text at once
- *two sequences*, *side by side*: each request of a batch is answered as alone
- *second turn*: a chat that goes on from cached cells is answered as if none were cached
- *mean*, *chain*: both fit, and steer
- *psr*: torch computes llama.cpp's graph as llama.cpp does, bare and steered, and gates train by it

**h** is the tensor that is steered; of several streams the active one or their mean, and what is
added goes to all. **by** says what steers on a CPU under Linux: a node of llama.cpp's graph, or its
callback. **requests** says whether a session answers several in one batch.

| model | architecture | h | by | checks | requests |
|---|---|---|---|---|---|
"""


class Outcome(NamedTuple):
    """What came of a model: the checks that fail, with their errors, and its row."""

    failures: dict[str, str]
    row: str


@functools.cache
def outcome(name: str) -> Outcome:
    """Run every check on a tiny model."""
    with opened(name) as model:
        failures = {}
        for check, run in CHECKS.items():
            try:
                run(model)
            except Exception as error:
                failures[check] = f"{type(error).__name__}: {error}"
        engine, output = Engine(model, n_ctx=N_CTX, n_threads=1), model.block_output
        streams = f", {'mean' if output.mean else 'first'} of {output.n_streams}"
        cells = (
            f"`{name}`",
            model.architecture,
            f"`{output.tensor}`" + (streams if output.n_streams > 1 else ""),
            "graph" if engine.context.hook.in_graph else "callback",
            ", ".join(f"**fails: {check}**" for check in failures) or "all",
            "one batch" if engine.context.n_seq > 1 else "one by one",
        )
        engine.close()
    return Outcome(failures, f"| {' | '.join(cells)} |")


def main() -> None:
    """Write the page."""
    rows = sorted(outcome(name).row for name in SPECS)
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
