"""What a server tells Prometheus. Knows no sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from wenet_fusion_runtime.engine.statistics import EngineStatistics, Histogram
from wenet_fusion_runtime.server.errors import Reason

_PREFIX = "wenet_fusion"
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counts of one server, and those of its engine at the moment when they are asked for.

    Args:
        statistics: of the engine.
    """

    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        self._registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self._registry)
        self._registry.register(_EngineCollector(statistics))
        self._refusals = Counter(
            f"{_PREFIX}_refusals",
            "Requests, connections and sessions that were refused or cut off, by reason.",
            ["reason"],
            registry=self._registry,
        )
        for reason in Reason:
            self._refusals.labels(reason.value)  # shown as 0
        self._vanished = Counter(
            f"{_PREFIX}_vanished", "Clients that went away before their session's end.", registry=self._registry
        )
        self._superseded = Counter(
            f"{_PREFIX}_partial_results_dropped",
            "Partial results replaced by newer ones before they could be sent.",
            registry=self._registry,
        )

    def refused(self, reason: Reason) -> None:
        self._refusals.labels(reason.value).inc()

    def vanished(self) -> None:
        self._vanished.inc()

    def superseded(self) -> None:
        self._superseded.inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector:
    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        self._statistics = statistics

    def describe(self) -> list[Metric]:
        return []  # what is registered need not be collected first

    def collect(self) -> Iterator[Metric]:
        found = self._statistics()
        yield GaugeMetricFamily(f"{_PREFIX}_sessions", "Sessions open now.", found.sessions)
        yield GaugeMetricFamily(
            f"{_PREFIX}_waiting_seconds", "Audio of open sessions that is not decoded yet.", found.waiting_seconds
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_real_time_factor",
            "Seconds of work for a second of audio, since the start.",
            found.real_time_factor,
        )
        ended = CounterMetricFamily(
            f"{_PREFIX}_sessions_ended",
            "Sessions by how they ended: finished, failed, or closed before their end.",
            labels=["outcome"],
        )
        for outcome in ("finished", "failed", "closed"):
            ended.add_metric([outcome], getattr(found, outcome))
        yield ended
        for name, meaning, value in (
            ("sessions_opened", "Sessions that were opened.", found.opened),
            ("audio_seconds", "Audio decoded.", found.audio_seconds),
            ("step_seconds", "Work of all workers in the model.", found.step_seconds),
            ("search_seconds", "Work of all workers in searches and rescoring.", found.search_seconds),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_{name}", meaning, value)
        yield _histogram("step_duration_seconds", "Duration of a step of the model.", found.steps)
        yield _histogram("batch_size", "Streams in a step of the model.", found.batches)
        yield _histogram("delay_seconds", "Time from a block's completion to its result.", found.delays)


def _histogram(name: str, meaning: str, values: Histogram) -> HistogramMetricFamily:
    buckets, count = [], 0
    for bound, more in zip((*map(str, values.bounds), "+Inf"), values.counts):
        count += more
        buckets.append((bound, count))
    return HistogramMetricFamily(f"{_PREFIX}_{name}", meaning, buckets=buckets, sum_value=values.total)
