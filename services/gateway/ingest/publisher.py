"""Publication of webhook events: each once within its deduplication window, and acknowledged by Kafka."""

from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from services.gateway.ingest.body import content_type, first_header
from services.gateway.ingest.context import RequestContext
from services.gateway.ingest.deduplication import RecentDeliveries, SharedRecentDeliveries
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.errors import TooManyRequests
from services.gateway.ingest.quotas import WorkspaceQuotas
from services.gateway.ingest.rate_limit import charge
from shared.contracts.errors import TooLarge, Unacknowledged
from shared.contracts.ids import EventId, event_id_for, new_event_id
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.manifests.webhook import WebhookEvent
from shared.runtime.configuration import Configuration
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.logs import Log
from shared.runtime.tracing import continue_trace
from shared.runtime.workers.memory import SharedMemory

ACK_TIMEOUT_S: Final = 1.5
_ACK_AFTER_WAIT_TIMEOUT_S: Final = 0.9
"""While MongoDB is unavailable.

A request may have waited a second for MongoDB, and has to be answered within two.
"""


class EventPublisher:
    """Publishes the events of requests on `webhooks.received`."""

    def __init__(
        self,
        producer: Producer,
        configuration: Configuration,
        quotas: WorkspaceQuotas,
        log: Log,
        *,
        dedupe_window_s: float,
        memory: SharedMemory | None = None,
    ) -> None:
        """Set the window of endpoints that have none of their own, and the memory that workers share."""
        self._producer = producer
        self._configuration = configuration
        self.quotas = quotas
        self._log = log
        self._dedupe_window_s = dedupe_window_s
        self._recent = SharedRecentDeliveries(memory) if memory else RecentDeliveries()

    @property
    def ack_timeout_s(self) -> float:
        """Seconds for which a request may wait for Kafka's acknowledgement."""
        return _ACK_AFTER_WAIT_TIMEOUT_S if self._configuration.is_stale else ACK_TIMEOUT_S

    async def publish(
        self,
        endpoints: Sequence[InboundEndpoint],
        events: Sequence[WebhookEvent],
        context: RequestContext,
        timeout_s: float,
        *,
        within_quotas: bool = False,
    ) -> list[int]:
        """Publish each event for the endpoint at the same index; return the indexes of those that are new.

        An event that was published within the deduplication window is not published again. Sets endpoints,
        events, event ids and positions of the context. `within_quotas` says that the caller has checked the
        quotas of the workspaces.

        Raises `Malformed`, `TooLarge`, `TooManyRequests`, `OverQuota`, and `BrokerUnavailable` if Kafka does
        not acknowledge within `timeout_s` seconds.
        """
        content_type(context.headers)  # raises if it is too long for a header of the envelope
        ids = [
            event_id_for(endpoint.id, event.delivery_id)
            if event.delivery_id and not context.test
            else new_event_id()
            for endpoint, event in zip(endpoints, events, strict=True)
        ]
        context.endpoints, context.events, context.event_ids = endpoints, events, ids
        traceparent = continue_trace(first_header(context.headers, b"traceparent"))
        context.trace_id = traceparent[3:35]

        async def publish_fresh(fresh: Sequence[int]) -> None:
            # Checked before, too. Other requests may have used up the limit while this body was received.
            # Before the quotas: a request that is over one costs as much work as others.
            _charge_endpoints(endpoints, fresh)
            if not within_quotas:
                for workspace in {endpoint.workspace for endpoint in endpoints}:
                    self.quotas.check(workspace)
            records = [
                _new_record(endpoints[index], events[index], ids[index], traceparent, test=context.test)
                for index in fresh
            ]
            try:
                if len(records) == 1:
                    position = await self._producer.publish(records[0], timeout_s=timeout_s)
                    context.positions[fresh[0]] = position
                    return
                positions = await self._producer.publish_all(records, timeout_s=timeout_s)
            except (Unacknowledged, TooLarge):  # as in `WorkspaceQuotas.counted`
                self._count(endpoints, events, fresh)
                raise
            context.positions.update(zip(fresh, positions, strict=True))

        # All events of a request have the window of the first: they are of one endpoint, or of accounts
        # without one.
        first = endpoints[0]
        window_s = self._dedupe_window_s if first.dedupe_window_s is None else first.dedupe_window_s
        fresh = await self._recent.publish_once(ids, publish_fresh, window_s=window_s)
        if not fresh:
            _charge_endpoints(endpoints, fresh)
        self._count(endpoints, events, fresh)
        self._log.info(
            "webhook.accepted" if fresh else "webhook.duplicate",
            trace_id=context.trace_id,
            event_id=ids[0],
            events=len(ids),
            type=f"{first.provider_id}.{events[0].event}",
            endpoint_id=first.id,
            bytes=len(context.body),
            ms=round((perf_counter() - context.started) * 1000, 1),
        )
        return fresh

    def _count(
        self, endpoints: Sequence[InboundEndpoint], events: Sequence[WebhookEvent], fresh: Sequence[int]
    ) -> None:
        """Count a request, and its fresh events, towards the quotas of the workspaces that it is for."""
        for workspace in {endpoint.workspace for endpoint in endpoints}:
            own = [events[index].data for index in fresh if endpoints[index].workspace == workspace]
            self.quotas.count(workspace, own)


def _charge_endpoints(endpoints: Sequence[InboundEndpoint], fresh: Sequence[int]) -> None:
    """Take a token for each fresh event from the limit of its endpoint; one of an endpoint without any.

    Raises `TooManyRequests`, and takes none, if an endpoint has no token at all.
    """
    if len(endpoints) == 1:
        return charge(endpoints[0].accepted, 1)
    counts = Counter({endpoint.id: 1 for endpoint in endpoints}) | Counter(
        endpoints[index].id for index in fresh
    )
    charged: list[InboundEndpoint] = []
    try:
        for endpoint in {item.id: item for item in endpoints}.values():
            charge(endpoint.accepted, counts[endpoint.id])
            charged.append(endpoint)
    except TooManyRequests:
        for endpoint in charged:
            endpoint.accepted.take(-counts[endpoint.id])
        raise
    return None


def _new_record(
    endpoint: InboundEndpoint,
    webhook_event: WebhookEvent,
    event_id: EventId,
    traceparent: str,
    *,
    test: bool,
) -> Record:
    """Return the record of an event. Its data has no secrets in it."""
    attributes = {"delivery_id": webhook_event.delivery_id or event_id}
    if webhook_event.account:
        attributes["account"] = webhook_event.account
    if webhook_event.occurred_at:
        attributes["occurred_at"] = webhook_event.occurred_at
    if test:
        attributes["test"] = "true"
    if webhook_event.triggers:
        attributes["triggers"] = ",".join(webhook_event.triggers)
    template = endpoint.event_template(webhook_event.event)
    return Record(
        WEBHOOKS_RECEIVED,
        endpoint.record_key,
        endpoint.redact(webhook_event.data),
        template.headers(event_id, webhook_event.content_type, traceparent, attributes),
    )
