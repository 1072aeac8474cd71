"""What all replicas count, as one text in Prometheus' format: each sample says whose it is."""

from collections.abc import Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry


def together(texts: Mapping[str, bytes]) -> bytes:
    """Return the counts of all replicas, by their names, each sample labelled `replica`."""
    registry = CollectorRegistry()
    registry.register(_Of(texts))
    return generate_latest(registry)


class _Of(Collector):
    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, with the samples of all."""
        families = dict[str, Metric]()
        for replica, text in self._texts.items():
            for told in text_string_to_metric_families(text.decode()):
                family = families.setdefault(
                    told.name, Metric(told.name, told.documentation, told.type)
                )
                for sample in told.samples:
                    labels = {**sample.labels, "replica": replica}
                    family.samples.append(sample._replace(labels=labels))
        yield from families.values()
