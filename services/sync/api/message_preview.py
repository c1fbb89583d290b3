"""`POST /api/messages/preview`: the chat messages that a webhook would become; nothing is published.

The message is made by the functions of the relay, so preview and relay cannot differ.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from services.sync.endpoint_messages import UNDESCRIBED, DescribedEndpoint, sender_messages
from services.sync.relay import Providers, message_of, outcome_of
from shared.contracts.chat import ChatMessage
from shared.contracts.envelope import JSON_CONTENT_TYPE, Event, now
from shared.contracts.errors import FieldError, Invalid, Rejected
from shared.manifests.fixtures import default_settings
from shared.manifests.registry import Provider
from shared.manifests.sender_message import SenderMessages
from shared.manifests.webhook import WebhookDefinition, WebhookEvent
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes
from shared.verification.request import Headers
from shared.webhooks.incoming import INCOMING_PROVIDER
from shared.wire.bodies import dump_json
from shared.wire.message_template import MessageTemplateError

MAX_EVENTS: Final = 10
"""Events of a batch that are shown. Each is rendered within the limits of message templates."""
_NO_SUCH_PROVIDER: Final = "no such provider with webhooks: GET /api/catalog lists them"
_HANDSHAKE: Final = "the gateway answers this request itself: it checks the address, and is no event"
_NO_MESSAGE: Final = "the provider's manifest has a message for this event, but not with this payload"
_REASONS: Final = {
    "unknown": "the provider's manifest does not name this event",
    "ignored": "the provider's manifest has no message for this event",
}

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]


class MessagePreviewCreate(BaseModel):
    """`POST .../preview`: a webhook as the provider sends it, either `payload` (JSON) or `body` (text).

    `headers` are those in which the provider names the event. With `event`, the payload is that one event,
    whatever the headers say. `source` is the description of the sender that an endpoint of the provider
    `generic` has, with the templates of its messages; `name` is the endpoint's name.
    """

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[str, Field(min_length=1, max_length=100)]
    event: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")] | None = None
    payload: Any = None
    body: str | None = None
    content_type: Annotated[str, Field(max_length=200)] = JSON_CONTENT_TYPE
    headers: Annotated[
        dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=4000)]],
        Field(max_length=50),
    ] = {}
    source: dict[str, Any] | None = None
    name: Annotated[str, Field(max_length=200)] = ""


class MessagePreviewItem(BaseModel):
    """One event, and its message. `reason` says why there is none, or what it does not show.

    `outcome` is `relayed` for an event that becomes a message, `unknown` or `ignored` for one that does not,
    and `dead_letter` for one that cannot, because its data is not as the manifest expects.
    """

    event: str
    outcome: Literal["relayed", "unknown", "ignored", "dead_letter"]
    reason: str | None = None
    message: ChatMessage | None = None


class MessagePreviewOut(BaseModel):
    """The events of a webhook in their order, at most 10. `left_out` counts those behind them.

    `reason` says why there are no events.
    """

    events: list[MessagePreviewItem]
    left_out: int = 0
    reason: str | None = None


class MessagePreviewApi:
    """The route of the preview."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/messages/preview", self.preview, methods=["POST"])

    async def preview(self, body: MessagePreviewCreate, key: Reader) -> MessagePreviewOut:
        """Return the chat messages that a webhook would become, as if its endpoint had a channel.

        The signature is not verified, and nothing is published. 400 if the gateway could not read the body.
        """
        data = _data(body)
        endpoint = UNDESCRIBED
        if body.provider == INCOMING_PROVIDER:
            events = [WebhookEvent("message", "", "", "", (), data, body.content_type)]
        else:
            provider = self._providers.get(body.provider)
            if provider is None or (provider.definition is None and provider.manifest.polling is None):
                raise _invalid("provider", _NO_SUCH_PROVIDER)
            endpoint = _endpoint(provider, body)
            definition = sender_messages(provider, endpoint.source).definition if endpoint.source else None
            if body.event is not None:
                events = [WebhookEvent(body.event, "", "", "", (), data, body.content_type)]
            elif provider.definition is None:
                raise _invalid("event", "required: this provider's events are polled")
            else:
                found = _read(provider, definition or provider.definition, body, data)
                if found is None:
                    return MessagePreviewOut(events=[], reason=_HANDSHAKE)
                events = list(found)
        items: list[MessagePreviewItem] = []
        for event in events[:MAX_EVENTS]:
            items.append(self._item(body.provider, event, key.workspace, endpoint))
            await asyncio.sleep(0)  # the relay of this process comes first
        reason = None if events else "the webhook has no events"
        return MessagePreviewOut(events=items, left_out=max(0, len(events) - MAX_EVENTS), reason=reason)

    def _item(
        self, provider: str, webhook_event: WebhookEvent, workspace: str, endpoint: DescribedEndpoint
    ) -> MessagePreviewItem:
        event = _event(provider, webhook_event, workspace)
        outcome = outcome_of(event, self._providers)
        if outcome != "relayed":
            assert outcome != "no_channel"  # noqa: S101 -- `_event` sets one
            return MessagePreviewItem(event=webhook_event.event, outcome=outcome, reason=_REASONS[outcome])
        try:
            message, problem = message_of(event, self._providers, endpoint)
        except (Rejected, MessageTemplateError) as error:
            reason = "; ".join(_reasons(error))
            return MessagePreviewItem(event=webhook_event.event, outcome="dead_letter", reason=reason)
        if message is None:
            return MessagePreviewItem(event=webhook_event.event, outcome="ignored", reason=_NO_MESSAGE)
        return MessagePreviewItem(
            event=webhook_event.event, outcome="relayed", reason=problem or None, message=message
        )


def _endpoint(provider: Provider, body: MessagePreviewCreate) -> DescribedEndpoint:
    """Return the endpoint of a preview. Raises `Invalid` if its description is not valid."""
    if body.source is None and not body.name:
        return UNDESCRIBED
    if not provider.takes_description:
        field = "source" if body.source is not None else "name"
        raise _invalid(field, "only a generic provider takes it: leave it out for this provider")
    if body.source:
        SenderMessages(provider.manifest.webhook, body.source)
    return DescribedEndpoint(body.name, dump_json(body.source) if body.source else b"")


def _data(body: MessagePreviewCreate) -> bytes:
    """Return the body of the webhook. Raises `Invalid` unless there is one, and only one."""
    if (body.body is None) == ("payload" not in body.model_fields_set):
        raise _invalid("payload", "send either payload or body")
    if body.body is None:
        if body.content_type != JSON_CONTENT_TYPE:
            raise _invalid("content_type", f"payload is JSON: send body for {body.content_type[:40]!r}")
        return dump_json(body.payload)
    try:
        return body.body.encode()
    except UnicodeEncodeError:
        raise _invalid("body", "must be text that UTF-8 can encode") from None


def _read(
    provider: Provider, definition: WebhookDefinition, body: MessagePreviewCreate, data: bytes
) -> Sequence[WebhookEvent] | None:
    """Return the events of a webhook as the gateway reads them; None for a handshake.

    Settings that an endpoint may have are those of the manifest's example. Raises `Malformed`, `TooLarge`.
    """
    headers: Headers = {
        name.lower().encode("latin-1", "replace"): [value.encode("latin-1", "replace")]
        for name, value in (("content-type", body.content_type), *body.headers.items())
    }
    request = definition.request("POST", "", b"", headers, data, default_settings(provider))
    if definition.handshake(request) or definition.verified_handshake(request):
        return None
    return definition.events(request)


def _event(provider: str, webhook_event: WebhookEvent, workspace: str) -> Event:
    """Return the event that the gateway would publish for an endpoint with a channel."""
    attributes = {
        "provider": provider,
        "event": webhook_event.event,
        "delivery_id": webhook_event.delivery_id or "preview",
        "endpoint_id": "ep_preview",
        "channel_id": "preview",
    }
    if webhook_event.account:
        attributes["account"] = webhook_event.account
    if webhook_event.occurred_at:
        attributes["occurred_at"] = webhook_event.occurred_at
    return Event(
        id="evt_preview",
        type=f"{provider}.{webhook_event.event}",
        source="/sync/preview",
        workspace=workspace,
        time=now(),
        data=webhook_event.data,
        content_type=webhook_event.content_type,
        attributes=attributes,
    )


def _reasons(error: Rejected | MessageTemplateError) -> Iterator[str]:
    yield str(error)
    if isinstance(error, Rejected):
        yield from (f"{field_error.field}: {field_error.message}" for field_error in error.errors)


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))
