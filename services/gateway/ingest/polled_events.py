"""Events of polling triggers: published, counted and recorded like those of webhooks.

The service that polls hands them over after it has read them at the provider, and stores its cursor when this
call has succeeded. So each event is published at least once, and a repeat has the same event id.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Final

from services.gateway.ingest.context import RequestContext, RequestOutcome, new_execution
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.errors import Gone
from services.gateway.ingest.executions import Executions
from services.gateway.ingest.publisher import EventPublisher
from services.gateway.ingest.responses import accepted_body, json_response
from shared.contracts.errors import NotFound
from shared.manifests.webhook import WebhookEvent
from shared.runtime import metrics

_ROUTE: Final = "polled"


class PolledEvents:
    """Publishes the events of polling triggers."""

    def __init__(
        self, endpoints: InboundEndpoints, publisher: EventPublisher, executions: Executions
    ) -> None:
        self._endpoints = endpoints
        self._publisher = publisher
        self._executions = executions

    def endpoint(self, endpoint_id: str, workspace: str) -> InboundEndpoint:
        """Return the endpoint of a polling trigger. Raises `NotFound`, and `Gone` if it is disabled."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or not endpoint.polled or endpoint.workspace != workspace:
            raise NotFound("no such endpoint of a polling trigger")
        if not endpoint.enabled:
            raise Gone("this endpoint is disabled")
        return endpoint

    async def publish(self, endpoint: InboundEndpoint, events: Sequence[WebhookEvent]) -> int:
        """Publish events, and return how many of them are new.

        Raises as `EventPublisher.publish`: then some of them may be published, and all have to be repeated.
        """
        context = RequestContext(perf_counter(), body=b"".join(event.data for event in events))
        publisher = self._publisher
        fresh = await publisher.publish([endpoint] * len(events), events, context, publisher.ack_timeout_s)
        outcome = RequestOutcome(
            json_response(200, accepted_body(context.event_ids, duplicate=not fresh)),
            "accepted" if fresh else "duplicate",
        )
        metrics.requests(_ROUTE, outcome.outcome).inc()
        seconds = perf_counter() - context.started
        if self._executions.count(
            endpoint, outcome.outcome, len(fresh), seconds, rejected=False, authenticated=True
        ):
            self._executions.add(new_execution(endpoint, context, outcome, seconds))
        return len(fresh)
