"""`Idempotency-Key`: a repeated mutating call gets the first response again (IETF httpapi draft 07).

The responses of calls that were carried out are stored for a day: see `idempotency_keys`. A refusal is not
stored. It has changed nothing, and its reason may be gone when the call is repeated: a quota was raised, an
item in the way was deleted, a scope was granted.
"""

import asyncio
import hashlib
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.errors import DatabaseUnavailable, Rejected, RetryLater
from shared.runtime.secrets import Vault
from shared.runtime.web.access import ApiKey, Keyring, caller_of
from shared.runtime.web.body_limit import replay_body
from shared.runtime.web.idempotency_keys import IdempotencyKeys, IdempotencyRecord
from shared.runtime.web.problems import problem_response

_MAX_KEY_LENGTH: Final = 255
_UNSTORED: Final = "interlink.unstored"
"""The entry of an ASGI scope whose response is not stored."""


def record_id_of(key: ApiKey, idempotency_key: bytes) -> str:
    """Return the id of the record of a call: a hash of workspace, API key and idempotency key."""
    parts = (key.workspace.encode(), key.id.encode(), idempotency_key)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def forbid_storing(scope: Scope) -> None:
    """Do not store the response of a call: a repeat is carried out again.

    For calls that change nothing, whose response has a secret or is soon out of date.
    """
    scope[_UNSTORED] = True


class Idempotency:
    """ASGI middleware of the management apps. It handles only calls with the header `Idempotency-Key`."""

    def __init__(
        self, app: ASGIApp, *, keys: IdempotencyKeys, vault: Vault, keyring: Keyring, service: str
    ) -> None:
        self._app = app
        self._keys = keys
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
            key = await caller_of(scope, self._keyring)
        except Rejected:
            return await self._app(scope, receive, send)  # the route rejects it as usual
        except RetryLater as error:
            # Not by the route, where the same key might be known a moment later.
            return await problem_response(503, str(error), headers={"Retry-After": "1"})(scope, receive, send)
        if not 1 <= len(idempotency_key) <= _MAX_KEY_LENGTH:
            response = problem_response(400, f"Idempotency-Key has 1 to {_MAX_KEY_LENGTH} bytes")
            return await response(scope, receive, send)
        body = (await receive()).get("body", b"")  # complete, because `BodyLimit` is outside
        # The record is found by its id. The fingerprint tells whether the call is the same.
        call = f"{self._service} {scope['method']} {scope['path']}".encode()
        if scope["query_string"]:
            call += b"?" + scope["query_string"]
        record_id = record_id_of(key, idempotency_key)
        fingerprint = hashlib.sha256(call + b"\0" + body).hexdigest()
        try:
            earlier = await self._keys.reserve(record_id, fingerprint)
        except DatabaseUnavailable as error:
            return await problem_response(503, str(error), headers={"Retry-After": "1"})(scope, receive, send)
        if earlier is None:
            return await self._run_first(key.workspace, record_id, scope, replay_body(body, receive), send)
        if earlier.fingerprint != fingerprint:
            response = problem_response(422, "this Idempotency-Key was used for another call")
        elif earlier.sealed_response is None or earlier.status is None:
            response = problem_response(
                409, "a call with this Idempotency-Key is under way", headers={"Retry-After": "1"}
            )
        else:
            text = self._vault.open(
                earlier.sealed_response, workspace=key.workspace, record=record_id, field="answer"
            )
            stored_headers, stored_body = _stored_response(text, earlier)
            await send({"type": "http.response.start", "status": earlier.status, "headers": stored_headers})
            return await send({"type": "http.response.body", "body": stored_body})
        return await response(scope, receive, send)

    async def _run_first(
        self, workspace: str, record_id: str, scope: Scope, receive: Receive, send: Send
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
                    self._store_response(
                        workspace,
                        record_id,
                        status,
                        headers,
                        b"".join(chunks),
                        is_stored=_UNSTORED not in scope,
                    )
                )
            finally:
                for message in messages:
                    await send(message)

    async def _store_response(
        self,
        workspace: str,
        record_id: str,
        status: int,
        headers: list[Any],
        body: bytes,
        *,
        is_stored: bool,
    ) -> None:
        if status >= 400 or not is_stored:
            await self._keys.release(record_id)  # so that the caller can try again
            return
        decoded_headers = [[part.decode("latin-1") for part in pair] for pair in headers]
        text = orjson.dumps([decoded_headers, body.decode("latin-1")]).decode()
        sealed = self._vault.seal(text, workspace=workspace, record=record_id, field="answer")
        await self._keys.store_response(record_id, status, sealed)


def _stored_response(text: str, record: IdempotencyRecord) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body of a stored response.

    Version 0.3.0 stored the headers in the document, not sealed, and only the body in `text`.
    """
    if record.plain_headers is not None:
        return list(record.plain_headers), text.encode("latin-1")
    headers, body = orjson.loads(text)
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return pairs, body.encode("latin-1")
