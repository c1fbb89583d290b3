"""`Idempotency-Key`: a repeated mutating call gets the first response again (IETF httpapi draft 07).

Responses are stored for a day. Body and headers are sealed, because they may contain a secret that is shown
only once.
"""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.errors import DatabaseUnavailable, Rejected
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.secrets import Vault
from shared.runtime.web.access import Keyring
from shared.runtime.web.body_limit import replay_body
from shared.runtime.web.problems import problem_response

COLLECTION: Final = "idempotency_keys"
INDEXES: Final = {COLLECTION: (Index((("expires_at", 1),), ttl_s=0),)}
_RESPONSE_TTL: Final = timedelta(days=1)
_RESERVATION_TTL: Final = timedelta(minutes=1)
_MAX_KEY_LENGTH: Final = 255


class Idempotency:
    """ASGI middleware of the management apps. It handles only calls with the header `Idempotency-Key`."""

    def __init__(self, app: ASGIApp, *, mongo: Mongo, vault: Vault, keyring: Keyring, service: str) -> None:
        self._app = app
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._keyring = keyring
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        idempotency_key = headers.get(b"idempotency-key")
        if idempotency_key is None:
            return await self._app(scope, receive, send)
        try:
            key = await self._keyring.authenticate(headers.get(b"authorization", b"").decode("latin-1"))
        except Rejected:
            return await self._app(scope, receive, send)  # the route rejects it as usual
        if not 1 <= len(idempotency_key) <= _MAX_KEY_LENGTH:
            response = problem_response(400, f"Idempotency-Key has 1 to {_MAX_KEY_LENGTH} bytes")
            return await response(scope, receive, send)
        body = (await receive()).get("body", b"")  # complete, because `BodyLimit` is outside
        # The record is named by workspace, API key and idempotency key. The fingerprint tells whether the
        # call is the same.
        call = f"{self._service} {scope['method']} {scope['path']}".encode()
        if scope["query_string"]:
            call += b"?" + scope["query_string"]
        parts = (key.workspace.encode(), key.id.encode(), idempotency_key)
        record = hashlib.sha256(b"\0".join(parts)).hexdigest()
        fingerprint = hashlib.sha256(call + b"\0" + body).hexdigest()
        try:
            earlier = await self._reserve(record, fingerprint)
        except DatabaseUnavailable as error:
            return await problem_response(503, str(error), headers={"Retry-After": "1"})(scope, receive, send)
        if earlier is None:
            return await self._run_first(key.workspace, record, scope, replay_body(body, receive), send)
        if earlier["fingerprint"] != fingerprint:
            response = problem_response(422, "this Idempotency-Key was used for another call")
        elif earlier["answer"] is None:
            response = problem_response(
                409, "a call with this Idempotency-Key is under way", headers={"Retry-After": "1"}
            )
        else:
            text = self._vault.open(earlier["answer"], workspace=key.workspace, record=record, field="answer")
            stored_headers, stored_body = _stored_response(text, earlier)
            status = earlier["status"]
            await send({"type": "http.response.start", "status": status, "headers": stored_headers})
            return await send({"type": "http.response.body", "body": stored_body})
        return await response(scope, receive, send)

    async def _reserve(self, record: str, fingerprint: str) -> Document | None:
        """Reserve the record for this call. Return the document of an earlier call if there is one.

        A reservation without a response expires after a minute. Raises `DatabaseUnavailable`.
        """
        document: Document = {
            "_id": record,
            "fingerprint": fingerprint,
            "answer": None,
            "expires_at": utcnow() + _RESERVATION_TTL,
        }
        with translate_errors():
            # MongoDB removes expired documents up to a minute late.
            await self._collection.delete_one({"_id": record, "expires_at": {"$lt": utcnow()}})
            try:
                with translate_errors():
                    await self._collection.insert_one(document)
            except Duplicate:
                return await self._collection.find_one({"_id": record}) or document
        return None

    async def _run_first(
        self, workspace: str, record: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run the call and store its response before it is sent, so that a repeat right after it finds it."""
        status, headers, chunks, messages = 500, [], list[bytes](), list[Message]()

        async def collect(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], [list(pair) for pair in message["headers"]]
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))
            messages.append(message)

        try:
            await self._app(scope, receive, collect)
        finally:
            # Also after an error or a cancelled request: what the call has changed cannot be undone.
            try:
                await asyncio.shield(
                    self._store_response(workspace, record, status, headers, b"".join(chunks))
                )
            finally:
                for message in messages:
                    await send(message)

    async def _store_response(
        self, workspace: str, record: str, status: int, headers: list[Any], body: bytes
    ) -> None:
        with translate_errors():
            if status >= 500:
                await self._collection.delete_one({"_id": record})  # so that the caller can try again
                return
            decoded_headers = [[part.decode("latin-1") for part in pair] for pair in headers]
            text = orjson.dumps([decoded_headers, body.decode("latin-1")]).decode()
            sealed = self._vault.seal(text, workspace=workspace, record=record, field="answer")
            change = {"answer": sealed, "status": status, "expires_at": utcnow() + _RESPONSE_TTL}
            await self._collection.update_one({"_id": record}, {"$set": change})


def _stored_response(text: str, document: Document) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body of a stored response.

    Version 0.3.0 stored the headers in the document, not sealed, and only the body in `text`.
    """
    if "headers" in document:
        return document["headers"], text.encode("latin-1")
    headers, body = orjson.loads(text)
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return pairs, body.encode("latin-1")
