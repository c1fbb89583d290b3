"""The addresses that strangers call, as OpenAPI has them: no routes of the framework (see `receive.py`)."""

from collections.abc import Sequence
from typing import Any, Final

from services.gateway.ingest.app_webhooks import PREFIX
from shared.runtime.web.openapi import clean_schema
from shared.runtime.web.problems import SCHEMA_REF_PREFIX, openapi_response
from shared.webhooks.incoming import IncomingMessage

_ANY: Final = {"schema": {"type": "string", "format": "binary"}}
_ERROR_RESPONSES: Final = {
    400: "Malformed.",
    401: "The signature is missing or wrong. Some platforms want another status.",
    403: "The address is not on the endpoint's list.",
    404: "No such endpoint, token or provider.",
    405: "Not this method.",
    408: "The body took too long.",
    410: "The endpoint is disabled.",
    413: "The body is too large.",
    415: "Not this type or encoding.",
    429: "Too many requests; `Retry-After` says when again.",
    503: "Not on Kafka, cannot be verified yet, or the endpoint's `source` cannot be used: send it again.",
}
_RETRYABLE_STATUSES: Final = (429, 503)
_JSON: Final = "application/json"


def _operation(name: str, summary: str, tokens: Sequence[str], accepted: dict[int, str]) -> dict[str, Any]:
    answers = {
        **{status: {"description": said, "content": {_JSON: {}}} for status, said in accepted.items()},
        **{
            status: openapi_response(said, retry_after=status in _RETRYABLE_STATUSES)
            for status, said in _ERROR_RESPONSES.items()
        },
    }
    return {
        "operationId": name,
        "tags": ["webhooks"],
        "summary": summary,
        "parameters": [
            {"name": each, "in": "path", "required": True, "schema": {"type": "string"}} for each in tokens
        ],
        "responses": {str(status): answer for status, answer in answers.items()},
        "security": [],
    }


def _body_operation(
    name: str, summary: str, tokens: Sequence[str], accepted: dict[int, str]
) -> dict[str, Any]:
    body = {"content": {"*/*": _ANY}}
    return {**_operation(name, summary, tokens, accepted), "requestBody": body}


_ACCEPTED: Final = {
    200: "What the platform wants to be answered, or the answer to its handshake.",
    202: "On Kafka, or it was before.",
}
_SETUP: Final = {200: "How to set it up on the platform, or the answer to its handshake."}
_MESSAGE: Final = IncomingMessage.model_json_schema(ref_template=SCHEMA_REF_PREFIX + "{model}")
SCHEMAS: Final = {
    IncomingMessage.__name__: clean_schema(
        {name: part for name, part in _MESSAGE.items() if name != "$defs"}
    ),
    **{name: clean_schema(schema) for name, schema in _MESSAGE["$defs"].items()},
}
"""What `PATHS` refers to, beside the schemas of every document."""
_TEXT: Final = {"type": "string"}
_INCOMING_RESPONSE: Final = {
    "type": "object",
    "required": ["success", "message_id", "channel_id", "timestamp"],
    "properties": {
        "success": {"type": "boolean"},
        "message_id": _TEXT,
        "channel_id": _TEXT,
        "timestamp": {"type": "string", "format": "date-time"},
    },
}


def _incoming_operation() -> dict[str, Any]:
    posts = _operation("receive_incoming", "A message into a channel", ["token"], {200: "It is on Kafka."})
    posts["responses"]["200"]["content"] = {_JSON: {"schema": _INCOMING_RESPONSE}}
    body = {
        "required": True,
        "description": "Or what Slack's and Discord's take, or a form with the JSON in its field `payload`.",
        "content": {_JSON: {"schema": {"$ref": SCHEMA_REF_PREFIX + IncomingMessage.__name__}}},
    }
    return {**posts, "requestBody": body}


def _app_operations(name: str) -> dict[str, Any]:
    return {
        "get": _operation(f"look_at_{name}", "How to set up the webhook of an app", ["provider"], _SETUP),
        "post": _body_operation(f"receive_at_{name}", "A webhook for a whole app", ["provider"], _ACCEPTED),
    }


PATHS: Final[dict[str, Any]] = {
    f"{PREFIX}{{provider}}/{{endpoint_id}}": {
        "get": _operation(
            "look_at_webhook", "A platform's handshake", ["provider", "endpoint_id"], {200: _ACCEPTED[200]}
        ),
        "post": _body_operation(
            "receive_webhook", "A platform's webhook", ["provider", "endpoint_id"], _ACCEPTED
        ),
    },
    f"{PREFIX}{{provider}}": _app_operations("app"),
    "/integrations/{provider}/webhook": _app_operations("integration"),
    f"{PREFIX}incoming/{{token}}": {"post": _incoming_operation()},
}
"""Methods beside these are those that a provider's manifest names."""
