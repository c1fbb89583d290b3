"""The part of a request to an app webhook that is left out, because its workspace is over a quota.

The rest of the request is accepted: it is of other workspaces.
"""

from dataclasses import dataclass, field, replace

from services.gateway.ingest.context import RequestContext, RequestOutcome
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.responses import rejection_response
from shared.contracts.errors import OverQuota
from shared.contracts.ids import event_id_for, new_event_id
from shared.manifests.webhook import WebhookEvent


@dataclass(slots=True)
class OverQuotaPart:
    """The events of one account that are left out."""

    endpoint: InboundEndpoint
    error: OverQuota
    events: list[WebhookEvent] = field(default_factory=list)

    def context(self, request: RequestContext) -> RequestContext:
        """Return this part of a request, with an outcome of its own, for its execution."""
        ids = [
            event_id_for(self.endpoint.id, event.delivery_id) if event.delivery_id else new_event_id()
            for event in self.events
        ]
        own = replace(request, events=self.events, event_ids=ids, positions={}, trace_id="")
        own = own.for_endpoint(range(len(ids)))
        response = rejection_response(None, self.error)
        own.outcome = RequestOutcome(response, self.error.reason, self.error.detail)
        return own
