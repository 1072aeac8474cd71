"""What a server counts, in Prometheus' text format: its requests, and what its engine says."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from steerplug.engine.engine import Engine
from steerplug.session.receipt import Reply

Family = CounterMetricFamily | GaugeMetricFamily

_COUNTERS = {
    "requests_finished": ("n_finished", "Replies that have ended."),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts."),
    "cached_prompt_tokens": ("cached_tokens", "Tokens of prompts that were not computed again."),
    "generated_tokens": ("generated_tokens", "Tokens of replies."),
}
_GAUGES = {
    "requests_running": ("n_running", "Replies being made."),
    "requests_waiting": ("n_waiting", "Replies that wait for a sequence."),
    "tokens_per_second": ("tokens_per_second", "Tokens of replies, over the latest steps."),
    "kv_cells_used": ("cells_used", "KV cells that hold a token."),
    "kv_cells": ("n_cells", "KV cells there are."),
    "sequences_used": ("sequences_used", "Sequences that hold tokens."),
    "kv_bytes": ("kv_bytes", "Memory of all KV cells and running states."),
    "checkpoint_bytes": ("checkpoint_bytes", "Memory of states copied to go on from."),
}


class Metrics:
    """The counts of one server.

    Args:
        engine: what answers.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfEngine(engine))
        self._requests = Counter(
            "steerplug_http_requests", "Requests answered.", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "steerplug_http_request_seconds", "From a request to the end of its answer.", ["path"],
            registry=self._registry, buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
        )  # fmt: skip

        self._replies = Counter(
            "steerplug_replies", "Replies, by what carried their presets.", ["carrier"],
            registry=self._registry,
        )  # fmt: skip
        self._carrier_tokens = Counter(
            "steerplug_carrier_tokens", "Tokens of prompts that presets cost.",
            registry=self._registry,
        )  # fmt: skip

    def count_replies(self, replies: Iterable[Reply]) -> None:
        """Count replies by what carried their presets."""
        for reply in replies:
            self._replies.labels(reply.receipt.carrier or "none").inc()
            self._carrier_tokens.inc(reply.receipt.prompt_tokens)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Family]:
        """Yield what the engine says at this moment."""
        now = self._engine.metrics()
        for name, (key, meaning) in _COUNTERS.items():
            yield CounterMetricFamily(f"steerplug_{name}", meaning, getattr(now, key))
        for name, (key, meaning) in _GAUGES.items():
            yield GaugeMetricFamily(f"steerplug_{name}", meaning, getattr(now, key))
