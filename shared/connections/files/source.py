"""Read files of providers as streams, with the tokens of the accounts that may see them.

Some addresses have a proof of their own, such as those of exports: they need no account.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from multidict import CIMultiDict

from shared.connections.channel_accounts import ChannelAccounts, channel_account
from shared.connections.channel_calls import BeforeStep, ChannelCalls, NotReached, OutcomeUnknown
from shared.connections.files.addresses import FileRef
from shared.connections.files.failure import FileFailed, FileReason
from shared.connections.files.names import is_page, shown_size
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import NotFound, Rejected
from shared.manifests.channel_failures import retry_after
from shared.manifests.channel_types import Call, ChannelFailure, Downloads
from shared.manifests.registry import Provider
from shared.runtime.configuration import Configuration
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.errors import BadUrl
from shared.runtime.egress.exchange import ExchangeFailed, StreamedResponse, exchange, sender
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.egress.urls import redirect_target, same_origin
from shared.runtime.version import VERSION
from shared.wire.bodies import inflate
from shared.wire.provider_http import ProviderResponse

DEADLINES: Final = TransferDeadlines(total_s=900.0, answer_s=30.0)
"""Of one file. A reader that is as slow as the provider may be is as good as gone."""
_MAX_REDIRECTS: Final = 3
_MAX_ERROR_BYTES: Final = 64 * 1024
"""Of a response, to find out why it is none with a file."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = frozenset({200, 206})
_REFUSED: Final = frozenset({400, 401, 403, 404, 410})
_REASONS: Final[Mapping[int, FileReason]] = {
    401: "access_denied",
    403: "access_denied",
    404: "file_not_found",
    410: "file_not_found",
}
_CONTENT_RANGE: Final = re.compile(r"bytes \d{1,18}-\d{1,18}/(\d{1,18}|\*)")
_UNSATISFIED_RANGE: Final = re.compile(r"bytes \*/\d{1,18}")
_USER_AGENT: Final = f"Interlink/{VERSION}"


class ProviderFiles:
    """Opens files of providers. The egress client has to be started before it is used."""

    def __init__(
        self,
        accounts: ChannelAccounts,
        tokens: TokenSource,
        calls: ChannelCalls,
        client: EgressClient,
        configuration: Configuration,
        providers: Mapping[str, Provider],
        *,
        max_bytes: int,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._calls = calls
        self._client = client
        self._configuration = configuration
        self._providers = providers
        self._max_bytes = max_bytes

    def max_bytes(self, provider: str) -> int:
        """Return how many bytes a file of a provider may have."""
        spec = self._providers[provider].manifest.channel if provider in self._providers else None
        if spec is None:
            return self._max_bytes
        return min(self._max_bytes, spec.limits.download_bytes or spec.limits.upload_bytes)

    @asynccontextmanager
    async def opened(
        self,
        ref: FileRef,
        headers: Mapping[str, str] | None = None,
        *,
        before: BeforeStep | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        """Return the context of a response with the file: status 200, or 206 for a range in `headers`.

        `before` is awaited before each call of the provider's API, by which some addresses are looked up.
        An address with a proof of its own is used as it is. If the provider refuses it, or for another one,
        the account's token goes along. The body has at most `max_bytes` bytes if it announces a length;
        `relay` bounds it in any case. Raises `FileFailed`, `NotFound` without a connected account,
        `NotConnected`, `ProviderUnavailable` or `DatabaseUnavailable`. Reading raises `ExchangeFailed`.
        """
        await self._configuration.current()
        name = self._name(ref.provider)
        async with AsyncExitStack() as stack:
            try:
                response = await self._open_signed(stack, ref, name, headers or {})
                if response is None:
                    response = await self._open_as_account(stack, ref, name, headers or {}, before)
                self._check(response, ref, name)
            except ExchangeFailed as error:
                refused = error.failure in ("address_refused", "bad_url")
                reason: FileReason = "address_refused" if refused else "not_reached"
                text = f"{name} cannot be reached: {error}"
                raise FileFailed(502, text, reason, retryable=not refused) from None
            yield response

    async def _open_signed(
        self, stack: AsyncExitStack, ref: FileRef, name: str, headers: Mapping[str, str]
    ) -> StreamedResponse | None:
        """Send the call of an address with a proof of its own.

        Return None for another address, or one that is refused if there is an account to try it with.
        """
        known = self._providers.get(ref.provider)
        url = known.signed_address(ref.file) if known else None
        if url is None:
            return None
        response = await self._send(stack, "GET", url, {}, ref.workspace, headers)
        if response.status not in _REFUSED and not _is_page_instead(response, ref):
            return response
        if not isinstance(self._accounts.channel(ref.provider), Downloads):
            text = f"the address of the file has expired: export it again from {name}, with its files"
            raise FileFailed(404, text, "expired")
        try:
            await self._accounts.find(ref.workspace, ref.provider, ref.account)
        except NotFound:
            text = f"the address of the file has expired: connect the account {ref.account} of {name}"
            raise FileFailed(404, text, "expired") from None
        return None

    async def _open_as_account(
        self,
        stack: AsyncExitStack,
        ref: FileRef,
        name: str,
        headers: Mapping[str, str],
        before: BeforeStep | None,
    ) -> StreamedResponse:
        integration = await self._accounts.find(ref.workspace, ref.provider, ref.account)
        channel: object = self._accounts.channel(ref.provider)
        if not isinstance(channel, Downloads):
            text = f"{name} gives no files to the hub: open the file there"
            raise FileFailed(404, text, "access_denied")
        try:
            operation = channel.download(ref.file, channel_account(integration))
            call = await self._calls.run(operation, integration.id, before=before)
        except ChannelFailure as failure:
            raise _of_failure(failure) from None
        except (NotReached, OutcomeUnknown) as error:
            text = f"{name} cannot be reached: {error}"
            raise FileFailed(502, text, "not_reached", retryable=True) from None
        access = await self._tokens.access(integration.id)
        response = await self._call(stack, call, access, headers)
        if await self._is_refused(response, access, ref):
            newer = await self._tokens.replace_rejected(access)
            if newer.version > access.version:
                response = await self._call(stack, call, newer, headers)
        return response

    async def _call(
        self, stack: AsyncExitStack, call: Call, access: Access, headers: Mapping[str, str]
    ) -> StreamedResponse:
        url, token = self._calls.address(call, access), access.headers if call.token else {}
        return await self._send(stack, call.method, url, token, access.workspace, headers)

    async def _send(
        self,
        stack: AsyncExitStack,
        method: str,
        url: str,
        token: Mapping[str, str],
        workspace: str,
        headers: Mapping[str, str],
    ) -> StreamedResponse:
        """Send a call and follow redirects, which are checked as the call. Another origin gets no token."""
        plain = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **headers}
        sent = CIMultiDict({**plain, **token})
        for _ in range(_MAX_REDIRECTS + 1):
            send = sender(self._client, method, url, sent, workspace=workspace)
            response = await stack.enter_async_context(
                exchange(send, None, DEADLINES, proxied=self._client.proxied)
            )
            location = response.header("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            try:
                target = redirect_target(url, location)
                if not same_origin(url, target):
                    sent = CIMultiDict(plain)
            except BadUrl as error:
                raise ExchangeFailed("bad_url", str(error)) from None
            url = target
        raise ExchangeFailed("protocol", f"more than {_MAX_REDIRECTS} redirects")

    async def _is_refused(self, response: StreamedResponse, access: Access, ref: FileRef) -> bool:
        """Return whether the provider may not have taken the token.

        Some answer with a page for a login instead of an error.
        """
        if _is_page_instead(response, ref):
            return True
        if response.status not in (400, 401, 403):
            return False
        body = await response.peek(_MAX_ERROR_BYTES)
        try:
            body = inflate(body, response.header("Content-Encoding").lower(), _MAX_ERROR_BYTES)
        except Rejected:
            body = b""  # an unknown encoding: the status decides
        answer = ProviderResponse(response.status, {"content-type": response.header("Content-Type")}, body)
        return access.connector.is_token_rejected(answer, access.connector.api_for(access.kind))

    def _check(self, response: StreamedResponse, ref: FileRef, name: str) -> None:
        """Raise `FileFailed` if a response is none with the file."""
        status = response.status
        if status == 416:
            size = response.header("Content-Range")
            headers = {"Content-Range": size} if _UNSATISFIED_RANGE.fullmatch(size) else {}
            text = "the file does not have the requested range"
            raise FileFailed(416, text, "damaged", headers=headers)
        if status == 429 or status >= 500:
            wait = retry_after({"retry-after": response.header("Retry-After")})
            text = f"{name} cannot give the file now (status {status}): try again later"
            reason: FileReason = "too_many_requests" if status == 429 else "provider_unavailable"
            raise FileFailed(502, text, reason, retryable=True, retry_after_s=wait)
        if status == 206 and not _CONTENT_RANGE.fullmatch(response.header("Content-Range")):
            raise FileFailed(502, f"{name} does not say which range of the file it sends", "damaged")
        if status in _OK and not _is_page_instead(response, ref):
            if response.header("Content-Encoding").strip().lower() not in ("", "identity"):
                text = f"{name} sends the file in an encoding that was not asked for"
                raise FileFailed(502, text, "damaged")
            limit = self.max_bytes(ref.provider)
            if (response.content_length or 0) > limit:
                text = f"the file is larger than {shown_size(limit)}: open it in {name}"
                raise FileFailed(502, text, "too_large")
            return
        if status in _OK or status in _REFUSED:
            needs = f" (it needs the scopes {scopes})" if (scopes := self._scopes(ref.provider)) else ""
            text = f"{name} has no such file any more, or the account may not read it{needs}"
            fix = f"check it in {name}, or connect the account again"
            raise FileFailed(404, f"{text}: {fix}", _REASONS.get(status, "not_a_file"))
        text = f"{name} answered {status} instead of the file: try again later"
        raise FileFailed(502, text, "provider_unavailable")

    def _scopes(self, provider: str) -> str:
        spec = self._providers[provider].manifest.channel
        return ", ".join(spec.scopes.get("download_files", {})) if spec else ""

    def _name(self, provider: str) -> str:
        known = self._providers.get(provider)
        return known.manifest.name if known else provider


def _is_page_instead(response: StreamedResponse, ref: FileRef) -> bool:
    """Return whether a success is a page for people: an HTML page, and the file is none of this size."""
    if response.status not in _OK or not is_page(response.header("Content-Type")):
        return False
    sizes = (response.content_length, ref.file.size)
    is_other_size = response.status == 200 and None not in sizes and sizes[0] != sizes[1]
    return not is_page(ref.file.content_type) or is_other_size


def _of_failure(failure: ChannelFailure) -> FileFailed:
    """Return the failure of a look-up that came before the file itself."""
    if failure.kind == "later":
        wait = failure.retry_after
        reason: FileReason = "too_many_requests" if failure.code == "rate_limited" else "provider_unavailable"
        return FileFailed(502, failure.text, reason, retryable=True, retry_after_s=wait)
    if failure.kind == "account":
        return FileFailed(409, failure.text, "access_denied", retryable=True)
    return FileFailed(404, failure.text, "file_not_found")
