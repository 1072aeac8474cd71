"""32 clients stream at once, each with its own steering: is every reply whole, and its own?

    python tests/load_server.py [SECONDS]

Compares the server's tokens per second with those of the engine driven directly by the same load,
turn by turn, each from a warm cache; reply by reply with what the same question gets alone; and
asks `/health` and `/v1/models` meanwhile. The clients run on the same processors, so it tells what
they took, and what the server's event loop took for each token. Prints JSON; the exit code is 1
where an answer is wrong.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop

from steerplug.engine.engine import Request
from steerplug.engine.sampler import Sampling
from steerplug.session import Session, Settings

N_CLIENTS, N_TOKENS, N_CTX, N_CELLS = 32, 64, 2048, 8192
PRESETS = ("pirate", "concise", "cheerful", "formal", "french", "weddings", "bullet-points", "none")
STRENGTHS = (1.0, 0.8, 0.6, 0.4)
QUESTIONS = ("What is rain?", "How do I cook rice?", "Tell me about the moon.", "I lost my keys.")
N_ALONE = 12
TURN = 15.0
Transcript = dict[tuple[str, str], list[tuple[str, str]]]
"""What was said to a mix and a question, each with the digest of its receipt."""
ROOT = Path(__file__).parent.parent


def mix(i: int) -> str:
    """Return the steering of client i: 29 different ones, and none."""
    preset = PRESETS[i % len(PRESETS)]
    return preset if preset == "none" else f"{STRENGTHS[i // len(PRESETS)]}*{preset}"


def question(i: int, n: int) -> list[dict[str, str]]:
    """Return what client i asks the n-th time."""
    return [{"role": "user", "content": QUESTIONS[(i + n) % len(QUESTIONS)]}]


def model() -> Session:
    """Return the model as the server opens it."""
    return Session("smollm2", n_ctx=N_CTX, n_cells=N_CELLS, n_seq=N_CLIENTS)


# The engine on its own


class Direct:
    """The same load without a server."""

    def __init__(self) -> None:
        self.session, self.n_tokens, self.transcript = model(), 0, Transcript()
        self.mixes = [self.session.steering(mix(i))[0] for i in range(N_CLIENTS)]
        chats = {text: [{"role": "user", "content": text}] for text in QUESTIONS}
        self.prompts = {text: self.session.template.prompt(chat) for text, chat in chats.items()}

    async def client(self, i: int, until: float) -> None:
        """Ask until the time is over."""
        applied, n = self.mixes[i], 0
        while time.perf_counter() < until:
            asked, text = question(i, n)[0]["content"], ""
            request = Request(self.prompts[asked], applied, Sampling(0), max_tokens=N_TOKENS)
            async with aclosing(self.session.engine.agenerate(request)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    self.n_tokens += bool(piece.text) and time.perf_counter() < until
            digest = applied.digest if applied else ""
            self.transcript.setdefault((mix(i), asked), []).append((text, digest))
            n += 1

    async def drive(self, seconds: float) -> float:
        """Return the tokens per second."""
        self.n_tokens, until = 0, time.perf_counter() + seconds
        await asyncio.gather(*(self.client(i, until) for i in range(N_CLIENTS)))
        return self.n_tokens / seconds


# The server


class Stream(asyncio.Protocol):
    """One question on a plain socket, and all that answers it."""

    def __init__(self, load: "Load", body: bytes, until: float) -> None:
        self.load, self.body, self.until = load, body, until
        self.received, self.ended = bytearray(), asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(self.body), self.body)
        )

    def data_received(self, data: bytes) -> None:
        self.received += data
        if time.perf_counter() < self.until:
            self.load.n_tokens += data.count(b'{"content":')

    def connection_lost(self, _error: Exception | None) -> None:
        self.ended.set_result(None)


class Load:
    """The clients of one server; what they are told is read when the time is over."""

    def __init__(self, port: int) -> None:
        self.port, self.n_tokens, self.n_replies = port, 0, 0
        self.transcript = Transcript()
        self.wrong: list[str] = []
        self.waits: dict[str, list[float]] = {"/health": [], "/v1/models": []}
        self.streams: list[tuple[int, str, bytes]] = []

    async def ask(self, i: int, n: int, until: float) -> None:
        """Ask one question, and keep the stream that comes."""
        messages = question(i, n)
        body = json.dumps({
            "model": f"smollm2@{mix(i)}", "messages": messages, "max_tokens": N_TOKENS,
            "temperature": 0, "stream": True,
        }).encode()  # fmt: skip
        stream = Stream(self, body, until)
        await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", self.port)
        await stream.ended
        self.streams.append((i, messages[0]["content"], bytes(stream.received)))

    def check(self) -> int:
        """Read the streams, once the time is over, and return how many tokens they hold."""
        n_tokens = 0
        for i, asked, stream in self.streams:
            lines = [line for line in stream.splitlines() if line.startswith(b"data: ")]
            if len(lines) < 3 or lines[-1] != b"data: [DONE]":
                self.wrong.append(f"client {i}: a stream without end: {lines[-2:]!r}")
                continue
            parts = [json.loads(line[6:]) for line in lines[:-1]]
            if any("error" in part for part in parts) or "steering" not in parts[-1]:
                self.wrong.append(f"client {i}: {parts[-1]}")
                continue
            text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
            digest = parts[-1]["steering"]["digest"]
            self.transcript.setdefault((mix(i), asked), []).append((text, digest))
            self.n_replies += 1
            n_tokens += sum("content" in part["choices"][0]["delta"] for part in parts) - 1
        return n_tokens

    async def client(self, i: int, until: float) -> None:
        """Ask until the time is over."""
        n = 0
        while time.perf_counter() < until:
            await self.ask(i, n, until)
            n += 1

    async def look(self, until: float) -> None:
        """Measure how long other answers take meanwhile."""
        while time.perf_counter() < until:
            for path, waits in self.waits.items():
                begin = time.perf_counter()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await reader.readline()
                waits.append(time.perf_counter() - begin)
                writer.close()
            await asyncio.sleep(0.2)

    async def run(self, seconds: float) -> float:
        """Return the tokens per second of all clients together."""
        self.n_tokens, until = 0, time.perf_counter() + seconds
        await asyncio.gather(*(self.client(i, until) for i in range(N_CLIENTS)), self.look(until))
        return self.n_tokens / seconds


@contextmanager
def server(*more: object) -> Iterator[tuple[int, int]]:
    """Run `steerplug serve` with more words, and give its process and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import sys; from steerplug.commands.main import main; sys.exit(main())"
    words = ["--port", port, "--n-ctx", N_CTX, "--n-cells", N_CELLS, "--n-seq", N_CLIENTS]
    words += more
    running = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, words)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert running.stderr is not None
    next(line for line in running.stderr if '"serving"' in line)
    threading.Thread(target=running.stderr.read, daemon=True).start()
    try:
        yield running.pid, port
    finally:
        running.terminate()
        running.wait()


def loop_seconds(pid: int) -> float:
    """Return the processor time of a process' first thread, which runs the event loop."""
    first = next(one for one in psutil.Process(pid).threads() if one.id == pid)
    return float(first.user_time + first.system_time)


def compare(transcript: Transcript, wrong: list[str]) -> dict[str, Any]:
    """Return how replies compare with those that the same questions get alone.

    `wrong` is told of receipts that are somebody else's.
    """
    session, same, total, shared = model(), 0, 0, list[float]()
    settings = Settings(Sampling(0), max_tokens=N_TOKENS)
    for i, ((words, text), replies) in enumerate(transcript.items()):
        applied, _ = session.steering(words)
        expected = applied.digest if applied else ""
        others = [digest for _, digest in replies if digest != expected]
        wrong += [f"{words}: the receipt is that of {digest}" for digest in others]
        if i % max(len(transcript) // N_ALONE, 1):
            continue
        alone = session.chat([{"role": "user", "content": text}], words, settings)
        for reply, _ in replies:
            total += 1
            same += reply == alone.text
            pairs = enumerate(zip(reply, alone.text, strict=False))
            common = next((k for k, (a, b) in pairs if a != b), len(alone.text))
            shared.append(common / max(len(alone.text), 1))
    session.close()
    return {"identical": round(same / total, 3), "shared_prefix": round(statistics.mean(shared), 3)}


def main() -> int:
    """Run the whole and print what was seen."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    n_turns, own, its = max(round(seconds / TURN), 2), 0.0, 0.0
    direct, driven, served = Direct(), list[float](), list[float]()
    with server() as (pid, port), asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        seen = Load(port)
        for warm in (direct.drive, Load(port).run):
            loop.run(warm(2.0))
        for _ in range(n_turns):
            driven.append(loop.run(direct.drive(seconds / n_turns)))
            own, its = own - time.thread_time(), its - loop_seconds(pid)
            served.append(loop.run(seen.run(seconds / n_turns)))
            own, its = own + time.thread_time(), its + loop_seconds(pid)
    direct.session.close()
    n_tokens = seen.check()
    alike, noise = compare(seen.transcript, seen.wrong), compare(direct.transcript, [])
    waits = {path: round(1000 * statistics.median(all), 1) for path, all in seen.waits.items()}
    ratios = [round(a / b, 3) for a, b in zip(served, driven, strict=True)]
    print(json.dumps({
        "seconds": seconds, "replies": seen.n_replies, "wrong": seen.wrong[:5],
        "n_wrong": len(seen.wrong),
        "server_tokens_per_second": round(statistics.mean(served), 1),
        "engine_tokens_per_second": round(statistics.mean(driven), 1),
        "ratio": round(sum(served) / sum(driven), 3), "ratio_of_each_turn": ratios,
        "clients_us_per_token": round(1e6 * own / n_tokens),
        "event_loop_us_per_token": round(1e6 * its / n_tokens),
        "like_alone": alike, "engine_like_alone": noise, "median_ms": waits,
    }, indent=2))  # fmt: skip
    return 1 if seen.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
