"""Responses of the webhook path as ASGI messages. None of them can run as a page in a browser."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
from starlette.types import Message, Scope, Send

from services.gateway.ingest.confirmations import NotConfirmed
from services.gateway.ingest.errors import MethodNotAllowed, SourceRefused
from services.gateway.ingest.public_keys import KeysUnavailable
from services.gateway.ingest.verify import BadSignature, NoSecretYet
from shared.contracts.errors import BrokerUnavailable, Rejected, RetryLater
from shared.contracts.ids import EventId
from shared.manifests.response_template import Response
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.web.problems import MEDIA_TYPE, SANDBOX_HEADERS, problem
from shared.runtime.web.whole_response import header_lines, write_response

_JSON_HEADERS: Final = ((b"content-type", b"application/json"),)
_PROBLEM_HEADER: Final = (b"content-type", MEDIA_TYPE.encode())
_CLOSE_HEADER: Final = (b"connection", b"close")
_SAFE_RESPONSE_HEADERS: Final = tuple(
    (name.lower().encode(), text.encode()) for name, text in SANDBOX_HEADERS.items()
)
"""In every response, because its body may hold text of a caller, a provider or an endpoint's owner."""
_JSON_HEADER_LINES: Final = header_lines((*_JSON_HEADERS, *_SAFE_RESPONSE_HEADERS))
_RETRY_AFTER_S: Final = {
    "bus_unavailable": b"2",
    "no_secret": b"60",
    "keys_unavailable": b"30",
    "not_confirmed": b"30",
    "source_refused": b"300",
    "unavailable": b"5",
}
"""The `Retry-After` header by outcome, in seconds."""


def json_response(status: int, body: bytes) -> Response:
    """Return a response with a JSON body."""
    return Response(status, _JSON_HEADERS, body)


def accepted_body(ids: Sequence[EventId], *, duplicate: bool) -> bytes:
    """Return the default response body of an accepted webhook: the ids of its events."""
    if len(ids) == 1:
        return b'{"accepted":true,"event_id":"%b"%b}' % (
            ids[0].encode(),
            b',"duplicate":true' if duplicate else b"",
        )
    fields: dict[str, Any] = {"accepted": True, "events": len(ids), "event_ids": list(ids)}
    return orjson.dumps({**fields, "duplicate": True} if duplicate else fields)


def rejection_response(definition: WebhookDefinition | None, error: Rejected) -> Response:
    """Return the problem document of a rejection.

    For a wrong signature it has the status that the provider's manifest asks for, if it does.
    """
    status = error.status
    if isinstance(error, BadSignature) and definition and definition.rejection_status:
        status = definition.rejection_status
        if status < 300:  # a provider that must not learn of the rejection gets no problem document either
            return Response(status)
    headers = [_PROBLEM_HEADER]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.methods).encode()))
    if status in (408, 413):  # the rest of the body is still on the connection
        headers.append(_CLOSE_HEADER)
    return Response(status, tuple(headers), problem(status, error.detail, errors=error.errors))


def retryable_response(error: RetryLater) -> tuple[Response, str, str]:
    """Return the 503 response to a request that may succeed later, its outcome and its detail."""
    outcome, detail = _retryable_outcome(error)
    headers = (_PROBLEM_HEADER, (b"retry-after", _RETRY_AFTER_S[outcome]))
    return Response(503, headers, problem(503, detail)), outcome, detail


def _retryable_outcome(error: RetryLater) -> tuple[str, str]:
    if isinstance(error, SourceRefused):
        return "source_refused", str(error)
    if isinstance(error, NoSecretYet):
        return "no_secret", str(error)
    if isinstance(error, KeysUnavailable):
        return "keys_unavailable", f"{error}: send the webhook again"
    if isinstance(error, NotConfirmed):
        return "not_confirmed", f"{error}: send the request again"
    if isinstance(error, BrokerUnavailable):
        return "bus_unavailable", "Kafka is not available: send the webhook again"
    return "unavailable", f"{error}: send the webhook again"


async def send_response(response: Response, scope: Scope, send: Send) -> None:
    """Send a response. That to a HEAD request has no body."""
    # Most responses have these headers. The values of others may be of the request: uvicorn checks them.
    is_plain = response.headers is _JSON_HEADERS
    if is_plain and write_response(send, response.status, _JSON_HEADER_LINES, response.body):
        return
    for message in asgi_messages(response, scope["method"]):
        await send(message)


def asgi_messages(response: Response, method: str) -> tuple[Message, Message]:
    """Return the two ASGI messages of a response. The response to a HEAD request has no body."""
    headers = [
        *response.headers,
        *_SAFE_RESPONSE_HEADERS,
        (b"content-length", str(len(response.body)).encode()),
    ]
    return (
        {"type": "http.response.start", "status": response.status, "headers": headers},
        {"type": "http.response.body", "body": b"" if method == "HEAD" else response.body},
    )
