"""Every metric of the hub in one table, and the collector of consumer lag."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_FAST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_SLOW_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)

REQUESTS: Final = Counter(
    "interlink_requests_total", "HTTP requests, by route and outcome.", ["route", "outcome"]
)
SIGNATURE_FAILURES: Final = Counter(
    "interlink_signature_failures_total", "Webhooks refused for their signature.", ["provider", "reason"]
)
UNCONNECTED: Final = Counter(
    "interlink_unconnected_events_total",
    "Events at the address of an app whose account nobody has connected.",
    ["provider"],
)
EXECUTIONS_DROPPED: Final = Counter(
    "interlink_executions_dropped_total", "Requests at endpoints that are not in their executions."
)
PRODUCE_SECONDS: Final = Histogram(
    "interlink_produce_seconds",
    "From handing a record to the producer to the broker's ack.",
    ["topic"],
    buckets=_FAST_BUCKETS,
)
PRODUCE_FAILURES: Final = Counter(
    "interlink_produce_failures_total", "Records without an ack in time.", ["topic"]
)
HANDLED: Final = Counter("interlink_handled_total", "Records handled.", ["topic", "group"])
BATCH_RETRIES: Final = Counter("interlink_batch_retries_total", "Batches tried again.", ["group"])
DEAD_LETTERED: Final = Counter(
    "interlink_dead_lettered_total", "Records put on the dead-letter topic.", ["topic", "group", "reason"]
)
RELAYED: Final = Counter("interlink_relayed_total", "Webhooks in sync, by what became of them.", ["outcome"])
UNMATCHED: Final = Counter(
    "interlink_unmatched_events_total", "Events that no outgoing webhook got, by reason.", ["reason"]
)
DEFERRED: Final = Counter(
    "interlink_deferred_events_total",
    "Events beyond their workspace's fair share, which wait in the backlog.",
)
DELIVERIES: Final = Counter(
    "interlink_deliveries_total", "Delivery attempts, by what became of the delivery.", ["outcome"]
)
ATTEMPT_SECONDS: Final = Histogram(
    "interlink_attempt_seconds", "Duration of one attempt.", buckets=_SLOW_BUCKETS
)
EVENT_AGE_SECONDS: Final = Histogram(
    "interlink_event_age_seconds", "Age of an event at its first delivery attempt.", buckets=_SLOW_BUCKETS
)
CONNECTIONS: Final = Counter(
    "interlink_connections_total", "People back from a platform, by outcome.", ["provider", "outcome"]
)
WATCHES: Final = Counter(
    "interlink_watches_total", "Watches at platforms made or renewed, by outcome.", ["provider", "outcome"]
)
REFRESHES: Final = Counter(
    "interlink_token_refreshes_total", "Tokens made anew, by what became of it.", ["provider", "outcome"]
)
CONFIGURATION_UNCHECKED: Final = Gauge(
    "interlink_configuration_unchecked",
    "1 while MongoDB does not say whether the configuration in memory is up to date.",
)
IN_FLIGHT: Final = Gauge("interlink_attempts_in_flight", "Attempts under way.")
UNREADABLE_WEBHOOKS: Final = Gauge(
    "interlink_webhooks_unreadable", "Outgoing webhooks whose secrets do not open: their deliveries wait."
)


@cache
def requests(route: str, outcome: str) -> Counter:
    """The child of `REQUESTS`: looking one up costs more than counting."""
    return REQUESTS.labels(route, outcome)


@cache
def produce_seconds(topic: str) -> Histogram:
    """The child of `PRODUCE_SECONDS`."""
    return PRODUCE_SECONDS.labels(topic)


@cache
def deliveries(outcome: str) -> Counter:
    """The child of `DELIVERIES`."""
    return DELIVERIES.labels(outcome)


@cache
def unmatched(reason: str) -> Counter:
    """The child of `UNMATCHED`."""
    return UNMATCHED.labels(reason)


Lag = Iterable[tuple[str, str, int, int]]
"""(group, topic, partition, records behind)."""


class _LagCollector(Collector):
    def __init__(self) -> None:
        self.readers: list[Callable[[], Lag]] = []

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield _lag_family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = _lag_family()
        for read in self.readers:
            for group, topic, partition, behind in read():
                family.add_metric([group, topic, str(partition)], behind)
        yield family


def _lag_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "interlink_consumer_lag",
        "Records behind the partition's end.",
        labels=["group", "topic", "partition"],
    )


_LAG: Final = _LagCollector()
REGISTRY.register(_LAG)


def collect_lag(read: Callable[[], Lag]) -> None:
    """Read a consumer's lag at every scrape."""
    _LAG.readers.append(read)


def exposition() -> bytes:
    """The text that `/metrics` answers."""
    return generate_latest(REGISTRY)
