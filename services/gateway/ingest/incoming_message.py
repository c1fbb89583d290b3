"""Posting to an incoming webhook: publishes the message, and answers as the sender's chat would."""

import hashlib
import secrets
from time import perf_counter
from typing import Any, Final

import orjson
from starlette.types import Scope

from services.gateway.ingest.body import content_type, idempotency_key
from services.gateway.ingest.context import RequestContext, RequestOutcome
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.publisher import EventPublisher
from services.gateway.ingest.responses import json_response
from shared.contracts.envelope import now
from shared.contracts.errors import Malformed
from shared.contracts.ids import message_id_for
from shared.manifests.registry import dialects
from shared.manifests.response_template import Response
from shared.manifests.webhook import WebhookEvent
from shared.webhooks.incoming import parse_incoming_message, published_body
from shared.webhooks.incoming_formats.fitting import IncomingMessage
from shared.wire.bodies import FORM_CONTENT_TYPE, media_type, parse_urlencoded

SLACK_SUFFIX: Final = "slack"
"""Behind the token in the path: the answer is Slack's, whatever is posted."""

_OK: Final = Response(200, ((b"content-type", b"text/plain; charset=utf-8"),), b"ok")
_DISCORD_DEFAULT_MESSAGE: Final = 0
"""The type of an ordinary message."""


async def post_message(
    endpoint: InboundEndpoint, publisher: EventPublisher, context: RequestContext, scope: Scope
) -> RequestOutcome:
    """Publish the message that was posted to an incoming webhook.

    The token in the path is the only authentication. Raises `Malformed` or `Invalid` if it is no message, and
    as `EventPublisher.publish`.
    """
    sent_type = content_type(context.headers)
    query = _query(scope["query_string"])
    body, body_type = published_body(sent_type, context.body, thread_id=query.get("thread_id", ""))
    received = parse_incoming_message(body_type, body, dialects(), mass_mentions=endpoint.mass_mentions)
    delivery_id = idempotency_key(context.headers) or secrets.token_hex(16)
    events = [WebhookEvent("message", delivery_id, "", "", (), body, body_type)]
    fresh = await publisher.publish([endpoint], events, context, publisher.ack_timeout_s)
    outcome = "accepted" if fresh else "duplicate"
    # Those who post a form compare the answer with "ok", as Slack's and Mattermost's documents show it.
    is_form = media_type(sent_type) == FORM_CONTENT_TYPE and not context.body.lstrip().startswith(b"{")
    if is_form or scope["path"].endswith(f"/{SLACK_SUFFIX}"):
        return RequestOutcome(_OK, outcome)
    message_id = message_id_for(context.event_ids[0])
    fields: dict[str, Any] = {
        "success": True,
        # Alertmanager and Grafana take any JSON without it for an error of Slack.
        "ok": True,
        "message_id": message_id,
        "messageId": message_id,
        "channel_id": endpoint.channel_id,
        "timestamp": now(),
        "duration": round((perf_counter() - context.started) * 1000),
        "warnings": received.warnings,
    }
    if query.get("wait", "").lower() in ("true", "1"):
        fields = _discord_message(endpoint, received.message, message_id, fields["timestamp"]) | fields
    return RequestOutcome(json_response(200, orjson.dumps(fields)), outcome)


def _query(query_string: bytes) -> dict[str, str]:
    """Return the query parameters; none if they are not URL-encoded: nobody needs them."""
    if not query_string:
        return {}
    try:
        return dict(parse_urlencoded(query_string, "query string"))
    except Malformed:
        return {}


def _discord_message(
    endpoint: InboundEndpoint, message: IncomingMessage, message_id: str, timestamp: str
) -> dict[str, Any]:
    """Return the message object that Discord answers `?wait=true` with."""
    return {
        # Clients read ids as numbers of 64 bits.
        "id": _snowflake(message_id),
        "type": _DISCORD_DEFAULT_MESSAGE,
        "content": message.text,
        "channel_id": endpoint.channel_id,
        "webhook_id": _snowflake(endpoint.id),
        "author": {
            "id": _snowflake(endpoint.id),
            "username": message.username or "Incoming webhook",
            "discriminator": "0000",
            "avatar": None,
            "bot": True,
        },
        "attachments": [
            {"id": str(number), "filename": file.filename or "file", "url": str(file.url), "size": 0}
            for number, file in enumerate(message.attachments)
        ],
        "embeds": [
            {
                "type": "rich",
                **embed.model_dump(mode="json", exclude_none=True, exclude={"color", "author"}),
                **({"color": int(embed.color[1:], 16)} if embed.color else {}),
                **({"author": {"name": embed.author}} if embed.author else {}),
            }
            for embed in message.embeds
        ],
        "timestamp": timestamp,
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "pinned": False,
        "flags": 0,
        "components": [],
    }


def _snowflake(text: str) -> str:
    """Return a decimal number of at most 63 bits for an id, always the same one."""
    return str(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1)
