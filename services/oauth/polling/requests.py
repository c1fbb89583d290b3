"""The requests of polls: with an account's token, or to a feed at an address that a person entered."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from services.oauth.polling.budget import PollBudget
from services.oauth.polling.errors import PollRefused, RateLimited
from services.oauth.polling.polling_types import PollingType
from services.oauth.polling.records import PollingTrigger
from shared.connections.integration_record import Integration
from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import Rejected
from shared.manifests.api_requests import build_api_request
from shared.manifests.connect_models import Api, ApiRequest
from shared.manifests.connector import Connector
from shared.manifests.poll_pages import UnusableResponse
from shared.manifests.provider_response import (
    ProviderRejected,
    ProviderUnavailable,
    parse_document,
    provider_unavailable,
    select_optional,
)
from shared.runtime.egress.client import EgressClient
from shared.runtime.version import VERSION
from shared.wire.bodies import inflate
from shared.wire.expressions import truthy
from shared.wire.feed import parse_feed
from shared.wire.provider_http import ProviderRequest, ProviderResponse

MAX_FEED_BYTES: Final = 2 * 1024 * 1024
"""Of a feed, before and after decompression."""
_MAX_RESPONSE_BYTES: Final = 1024 * 1024
"""Of an answer of an API: what `TokenSource` reads."""
_FEED_TIMEOUT_S: Final = 15.0
_FEED_HEADERS: Final = {
    "User-Agent": f"Interlink/{VERSION}",
    "Accept": "application/rss+xml, application/atom+xml, application/xml;q=0.9, text/xml;q=0.9, */*;q=0.1",
    "Accept-Encoding": "gzip",
}
_MAX_LOCATION_LENGTH: Final = 200
NOT_MODIFIED: Final = 304


class PollRequests:
    """Sends the requests of polls, and reads the answers."""

    def __init__(
        self,
        tokens: TokenSource,
        connectors: Mapping[str, Connector],
        client: EgressClient,
        budget: PollBudget,
    ) -> None:
        self._tokens = tokens
        self._connectors = connectors
        self._client = client
        self._budget = budget

    async def send(
        self,
        trigger: PollingTrigger,
        account: Integration | None,
        request: ApiRequest,
        values: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> ProviderResponse:
        """Send a request of a poll. `values` are its `{poll:...}`, `headers` are added to it.

        Return the response, whatever its status. Raises as `TokenSource.call`; `ProviderUnavailable` without
        an answer; `MissingValue`; `UnusableResponse` if the answer is too large.
        """
        if account is None:
            return await self._send_openly(trigger, request, values, headers)
        connector = self._connectors[trigger.provider]
        api = connector.api_for(account.kind)

        def build(access: Access) -> ProviderRequest:
            built = connector.request(request, {**access.values, **values}, api)
            return replace(built, headers={**built.headers, **headers})

        response = await self._tokens.call(account.id, build)
        self._budget.read(trigger.workspace, len(response.body))
        if len(response.body) >= _MAX_RESPONSE_BYTES:
            raise UnusableResponse("the provider's response is larger than 1 MiB")
        return response

    async def _send_openly(
        self,
        trigger: PollingTrigger,
        request: ApiRequest,
        values: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> ProviderResponse:
        """Send a request without an account, to an address that a person entered."""
        built = build_api_request(request, values, Api(), form_encoded=False)
        answer = await self._client.call(
            built.method,
            built.url,
            {**built.headers, **_FEED_HEADERS, **headers},
            built.body or None,
            timeout_s=_FEED_TIMEOUT_S,
            workspace=trigger.workspace,
            max_bytes=MAX_FEED_BYTES + 1,
        )
        self._budget.read(trigger.workspace, len(answer.body))
        if answer.status is None:
            raise ProviderUnavailable(f"the address cannot be reached: {answer.detail or answer.failure}")
        if len(answer.body) > MAX_FEED_BYTES:
            raise UnusableResponse(f"the response is larger than {MAX_FEED_BYTES // 1024} KiB")
        lowered = {name.lower(): value for name, value in answer.headers.items()}
        return ProviderResponse(answer.status, lowered, answer.body)

    async def document(
        self, kind: PollingType, account: Integration | None, response: ProviderResponse
    ) -> Any:
        """Return the content of a response: parsed JSON, or a feed as `parse_feed` reads it.

        Raises `RateLimited` if the provider asks for a pause, `ProviderUnavailable` for its other temporary
        errors, `PollRefused` if it refuses the request, and `UnusableResponse`.
        """
        if response.status == 429 or (response.status >= 400 and _is_busy(kind, response)):
            raise RateLimited(
                "the provider asks for a pause: too many requests",
                retry_after=provider_unavailable(response).retry_after,
            )
        if 300 <= response.status < 400:
            raise PollRefused(response.status, f"http_{response.status}", _moved(response))
        if kind.spec.format == "feed":
            return await _feed(response)
        connector = self._connectors.get(kind.provider)
        if account is None or connector is None:
            _check_status(response)
            return parse_document(response)
        try:
            return connector.parse_api_response(response, connector.api_for(account.kind))
        except ProviderRejected as error:
            if error.code == "not_json":
                raise UnusableResponse(error.detail) from None
            raise PollRefused(response.status, error.code) from None


async def _feed(response: ProviderResponse) -> Any:
    _check_status(response)
    try:
        body = inflate(response.body, response.headers.get("content-encoding", "").lower(), MAX_FEED_BYTES)
        # In a thread: the bounds of the parser allow a hostile feed a tenth of a second.
        return await asyncio.to_thread(parse_feed, body)
    except Rejected as error:
        raise UnusableResponse(error.detail) from None


def _check_status(response: ProviderResponse) -> None:
    if response.status >= 500:
        raise provider_unavailable(response)
    if response.status >= 400:
        raise PollRefused(response.status, f"http_{response.status}")


def _is_busy(kind: PollingType, response: ProviderResponse) -> bool:
    """Return whether an error only says that there were too many requests."""
    if not kind.section.busy:
        return False
    try:
        return truthy(select_optional(kind.section.busy, parse_document(response)))
    except (ProviderRejected, ProviderUnavailable):
        return False


def _moved(response: ProviderResponse) -> str:
    location = response.headers.get("location", "")[:_MAX_LOCATION_LENGTH]
    to = f" to {location}" if location.isprintable() and location else ""
    return f"the address has moved{to}: redirects are not followed, enter the new address"
