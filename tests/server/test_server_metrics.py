"""Metrics for Prometheus equal the engine's statistics and the server's counters."""

from wenet_fusion_runtime.engine.statistics import EngineStatistics, Histogram
from wenet_fusion_runtime.server.errors import Reason
from wenet_fusion_runtime.server.http.metrics import Metrics

HISTOGRAMS = [Histogram((1.0, 2.0), (3, 2, 1), total) for total in (8.0, 9.0, 10.0)]
STATISTICS = EngineStatistics(1, 0.5, 20, 11, 5, 3, 2, 60.0, 4.0, 2.0, *HISTOGRAMS)


def values(metrics: Metrics) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line.startswith("wenet_fusion_"))
    return {name.removeprefix("wenet_fusion_"): float(value) for name, value in lines}


def test_statistics_of_the_engine() -> None:
    found = values(Metrics(lambda: STATISTICS))
    expected = {
        "sessions": 1,
        "waiting_seconds": 0.5,
        "real_time_factor": 0.1,
        "sessions_opened_total": 20,
        'sessions_ended_total{outcome="finished"}': 11,
        'sessions_ended_total{outcome="failed"}': 5,
        'sessions_ended_total{outcome="closed"}': 3,
        "audio_seconds_total": 60,
        "step_seconds_total": 4,
        "search_seconds_total": 2,
    }
    for name, total in (("batch_size", 8.0), ("step_duration_seconds", 9.0), ("delay_seconds", 10.0)):
        buckets = zip(("1.0", "2.0", "+Inf"), (3, 5, 6))
        expected |= {f'{name}_bucket{{le="{bound}"}}': count for bound, count in buckets}
        expected |= {f"{name}_sum": total, f"{name}_count": 6}
    assert {name: found[name] for name in expected} == expected


def test_counters_of_the_server() -> None:
    metrics = Metrics(lambda: STATISTICS)
    assert {values(metrics)[f'refusals_total{{reason="{reason.value}"}}'] for reason in Reason} == {0.0}
    metrics.count_error(Reason.FULL)
    metrics.count_disconnected()
    metrics.count_dropped_partial()
    metrics.count_dropped_partial()
    found = values(metrics)
    assert found['refusals_total{reason="full"}'] == 1 and found['refusals_total{reason="token"}'] == 0
    assert (found["vanished_total"], found["partial_results_dropped_total"]) == (1, 2)
