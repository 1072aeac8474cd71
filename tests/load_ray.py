"""What Ray costs, and what two replicas gain: 32 clients stream, each with its own steering.

    python tests/load_ray.py [SECONDS]

Measures one after another, each alone on this machine of two processors or more: the plain server
on two of them and one replica on the same two (what the layer costs), then one replica on one
processor and two replicas on one each (what a second gains). The clients and all of Ray run on the
same two. The plain server and its replica are measured twice, in alternation. Prints JSON; the exit
code is 1 where an answer is wrong. SECONDS is the time of each measurement.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import psutil

from tests.load_server import QUESTIONS, Load, server

SECONDS = 20.0
N_FIRST = 25
Seen = dict[str, list[Any]]
"""What was measured of a server, each time it was."""
CORES = sorted(os.sched_getaffinity(0))[:2]


@contextmanager
def replicas(n: int, *words: object) -> Iterator[int]:
    """Run replicas, and give their port."""
    with server("--replicas", n, *words) as (_pid, port):
        yield port


def pin_replicas() -> None:
    """Give each replica a processor of its own, for all of its threads."""
    found = [one for one in psutil.process_iter() if "ServeReplica:steerplug:Replica" in one.name()]
    for one, core in zip(found, CORES, strict=False):
        for thread in one.threads():
            os.sched_setaffinity(thread.id, {core})


def first_token(port: int) -> float:
    """Return the median milliseconds to the first token of a reply, when nobody else asks."""
    took = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for i in range(N_FIRST):
            messages = [{"role": "user", "content": f"{QUESTIONS[i % len(QUESTIONS)]} ({i})"}]
            body = {"model": "smollm2@pirate", "messages": messages, "max_tokens": 4,
                    "temperature": 0, "stream": True}  # fmt: skip
            begin = time.perf_counter()
            with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                lines = stream.iter_lines()
                next(line for line in lines if '{"content":"' in line)
                took.append(1000 * (time.perf_counter() - begin))
                *_, _end = lines
    return statistics.median(took)


def loaded(port: int, seconds: float) -> tuple[float, int, list[str]]:
    """Return tokens per second of 32 clients, how many replies they got, and what was wrong."""
    warm, load = Load(port), Load(port)
    asyncio.run(warm.run(3.0))
    rate = asyncio.run(load.run(seconds))
    load.check()
    return rate, load.n_replies, load.wrong


def measure(port: int, seconds: float, seen: Seen) -> None:
    """Add what is seen of a server."""
    seen.setdefault("first_token_ms", []).append(round(first_token(port), 1))
    rate, n_replies, wrong = loaded(port, seconds)
    seen.setdefault("tokens_per_second", []).append(round(rate, 1))
    seen.setdefault("replies", []).append(n_replies)
    seen.setdefault("wrong", []).extend(wrong)


def ratio(a: Seen, b: Seen, of: str) -> float:
    """Return the mean of one by that of the other."""
    return float(round(statistics.mean(a[of]) / statistics.mean(b[of]), 3))


def main(words: Sequence[str]) -> int:
    """Run the whole, and print what was seen."""
    seconds = float(words[0]) if words else SECONDS
    os.sched_setaffinity(0, set(CORES))
    plain, layer, one, two = Seen(), Seen(), Seen(), Seen()
    for _ in range(2):
        with server("--n-threads", 2) as (_pid, port):
            measure(port, seconds, plain)
        with replicas(1, "--n-threads", 2) as port:
            measure(port, seconds, layer)
    for n, seen in ((1, one), (2, two)):
        with replicas(n, "--n-threads", 1) as port:
            pin_replicas()
            measure(port, seconds, seen)
    wrong = [sentence for seen in (plain, layer, one, two) for sentence in seen["wrong"]]
    extra = statistics.mean(layer["first_token_ms"]) - statistics.mean(plain["first_token_ms"])
    print(json.dumps({
        "plain_server_2_cores": plain, "one_replica_2_cores": layer,
        "one_replica_1_core": one, "two_replicas_1_core_each": two,
        "layer_first_token_ms": round(extra, 1),
        "layer_tokens_per_second": ratio(layer, plain, "tokens_per_second"),
        "two_against_one": ratio(two, one, "tokens_per_second"), "n_wrong": len(wrong),
    }, indent=2))  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
