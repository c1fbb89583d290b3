"""The state of one request on its way through the webhook pipeline, and its outcome."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from services.gateway.ingest.body import Headers, first_header
from services.gateway.ingest.diagnostics import SignatureFailure
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.executions import MAX_STORED_BODY_BYTES, Execution, ExecutionEvent
from shared.contracts.ids import EventId
from shared.manifests.response_template import Response
from shared.manifests.webhook import WebhookEvent
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import RecordPosition
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from shared.wire.tracing import trace_id_of


@dataclass(slots=True)
class RequestContext:
    """State of one request on its way, for its response and its executions.

    `endpoints`, `events` and `event_ids` have one item for each event that is published.
    """

    started: float
    """The start of the request, by `perf_counter`."""
    test: bool = False
    """True if the hub made this request itself, to test an endpoint."""
    headers: Headers = field(default_factory=dict)
    caller: str = ""
    """The caller's name for limits: see `body.client_address`."""
    body: bytes = b""
    """After decompression."""
    request: InboundRequest | None = None
    verdict: VerificationResult | None = None
    signature_failure: SignatureFailure | None = None
    endpoints: Sequence[InboundEndpoint] = ()
    events: Sequence[WebhookEvent] = ()
    event_ids: Sequence[EventId] = ()
    positions: dict[int, RecordPosition] = field(default_factory=dict)
    """Positions of events on Kafka, by their index in `events`."""
    trace_id: str = ""
    """The trace of its events; '' if it has none."""
    outcome: "RequestOutcome | None" = None
    """The outcome of this part of a request, if it is another one than that of the request."""

    def for_endpoint(self, indexes: Sequence[int]) -> "RequestContext":
        """Return the part of a request for several accounts that belongs to one of them.

        `indexes` are those of its events. Nothing of the other accounts may be in it: neither their events
        nor the request, whose body holds all events.
        """
        events = [self.events[index] for index in indexes]
        return replace(
            self,
            body=b"".join(event.data for event in events),
            request=None,
            signature_failure=None,
            events=events,
            event_ids=[self.event_ids[index] for index in indexes],
            positions={
                own_index: self.positions[index]
                for own_index, index in enumerate(indexes)
                if index in self.positions
            },
        )


class RequestOutcome(NamedTuple):
    """The response to the caller, and the outcome for metrics and executions."""

    response: Response
    outcome: str
    detail: str = ""
    """Reason for which the request was rejected; '' if it was accepted."""


def indexes_by_endpoint(
    endpoints: Sequence[InboundEndpoint],
) -> Iterable[tuple[InboundEndpoint, Sequence[int]]]:
    """Return every endpoint once, with its indexes in `endpoints`."""
    indexes: dict[str, tuple[InboundEndpoint, list[int]]] = {}
    for index, endpoint in enumerate(endpoints):
        indexes.setdefault(endpoint.id, (endpoint, []))[1].append(index)
    return indexes.values()


def new_execution(
    endpoint: InboundEndpoint, context: RequestContext, outcome: RequestOutcome, seconds: float
) -> Execution:
    """Return the execution of a request. Only a rejected one has the start of the body."""
    rejected = bool(outcome.detail)
    return Execution(
        endpoint,
        utcnow(),
        outcome.outcome,
        outcome.response.status,
        rejected,
        seconds,
        len(context.body),
        context.verdict,
        outcome.detail,
        [
            ExecutionEvent(event.event, event.delivery_id, event.triggers, event.account, event.occurred_at)
            for event in context.events
        ],
        context.event_ids,
        context.positions,
        _stored_body(endpoint, context) if rejected else b"",
        first_header(context.headers, b"content-type")[:200] if rejected else "",
        context.signature_failure,
        context.test,
        context.trace_id or trace_id_of(first_header(context.headers, b"traceparent")),
    )


def _stored_body(endpoint: InboundEndpoint, context: RequestContext) -> bytes:
    """Return the start of a rejected body without secrets."""
    if endpoint.definition is None:
        return context.body[:MAX_STORED_BODY_BYTES]
    request = context.request or endpoint.definition.request(
        "POST", "", b"", context.headers, context.body, endpoint.settings
    )
    return endpoint.definition.redact_rejected(request, endpoint.valid_keys(), MAX_STORED_BODY_BYTES)
