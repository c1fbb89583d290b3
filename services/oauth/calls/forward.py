"""Forward a call with a connected account to the provider, and pass the response on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import Send

from services.oauth.calls.target import build_headers, build_url, hub_addresses, returned_headers
from shared.connections.integration_record import Integration
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import InterlinkError, Rejected
from shared.contracts.routes import MAX_STREAMED_BYTES
from shared.manifests.provider_response import ProviderUnavailable
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.exchange import (
    Body,
    ExchangeFailed,
    StreamedBody,
    StreamedResponse,
    exchange,
    sender,
)
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.web.problems import SANDBOX_HEADERS
from shared.runtime.web.request_body import RequestBody
from shared.wire.bodies import inflate
from shared.wire.provider_http import ProviderResponse

PROVIDER_HEADER: Final = b"interlink-provider"
"""The header of a provider's own answer: answers of the hub do not have it."""
_MAX_BUFFERED_BYTES: Final = 256 * 1024
"""A request with a larger body cannot be sent a second time."""
_BODY_TIMEOUT_S: Final = 15.0
_TOKEN_TIMEOUT_S: Final = 20.0
_MAX_ERROR_BYTES: Final = 64 * 1024
"""Of a response, to find out why a call was rejected."""
_DEADLINES: Final = TransferDeadlines(total_s=300, interval_s=30, interval_bytes=1, answer_s=50)
_STATUSES: Final = range(200, 600)
"""Final statuses of HTTP. Clients and the server of the hub know no others, and some providers send 999."""
_BODILESS: Final = frozenset({204, 304})

_TOO_MANY_REQUESTS: Final = 429


class CallFailed(InterlinkError):
    """The provider did not answer as it should. `status` is that of the answer to the caller."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class AccountCall:
    """A call as the caller sent it: what is below the base URL, and where he sent it to."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: list[tuple[bytes, bytes]]
    host: str
    """The header `Host`."""


class CallForwarder:
    """Sends calls with the tokens of accounts. The egress client has to be started before it is used."""

    def __init__(
        self, tokens: TokenSource, client: EgressClient, counts: HourlyCounts, *, public_base: str
    ) -> None:
        self._tokens = tokens
        self._client = client
        self._counts = counts
        self._public_base = public_base

    async def forward(
        self, call: AccountCall, integration: Integration, body: RequestBody, start: Callable[[int], Send]
    ) -> int:
        """Send the call to the provider and its response to the caller; return the number of its bytes.

        After a 401 it is sent once more with new tokens, if its body was buffered. `start` is called with the
        status right before the response begins, and returns the channel to the caller. Raises `CallFailed`,
        `Rejected`, `RetryLater` or `ClientDisconnect`; once the response has begun, it has to be broken off.
        """
        access = await self._in_time(self._tokens.access(integration.id))
        url = build_url(access, call.raw_path, call.raw_query)
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                buffered = await body.read(_MAX_BUFFERED_BYTES)
        except TimeoutError:
            raise CallFailed(408, f"the body did not arrive within {_BODY_TIMEOUT_S:.0f} s") from None
        sent: Body = buffered or None
        if buffered is None:
            sent = StreamedBody(body.stream(), body.size)
        first = True
        while True:
            headers = build_headers(call.headers, access)
            send = sender(self._client, call.method, url, headers, workspace=access.workspace)
            try:
                async with exchange(send, sent, _DEADLINES, proxied=self._client.proxied) as response:
                    replaced = await self._replaced(access, response) if first else None
                    if replaced is None or buffered is None:
                        return await self._relay(call, url, access, response, body, start)
            except ExchangeFailed as error:
                raise _call_failed(error, body) from None
            access, first = replaced, False
            url = build_url(access, call.raw_path, call.raw_query)

    async def _replaced(self, access: Access, response: StreamedResponse) -> Access | None:
        """Return newer tokens if the provider rejected these; None if the response is to be passed on.

        Raises `NotConnected` if the account has to be connected again.
        """
        if response.status not in (400, 401, 403):
            return None
        body = await response.peek(_MAX_ERROR_BYTES)
        try:  # Clients such as Node accept gzip by themselves.
            body = inflate(body, response.header("Content-Encoding").lower(), _MAX_ERROR_BYTES)
        except Rejected:
            body = b""  # another encoding: the status decides
        api = access.connector.api_for(access.kind)
        judged = ProviderResponse(response.status, {"content-type": response.header("Content-Type")}, body)
        if not access.connector.is_token_rejected(judged, api):
            return None
        replaced = await self._in_time(self._tokens.replace_rejected(access))
        return replaced if replaced.version > access.version else None

    async def _relay(
        self,
        call: AccountCall,
        url: str,
        access: Access,
        response: StreamedResponse,
        body: RequestBody,
        start: Callable[[int], Send],
    ) -> int:
        if response.status not in _STATUSES:
            raise CallFailed(502, f"the provider answered {response.status}, which is no status of HTTP")
        has_body = call.method != "HEAD" and response.status not in _BODILESS
        length = response.content_length
        if has_body and length is not None and length > MAX_STREAMED_BYTES:
            raise CallFailed(502, f"the provider's answer has more than {MAX_STREAMED_BYTES} bytes")
        if response.status == _TOO_MANY_REQUESTS:
            self._counts.add(access.workspace, "rate_limited", access.provider)
        hub = hub_addresses(self._public_base, call.host)
        headers = returned_headers(response.headers, url=url, hub=hub, access=access)
        headers += [(name.lower().encode(), value.encode()) for name, value in SANDBOX_HEADERS.items()]
        headers.append((PROVIDER_HEADER, access.provider.encode()))
        if length is not None and response.status not in _BODILESS:
            headers.append((b"content-length", b"%d" % length))
        headers += body.closing_headers()
        send = start(response.status)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        sent = 0

        async def write(chunk: bytes) -> None:
            nonlocal sent
            sent += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        if has_body:
            await response.relay(write, MAX_STREAMED_BYTES)
        await body.discard()
        await send({"type": "http.response.body", "body": b""})
        return sent

    async def _in_time(self, tokens: Awaitable[Access]) -> Access:
        """Wait for tokens for at most 20 s. A refresh that is under way goes on."""
        try:
            async with asyncio.timeout(_TOKEN_TIMEOUT_S):
                return await tokens
        except TimeoutError:
            raise ProviderUnavailable("the account's token is being refreshed", retry_after=2) from None


def _call_failed(error: ExchangeFailed, body: RequestBody) -> CallFailed:
    """Return the error that answers a failed exchange."""
    if error.failure == "timeout":
        if not body.complete:
            return CallFailed(408, "the body did not arrive in time")
        return CallFailed(504, f"the provider did not answer in time: {error.detail}")
    if error.failure == "bad_url":
        return CallFailed(400, f"the call cannot be sent: {error.detail}")
    return CallFailed(502, f"the provider cannot be reached: {error}")
