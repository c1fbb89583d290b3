"""Read files of providers as streams, with the tokens of the accounts that may see them."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from multidict import CIMultiDict

from shared.connections.channel_accounts import ChannelAccounts, channel_account
from shared.connections.channel_calls import ChannelCalls, NotReached, OutcomeUnknown
from shared.connections.files.addresses import FileRef
from shared.connections.files.names import is_page, shown_size
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import InterlinkError, Rejected
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
_CONTENT_RANGE: Final = re.compile(r"bytes \d{1,18}-\d{1,18}/(\d{1,18}|\*)")
_UNSATISFIED_RANGE: Final = re.compile(r"bytes \*/\d{1,18}")
_USER_AGENT: Final = f"Interlink/{VERSION}"


class FileFailed(InterlinkError):
    """The provider does not give the file. `text` is for people, `status` for programs.

    `retryable` says whether it may give the file later, after `retry_after` seconds if it said so.
    `headers` are for the response.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.headers: Mapping[str, str] = headers or {}


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
        self, ref: FileRef, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[StreamedResponse]:
        """Return the context of a response with the file: status 200, or 206 for a range in `headers`.

        Its body has at most `max_bytes` bytes if it announces a length; `relay` bounds it in any case. Raises
        `FileFailed`, `NotFound` without a connected account, `NotConnected`, `ProviderUnavailable` or
        `DatabaseUnavailable`. Reading raises `ExchangeFailed`.
        """
        await self._configuration.current()
        name = self._name(ref.provider)
        integration = await self._accounts.find(ref.workspace, ref.provider, ref.account)
        channel: object = self._accounts.channel(ref.provider)
        if not isinstance(channel, Downloads):
            raise FileFailed(404, f"{name} gives no files to the hub: open the file there")
        try:
            operation = channel.download(ref.file, channel_account(integration))
            call = await self._calls.run(operation, integration.id)
        except ChannelFailure as failure:
            raise _of_failure(failure) from None
        except (NotReached, OutcomeUnknown) as error:
            raise FileFailed(502, f"{name} cannot be reached: {error}", retryable=True) from None
        access = await self._tokens.access(integration.id)
        async with AsyncExitStack() as stack:
            try:
                response = await self._send(stack, call, access, headers or {})
                if await self._is_refused(response, access, ref):
                    newer = await self._tokens.replace_rejected(access)
                    if newer.version > access.version:
                        response = await self._send(stack, call, newer, headers or {})
                self._check(response, ref, name)
            except ExchangeFailed as error:
                raise FileFailed(502, f"{name} cannot be reached: {error}", retryable=True) from None
            yield response

    async def _send(
        self, stack: AsyncExitStack, call: Call, access: Access, headers: Mapping[str, str]
    ) -> StreamedResponse:
        """Send the call and follow redirects, which are checked as the call. Another origin gets no token."""
        url = self._calls.address(call, access)
        plain = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **headers}
        sent = CIMultiDict({**plain, **(access.headers if call.token else {})})
        for _ in range(_MAX_REDIRECTS + 1):
            send = sender(self._client, call.method, url, sent, workspace=access.workspace)
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
            raise FileFailed(416, "the file does not have the requested range", headers=headers)
        if status == 429 or status >= 500:
            wait = retry_after({"retry-after": response.header("Retry-After")})
            text = f"{name} cannot give the file now (status {status}): try again later"
            raise FileFailed(502, text, retryable=True, retry_after_s=wait)
        if status == 206 and not _CONTENT_RANGE.fullmatch(response.header("Content-Range")):
            raise FileFailed(502, f"{name} does not say which range of the file it sends")
        if status in _OK and not _is_page_instead(response, ref):
            if response.header("Content-Encoding").strip().lower() not in ("", "identity"):
                raise FileFailed(502, f"{name} sends the file in an encoding that was not asked for")
            limit = self.max_bytes(ref.provider)
            if (response.content_length or 0) > limit:
                raise FileFailed(502, f"the file is larger than {shown_size(limit)}: open it in {name}")
            return
        if status in _OK or status in (400, 401, 403, 404, 410):
            needs = f" (it needs the scopes {scopes})" if (scopes := self._scopes(ref.provider)) else ""
            text = f"{name} has no such file any more, or the account may not read it{needs}"
            raise FileFailed(404, f"{text}: check it in {name}, or connect the account again")
        raise FileFailed(502, f"{name} answered {status} instead of the file: try again later")

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
        return FileFailed(502, failure.text, retryable=True, retry_after_s=failure.retry_after)
    if failure.kind == "account":
        return FileFailed(409, failure.text, retryable=True)
    return FileFailed(404, failure.text)
