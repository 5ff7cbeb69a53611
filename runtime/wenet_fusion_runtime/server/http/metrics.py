"""Metrics in Prometheus' text format."""

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
    """Counters of one server, and the current statistics of its engine.

    Args:
        statistics: returns the statistics of the engine.

    >>> from wenet_fusion_runtime.engine.statistics import StatisticsRecorder
    >>> metrics = Metrics(lambda: StatisticsRecorder().snapshot(sessions=2, waiting_seconds=0.5))
    >>> metrics.count_error(Reason.FULL)
    >>> b'wenet_fusion_refusals_total{reason="full"} 1.0' in metrics.text()
    True
    >>> b"wenet_fusion_sessions 2.0" in metrics.text()
    True
    """

    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        self._registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self._registry)
        self._registry.register(_EngineCollector(statistics))
        self._errors = Counter(
            f"{_PREFIX}_refusals",
            "Requests, connections and sessions that the server refused, or ended for an error or a limit, by reason.",
            ["reason"],
            registry=self._registry,
        )
        for reason in Reason:
            self._errors.labels(reason.value)  # creates the series, with value 0
        self._disconnected = Counter(
            f"{_PREFIX}_vanished", "Clients that disconnected before their session ended.", registry=self._registry
        )
        self._dropped_partials = Counter(
            f"{_PREFIX}_partial_results_dropped",
            "Partial results replaced by newer ones before they could be sent.",
            registry=self._registry,
        )

    def count_error(self, reason: Reason) -> None:
        """Count a request, connection or session that the server refused, or ended because of an error or a limit."""
        self._errors.labels(reason.value).inc()

    def count_disconnected(self) -> None:
        """Count a client that disconnected before its session ended."""
        self._disconnected.inc()

    def count_dropped_partial(self) -> None:
        """Count a partial result that a newer one replaced before it was sent."""
        self._dropped_partials.inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector:
    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        self._statistics = statistics

    def describe(self) -> list[Metric]:
        return []  # registries with auto_describe would call `collect` instead

    def collect(self) -> Iterator[Metric]:
        found = self._statistics()
        yield GaugeMetricFamily(f"{_PREFIX}_sessions", "Sessions open now.", found.sessions)
        yield GaugeMetricFamily(
            f"{_PREFIX}_waiting_seconds", "Undecoded audio of open sessions.", found.waiting_seconds
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_real_time_factor",
            "Seconds of work per second of audio, since the start.",
            found.real_time_factor,
        )
        ended = CounterMetricFamily(
            f"{_PREFIX}_sessions_ended",
            "Sessions by outcome: finished, failed, or closed by the client.",
            labels=["outcome"],
        )
        for outcome in ("finished", "failed", "closed"):
            ended.add_metric([outcome], getattr(found, outcome))
        yield ended
        for name, meaning, value in (
            ("sessions_opened", "Sessions that were opened.", found.opened),
            ("audio_seconds", "Decoded audio.", found.audio_seconds),
            ("step_seconds", "Time of all workers in the model.", found.step_seconds),
            ("search_seconds", "Time of all workers in search and rescoring.", found.search_seconds),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_{name}", meaning, value)
        yield _histogram("step_duration_seconds", "Duration of a step of the model.", found.steps)
        yield _histogram("batch_size", "Streams per step of the model.", found.batches)
        yield _histogram("delay_seconds", "Time from the completion of a block to its result.", found.delays)


def _histogram(name: str, meaning: str, values: Histogram) -> HistogramMetricFamily:
    buckets, count = [], 0
    for bound, more in zip((*map(str, values.bounds), "+Inf"), values.counts):
        count += more
        buckets.append((bound, count))
    return HistogramMetricFamily(f"{_PREFIX}_{name}", meaning, buckets=buckets, sum_value=values.total)
