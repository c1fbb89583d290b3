"""The OpenAPI description of the addresses that providers call.

It is written by hand: these are no routes of the framework (see `ingest/receive.py`).
"""

from collections.abc import Sequence
from typing import Any, Final

from services.gateway.ingest.app_webhooks import PREFIX
from services.gateway.ingest.incoming_message import SLACK_SUFFIX
from shared.runtime.web.openapi import clean_schema
from shared.runtime.web.problems import SCHEMA_REF_PREFIX, openapi_response
from shared.webhooks.incoming_formats.fitting import IncomingMessage

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_ERROR_RESPONSES: Final = {
    400: "Malformed.",
    401: "The signature is missing or wrong. For some providers the status is another one.",
    403: "The caller's address is not on the endpoint's list.",
    404: "No such endpoint, token or provider.",
    405: "The method is not accepted.",
    408: "The body took too long.",
    410: "The endpoint is disabled.",
    413: "The body is too large.",
    415: "The content type or encoding is not accepted.",
    429: "Too many requests, or the workspace is over a quota. Send it again after `Retry-After`.",
    503: "Kafka is not available, the webhook cannot be verified yet, or the `source` is not valid. "
    "Send it again.",
}
_RETRYABLE_STATUSES: Final = (429, 503)
_JSON: Final = "application/json"


def _operation(
    operation_id: str, summary: str, path_parameters: Sequence[str], accepted: dict[int, str]
) -> dict[str, Any]:
    """Return an operation. `accepted` describes the responses to an accepted request, by status."""
    responses = {
        **{status: {"description": text, "content": {_JSON: {}}} for status, text in accepted.items()},
        **{
            status: openapi_response(text, retry_after=status in _RETRYABLE_STATUSES)
            for status, text in _ERROR_RESPONSES.items()
        },
    }
    return {
        "operationId": operation_id,
        "tags": ["webhooks"],
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in path_parameters
        ],
        "responses": {str(status): response for status, response in responses.items()},
        "security": [],
    }


def _body_operation(
    operation_id: str, summary: str, path_parameters: Sequence[str], accepted: dict[int, str]
) -> dict[str, Any]:
    """Return an operation with a body of any type."""
    body = {"content": {"*/*": _BINARY}}
    return {**_operation(operation_id, summary, path_parameters, accepted), "requestBody": body}


_ACCEPTED: Final = {
    200: "The response that the provider expects, or the response to its handshake.",
    202: "The events are on Kafka, now or since an earlier delivery.",
}
_SETUP: Final = {200: "How to set up the webhook at the provider, or the response to its handshake."}
_MESSAGE: Final = IncomingMessage.model_json_schema(ref_template=SCHEMA_REF_PREFIX + "{model}")
SCHEMAS: Final = {
    IncomingMessage.__name__: clean_schema(
        {name: part for name, part in _MESSAGE.items() if name != "$defs"}
    ),
    **{name: clean_schema(schema) for name, schema in _MESSAGE["$defs"].items()},
}
"""Schemas that `PATHS` refers to, beside those that every document has."""
_TEXT: Final = {"type": "string"}
_INCOMING_RESPONSE: Final = {
    "type": "object",
    "required": [
        "success",
        "ok",
        "message_id",
        "messageId",
        "channel_id",
        "timestamp",
        "duration",
        "warnings",
    ],
    "properties": {
        "success": {"type": "boolean"},
        "ok": {"type": "boolean", "description": "What Slack's senders look for in JSON."},
        "message_id": _TEXT,
        "messageId": {**_TEXT, "description": "The same as `message_id`."},
        "channel_id": _TEXT,
        "timestamp": {"type": "string", "format": "date-time"},
        "duration": {"type": "integer", "description": "Milliseconds."},
        "warnings": {
            "type": "array",
            "items": _TEXT,
            "description": "What was cut or left out, each with its path in the body.",
        },
    },
}
_INCOMING_BODY: Final = {
    "required": True,
    "description": "This format, or that of Slack, Discord, Mattermost, Rocket.Chat, Microsoft Teams, Google "
    "Chat, Alertmanager, Grafana, Uptime Kuma, Datadog or Sentry; or a form with the JSON in `payload`, or a "
    "multipart form with it in `payload_json`. Text over 4,000 characters is cut with a mark. A field that "
    "is not valid is left out, and named in the response's `warnings`.",
    "content": {_JSON: {"schema": {"$ref": SCHEMA_REF_PREFIX + IncomingMessage.__name__}}},
}


def _incoming_operation() -> dict[str, Any]:
    operation = _operation(
        "receive_incoming",
        "Post a message into a channel",
        ["token"],
        {200: "The message is on Kafka. With `wait`, the fields of Discord's message object are there too."},
    )
    operation["parameters"] += [
        {"name": "wait", "in": "query", "schema": {"type": "boolean"}},
        {"name": "thread_id", "in": "query", "schema": _TEXT},
    ]
    operation["responses"]["200"]["content"] = {
        _JSON: {"schema": _INCOMING_RESPONSE},
        "text/plain": {"schema": {**_TEXT, "description": "`ok`, if a form was posted."}},
    }
    return {**operation, "requestBody": _INCOMING_BODY}


def _slack_operation() -> dict[str, Any]:
    operation = _operation(
        "receive_incoming_slack",
        "Post a message into a channel, and be answered as Slack does",
        ["token"],
        {200: "The message is on Kafka."},
    )
    operation["responses"]["200"]["content"] = {"text/plain": {"schema": {**_TEXT, "const": "ok"}}}
    return {**operation, "requestBody": _INCOMING_BODY}


def _discord_operation() -> dict[str, Any]:
    return {
        **_incoming_operation(),
        "operationId": "receive_at_discord",
        "summary": "Post a message into a channel, with an incoming webhook's token as bearer",
        "parameters": [],
    }


def _app_operations(name: str) -> dict[str, Any]:
    return {
        "get": _operation(
            f"look_at_{name}", "Show how to set up the webhook of an app", ["provider"], _SETUP
        ),
        "post": _body_operation(
            f"receive_at_{name}",
            "Receive a webhook of a whole app, or of the installation's default endpoint",
            ["provider"],
            _ACCEPTED,
        ),
    }


PATHS: Final[dict[str, Any]] = {
    f"{PREFIX}{{provider}}/{{endpoint_id}}": {
        "get": _operation(
            "look_at_webhook",
            "Answer a provider's handshake",
            ["provider", "endpoint_id"],
            {200: _ACCEPTED[200]},
        ),
        "post": _body_operation(
            "receive_webhook", "Receive a provider's webhook", ["provider", "endpoint_id"], _ACCEPTED
        ),
    },
    f"{PREFIX}{{provider}}": _app_operations("app"),
    "/integrations/{provider}/webhook": _app_operations("integration"),
    f"{PREFIX}incoming/{{token}}": {"post": _incoming_operation()},
    f"{PREFIX}discord": {"post": _discord_operation()},
    f"{PREFIX}incoming/{{token}}/{SLACK_SUFFIX}": {"post": _slack_operation()},
}
"""The operations of the webhook addresses. A provider's manifest can add further methods."""
