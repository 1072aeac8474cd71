"""32 clients stream at once, each with its own steering: is every reply whole, and its own?

    python tests/load_server.py [SECONDS]

Compares the server's tokens per second with those of the engine driven directly by the same load,
reply by reply with what the same question gets alone, and asks `/health` and `/v1/models`
meanwhile. Prints JSON; the exit code is 1 where an answer is wrong.
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
from contextlib import aclosing
from pathlib import Path
from typing import Any

from steerplug.engine.engine import Engine, Request
from steerplug.engine.sampling import Sampling
from steerplug.session import Session, Settings

N_CLIENTS, N_TOKENS, N_CTX, N_CELLS = 32, 64, 2048, 8192
PRESETS = ("pirate", "concise", "cheerful", "formal", "french", "weddings", "bullet-points", "none")
STRENGTHS = (1.0, 0.8, 0.6, 0.4)
QUESTIONS = ("What is rain?", "How do I cook rice?", "Tell me about the moon.", "I lost my keys.")
N_ALONE = 12
Said = dict[tuple[str, str], list[tuple[str, str]]]
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


async def drive(seconds: float) -> tuple[Said, float]:
    """Return what the engine says when it is driven directly, and its tokens per second."""
    session, n_tokens, said = model(), 0, Said()
    sampling = Sampling(0)
    mixes = [session.steering(mix(i))[0] for i in range(N_CLIENTS)]
    prompts = {q: session.template.prompt([{"role": "user", "content": q}]) for q in QUESTIONS}

    async def client(i: int, engine: Engine, until: float) -> None:
        nonlocal n_tokens
        n = 0
        while time.perf_counter() < until:
            asked, text = question(i, n)[0]["content"], ""
            prompt = prompts[asked]
            request = Request(prompt, mixes[i], sampling, max_tokens=N_TOKENS)
            async with aclosing(engine.agenerate(request)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    n_tokens += time.perf_counter() < until
            said.setdefault((mix(i), asked), []).append((text, mixes[i].digest if mixes[i] else ""))
            n += 1

    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(i, session.engine, until) for i in range(N_CLIENTS)))
    session.close()
    return said, n_tokens / seconds


# The server


class Load:
    """The clients of one server, on plain sockets, so that they cost next to nothing themselves."""

    def __init__(self, port: int) -> None:
        self.port, self.n_tokens, self.n_replies = port, 0, 0
        self.said = Said()
        self.wrong: list[str] = []
        self.waits: dict[str, list[float]] = {"/health": [], "/v1/models": []}

    async def ask(self, i: int, n: int, until: float) -> None:
        """Ask one question, and note the reply."""
        messages = question(i, n)
        body = json.dumps({
            "model": f"smollm2@{mix(i)}", "messages": messages, "max_tokens": N_TOKENS,
            "temperature": 0, "stream": True,
        }).encode()  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        lines = []
        while line := await reader.readline():
            if line.startswith(b"data: "):
                self.n_tokens += b'{"content":' in line and time.perf_counter() < until
                lines.append(line)
        writer.close()
        self._check(i, messages, lines)

    def _check(self, i: int, messages: list[dict[str, str]], lines: list[bytes]) -> None:
        if len(lines) < 3 or lines[-1] != b"data: [DONE]\n":
            self.wrong.append(f"client {i}: a stream without end: {lines[-2:]}")
            return
        parts = [json.loads(line[6:]) for line in lines[:-1]]
        if any("error" in part for part in parts) or "steering" not in parts[-1]:
            self.wrong.append(f"client {i}: {parts[-1]}")
            return
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        key = mix(i), messages[0]["content"]
        self.said.setdefault(key, []).append((text, parts[-1]["steering"]["digest"]))
        self.n_replies += 1

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


async def load(port: int, seconds: float) -> tuple[Load, float]:
    """Return what the clients saw, and their tokens per second."""
    load = Load(port)
    until = time.perf_counter() + seconds
    clients = [load.client(i, until) for i in range(N_CLIENTS)]
    await asyncio.gather(*clients, load.look(until))
    return load, load.n_tokens / seconds


def compare(said: Said, wrong: list[str]) -> dict[str, Any]:
    """Return how replies compare with those that the same questions get alone.

    `wrong` is told of receipts that are somebody else's.
    """
    session, same, total, shared = model(), 0, 0, list[float]()
    settings = Settings(Sampling(0), max_tokens=N_TOKENS)
    for i, ((words, text), replies) in enumerate(said.items()):
        applied, _ = session.steering(words)
        expected = applied.digest if applied else ""
        others = [digest for _, digest in replies if digest != expected]
        wrong += [f"{words}: the receipt is that of {digest}" for digest in others]
        if i % max(len(said) // N_ALONE, 1):
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import sys; from steerplug.commands import main; sys.exit(main())"
    words = ["--port", port, "--n-ctx", N_CTX, "--n-cells", N_CELLS, "--n-seq", N_CLIENTS]
    server = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, words)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert server.stderr is not None
    next(line for line in server.stderr if '"serving"' in line)
    threading.Thread(target=server.stderr.read, daemon=True).start()
    try:
        asyncio.run(load(port, 2.0))  # warm
        seen, served = asyncio.run(load(port, seconds))
    finally:
        server.terminate()
        server.wait()
    driven, direct = asyncio.run(drive(seconds))
    alike, noise = compare(seen.said, seen.wrong), compare(driven, [])
    waits = {path: round(1000 * statistics.median(all)) for path, all in seen.waits.items()}
    print(json.dumps({
        "seconds": seconds, "replies": seen.n_replies, "wrong": seen.wrong[:5],
        "n_wrong": len(seen.wrong), "server_tokens_per_second": round(served, 1),
        "engine_tokens_per_second": round(direct, 1), "ratio": round(served / direct, 3),
        "like_alone": alike, "engine_like_alone": noise, "median_ms": waits,
    }, indent=2))  # fmt: skip
    return 1 if seen.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
