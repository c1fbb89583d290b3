"""All metrics of the hub, and the collector of consumer lag and position."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.runtime.workspace_usage import WorkspaceUsage

_FAST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_SLOW_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)

BUILD_INFO: Final = Gauge("interlink_build_info", "1 for each running process.", ["service", "version"])
REQUESTS: Final = Counter(
    "interlink_requests_total", "HTTP requests, by route and outcome.", ["route", "outcome"]
)
REQUESTS_IN_FLIGHT: Final = Gauge(
    "interlink_requests_in_flight", "HTTP requests under way, without those for health and metrics."
)
SIGNATURE_FAILURES: Final = Counter(
    "interlink_signature_failures_total", "Webhooks rejected for their signature.", ["provider", "reason"]
)
UNCONNECTED: Final = Counter(
    "interlink_unconnected_events_total",
    "Events at an app webhook whose account is not connected in any workspace.",
    ["provider"],
)
EXECUTIONS_DROPPED: Final = Counter(
    "interlink_executions_dropped_total", "Requests to endpoints that were not stored as executions."
)
PRODUCE_SECONDS: Final = Histogram(
    "interlink_produce_seconds",
    "Time from publishing a record to the broker's acknowledgement.",
    ["topic"],
    buckets=_FAST_BUCKETS,
)
PRODUCE_FAILURES: Final = Counter(
    "interlink_produce_failures_total", "Records not acknowledged in time.", ["topic"]
)
BROKER_UNAVAILABLE: Final = Gauge(
    "interlink_broker_unavailable", "1 while Kafka does not answer this process; asked every 5 s."
)
HANDLED: Final = Counter("interlink_handled_total", "Records handled.", ["topic", "group"])
BATCH_RETRIES: Final = Counter("interlink_batch_retries_total", "Batches tried again.", ["group"])
SPANS: Final = Counter("interlink_spans_total", "Spans of traces: exported, failed, or dropped.", ["outcome"])
DEAD_LETTERED: Final = Counter(
    "interlink_dead_lettered_total",
    "Records published to the dead-letter topic.",
    ["topic", "group", "reason"],
)
RELAYED: Final = Counter(
    "interlink_relayed_total", "Webhook events handled by sync, by outcome.", ["outcome"]
)
UNMATCHED: Final = Counter(
    "interlink_unmatched_events_total", "Events without a delivery, by reason.", ["reason"]
)
DEFERRED: Final = Counter(
    "interlink_deferred_events_total",
    "Events beyond their workspace's fair share, put into the backlog.",
)
DIRECT_REQUESTS: Final = Counter(
    "interlink_direct_requests_total",
    "Delivery requests that were attempted without the topic delivery.requested.",
)
DELIVERIES: Final = Counter(
    "interlink_deliveries_total", "Delivery attempts, by the delivery's state after them.", ["outcome"]
)
ATTEMPT_SECONDS: Final = Histogram(
    "interlink_attempt_seconds", "Duration of one attempt.", buckets=_SLOW_BUCKETS
)
EVENT_AGE_SECONDS: Final = Histogram(
    "interlink_event_age_seconds", "Age of an event at its first delivery attempt.", buckets=_SLOW_BUCKETS
)
FIRST_ATTEMPTS: Final = Counter(
    "interlink_first_attempts_total",
    "First attempts that started within 5 s of their event's record (`in_time`), or later (`late`). Those "
    "that wait for the limits of their endpoint are not counted.",
    ["outcome"],
)
OLDEST_DUE: Final = Gauge(
    "interlink_oldest_due_seconds",
    "Age of the oldest due delivery that waits for the hub, not for its endpoint's limits, hold or circuit.",
)
CONNECTIONS: Final = Counter(
    "interlink_connections_total", "OAuth callbacks, by outcome.", ["provider", "outcome"]
)
PROVIDER_SUBSCRIPTIONS: Final = Counter(
    "interlink_watches_total",
    "Provider subscriptions created or renewed, by outcome.",
    ["provider", "outcome"],
)
POLLS: Final = Counter(
    "interlink_polls_total", "Polls of polling triggers, by outcome.", ["provider", "outcome"]
)
REFRESHES: Final = Counter(
    "interlink_token_refreshes_total", "Token refreshes, by outcome.", ["provider", "outcome"]
)
ACCOUNTS_FAILED: Final = Counter(
    "interlink_accounts_failed_total",
    "Connected accounts that turned to the status `error` or `reauth_required`.",
    ["provider", "status"],
)
ACCOUNT_CALLS: Final = Counter(
    "interlink_account_calls_total",
    "Calls with connected accounts, by the class of the provider's status, or `failed` without one.",
    ["provider", "outcome"],
)
SYNC_ECHOES: Final = Counter(
    "interlink_sync_echoes_total", "Changes that came back from where the hub had made them."
)
SYNC_SENT: Final = Counter("interlink_sync_sent_total", "Messages sent to a target.", ["provider"])
SYNC_FAILED: Final = Counter("interlink_sync_failed_total", "Changes that were given up.", ["provider"])
SYNC_UNKNOWN: Final = Counter(
    "interlink_sync_unknown_total",
    "Calls that failed or were not answered, and may have had an effect.",
    ["provider"],
)
SYNC_RATE_LIMITED: Final = Counter(
    "interlink_sync_rate_limited_total", "Calls that a provider refused as too many (429).", ["provider"]
)
SYNC_WAITS: Final = Counter(
    "interlink_sync_waits_total", "Changes that had to wait, by reason.", ["provider", "reason"]
)
SYNC_AGE: Final = Histogram(
    "interlink_sync_age_seconds",
    "Age of a message when it is at its target.",
    ["provider"],
    buckets=_SLOW_BUCKETS,
)
CONFIGURATION_UNCHECKED: Final = Gauge(
    "interlink_configuration_unchecked",
    "1 while MongoDB does not answer whether the configuration in memory is up to date.",
)
CLOCK_DIFFERENCE: Final = Gauge(
    "interlink_clock_difference_seconds",
    "Seconds by which the machine's clock is ahead of the time that the hub uses; 0 if they agree.",
)
IN_FLIGHT: Final = Gauge("interlink_attempts_in_flight", "Attempts under way.")
UNACKNOWLEDGED_RESULTS: Final = Gauge(
    "interlink_results_unacknowledged",
    "Results and leases of attempts that MongoDB has not acknowledged. A killed process repeats them.",
)
UNREADABLE_WEBHOOKS: Final = Gauge(
    "interlink_webhooks_unreadable",
    "Outgoing webhooks whose secrets cannot be decrypted: their deliveries wait.",
)
ENCRYPTION_KEY_FIRST_USED: Final = Gauge(
    "interlink_encryption_key_first_used_timestamp_seconds",
    "Unix time at which the hub first used its current encryption key.",
)
CERTIFICATE_EXPIRY: Final = Gauge(
    "interlink_certificate_expiry_timestamp_seconds",
    "Unix time at which the certificates of a file end, by the setting that names the file.",
    ["setting"],
)
WORKSPACE_USAGE: Final = WorkspaceUsage(
    "interlink_workspace_usage_total",
    "Requests with events, events, attempts, stored bytes, refusals over a quota, account calls and sent "
    f"messages of the workspaces that this process serves {WorkspaceUsage.MAX_WORKSPACES} of by name, and of "
    "all others as `other`.",
)
QUOTA_REFUSALS: Final = Counter(
    "interlink_quota_refusals_total",
    "Requests refused, and events of app webhooks left out, because their workspace is over a quota.",
    ["quota"],
)


# The children are cached: looking one up by its labels costs more than counting.


@cache
def requests(route: str, outcome: str) -> Counter:
    """Return the child of `REQUESTS` with these labels."""
    return REQUESTS.labels(route, outcome)


@cache
def produce_seconds(topic: str) -> Histogram:
    """Return the child of `PRODUCE_SECONDS` with this label."""
    return PRODUCE_SECONDS.labels(topic)


@cache
def handled(topic: str, group: str) -> Counter:
    """Return the child of `HANDLED` with these labels."""
    return HANDLED.labels(topic, group)


@cache
def deliveries(outcome: str) -> Counter:
    """Return the child of `DELIVERIES` with this label."""
    return DELIVERIES.labels(outcome)


@cache
def unmatched(reason: str) -> Counter:
    """Return the child of `UNMATCHED` with this label."""
    return UNMATCHED.labels(reason)


@cache
def account_calls(provider: str, outcome: str) -> Counter:
    """Return the child of `ACCOUNT_CALLS` with these labels."""
    return ACCOUNT_CALLS.labels(provider, outcome)


Lag = Iterable[tuple[str, str, int, int, int]]
"""Tuples of group, topic, partition, how many records the group is behind, and its position."""


class _LagCollector(Collector):
    def __init__(self) -> None:
        self.readers: list[Callable[[], Lag]] = []

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from _lag_families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        lag, positions = _lag_families()
        for read in self.readers:
            for group, topic, partition, behind, position in read():
                labels = [group, topic, str(partition)]
                lag.add_metric(labels, behind)
                positions.add_metric(labels, position)
        yield from (lag, positions)


def _lag_families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    labels = ["group", "topic", "partition"]
    return (
        GaugeMetricFamily("interlink_consumer_lag", "Records behind the partition's end.", labels=labels),
        GaugeMetricFamily(
            "interlink_consumer_position",
            "Offset of the first record of the partition that is not complete.",
            labels=labels,
        ),
    )


_LAG: Final = _LagCollector()
REGISTRY.register(_LAG)


def collect_lag(read: Callable[[], Lag]) -> None:
    """Register a consumer: `read` is called at every scrape."""
    _LAG.readers.append(read)


def exposition() -> bytes:
    """Return the response body of `/metrics`."""
    return generate_latest(REGISTRY)
