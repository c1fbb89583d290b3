"""The metrics of all workers of a service as one: any of them answers `/metrics` for all.

A worker that is asked writes what it has counted to memory that all share, and the one that was asked by
Prometheus adds it up. A restarted worker goes on from the last report of its predecessor, so that no counter
goes back. What a killed worker has counted since its last report is lost, as in a process without workers.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from shared.runtime.logs import Log
from shared.runtime.workers.calls import WorkerCalls
from shared.runtime.workers.fork import Worker
from shared.runtime.workers.memory import SharedDocument

QUESTION: Final = "metrics"
_MAX_REPORT_WORDS: Final = 1 << 16
"""Half a MB: several thousand samples."""
_ACCUMULATED: Final = frozenset({"counter", "histogram"})
_SUMMED_GAUGES: Final = frozenset(
    {
        "interlink_attempts_in_flight",
        "interlink_requests_in_flight",
        "interlink_results_unacknowledged",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)
"""Of other gauges, the highest value counts: they are the same in all workers, or one worker has them."""
_START_TIMES: Final = ("_created", "process_start_time_seconds")
"""The ends of names of samples of which the earliest counts."""

Family = tuple[str, str, str, list[tuple[str, dict[str, str], float]]]
"""Name, type and help text of a metric, and its samples: name, labels and value."""


class WorkerMetrics:
    """The metrics of this worker, and of all."""

    def __init__(self, worker: Worker, log: Log) -> None:
        self._number = worker.number
        self._log = log
        self._reports = [SharedDocument(worker.memory, _MAX_REPORT_WORDS) for _ in range(worker.count)]
        self._before = _counters(self._read(worker.number))
        """Counts of the predecessors of this worker."""

    def _read(self, number: int) -> Sequence[Family]:
        families: Sequence[Family] = orjson.loads(self._reports[number].read() or b"[]")
        return families

    def report(self) -> Sequence[Family]:
        """Return what this worker has counted, and write it to where the others read it."""
        own = [
            (
                metric.name,
                metric.type,
                metric.documentation,
                [(sample.name, dict(sample.labels), sample.value) for sample in metric.samples],
            )
            for metric in REGISTRY.collect()
        ]
        families = _merge([self._before, own])
        if not self._reports[self._number].write(orjson.dumps(families)):
            self._log.error("metrics.report_too_large", max_bytes=_MAX_REPORT_WORDS * 8)
        return families

    async def answer(self) -> None:
        """Answer the question of another worker."""
        self.report()

    async def exposition(self, calls: WorkerCalls) -> bytes:
        """Return the response body of `/metrics`.

        Of a worker that does not answer, it has the counters of the last report.
        """
        answers = await calls.ask(QUESTION)
        reports = [self.report()]
        for number in range(len(self._reports)):
            if number != self._number:
                report = self._read(number)
                reports.append(report if number in answers else _counters(report))
        registry = CollectorRegistry()
        registry.register(_Families(_merge(reports)))
        return generate_latest(registry)


def _counters(families: Sequence[Family]) -> Sequence[Family]:
    """Return the metrics that only rise."""
    return [family for family in families if family[1] in _ACCUMULATED]


def _merge(reports: Iterable[Sequence[Family]]) -> Sequence[Family]:
    """Return the metrics of all reports, each sample once."""
    merged: dict[str, tuple[Family, dict[Any, tuple[str, dict[str, str], float]]]] = {}
    for name, kind, text, samples in (family for report in reports for family in report):
        found = merged.setdefault(name, ((name, kind, text, []), {}))[1]
        for sample, labels, value in samples:
            key = (sample, *sorted(labels.items()))
            before = found.get(key)
            found[key] = (
                sample,
                labels,
                value if before is None else _combine(kind, sample, before[2], value),
            )
    return [(*family[:3], list(samples.values())) for family, samples in merged.values()]


def _combine(kind: str, sample: str, one: float, other: float) -> float:
    """Return the value of a sample that two workers have."""
    if sample.endswith(_START_TIMES):
        return min(one, other)
    if kind in _ACCUMULATED or sample in _SUMMED_GAUGES:
        return one + other
    return max(one, other)


class _Families(Collector):
    """A collector of metrics that are counted already."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for name, kind, text, samples in self._families:
            metric = Metric(name, text, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric
