"""What a server counts, in Prometheus' text format: its requests, and what its engines say.

Where there are several models, counts of replies have a label `model`.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from steerplug.server.models import Models
from steerplug.server.served import Served
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
        models: what answers.
    """

    def __init__(self, models: Models) -> None:
        self._of = ["model"] if models.are_several else []
        self._registry = CollectorRegistry()
        self._registry.register(_OfEngines(models, self._of))
        self._requests = Counter(
            "steerplug_http_requests", "Requests answered.", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "steerplug_http_request_seconds", "From a request to the end of its answer.", ["path"],
            registry=self._registry, buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
        )  # fmt: skip

        self._replies = Counter(
            "steerplug_replies", "Replies, by what carried their presets.", [*self._of, "carrier"],
            registry=self._registry,
        )  # fmt: skip
        self._carrier_tokens = Counter(
            "steerplug_carrier_tokens", "Tokens of prompts that presets cost.", self._of,
            registry=self._registry,
        )  # fmt: skip

    def count_replies(self, served: Served, replies: Iterable[Reply]) -> None:
        """Count a model's replies by what carried their presets."""
        of = [served.name for _ in self._of]
        carrier_tokens = self._carrier_tokens.labels(*of) if of else self._carrier_tokens
        for reply in replies:
            self._replies.labels(*of, reply.receipt.carrier or "none").inc()
            carrier_tokens.inc(reply.receipt.prompt_tokens)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        return generate_latest(self._registry)


class _OfEngines(Collector):
    def __init__(self, models: Models, labels: list[str]) -> None:
        self._models, self._labels = models, labels

    def collect(self) -> Iterator[Family]:
        """Yield what the engines say at this moment."""
        now = [([one.name] * len(self._labels), one.session.engine.metrics())
               for one in self._models]  # fmt: skip
        for kind, known in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, (key, meaning) in known.items():
                family: Family = kind(f"steerplug_{name}", meaning, labels=self._labels)
                for labels, told in now:
                    family.add_metric(labels, getattr(told, key))
                yield family
