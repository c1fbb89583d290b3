"""Confirms subscriptions: calls the URL that a provider names in a verified handshake."""

from typing import Final

from services.gateway.ingest.public_keys import CALLER
from services.gateway.ingest.rate_limit import RateLimits, TokenBuckets
from shared.contracts.errors import RetryLater
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import Log

_TIMEOUT_S: Final = 5.0
_PER_MINUTE: Final = 10
"""Confirmations per caller. A provider sends one for each subscription, and repeats it."""


class NotConfirmed(RetryLater):
    """The provider did not accept the confirmation, or was not called: it has to send the handshake again."""


class Confirmations:
    """Calls URLs that providers want to have called. Whether a URL may be called is decided before.

    A call may be repeated: the provider answers it like the first one.
    """

    def __init__(self, client: EgressClient, log: Log, limits: RateLimits | None = None) -> None:
        self._client = client
        self._log = log
        self._calls = TokenBuckets(_PER_MINUTE, limits=limits, kind="confirmations")

    async def confirm(self, url: str, *, endpoint_id: str, workspace: str) -> None:
        """Call a URL on behalf of an endpoint. Raises `NotConfirmed` unless the response is 2xx."""
        if self._calls.of(CALLER.get()).try_take() > 0:
            raise NotConfirmed("too many subscriptions were confirmed within a minute")
        answer = await self._client.get(url, timeout_s=_TIMEOUT_S, workspace=workspace)
        if answer.status is None or not 200 <= answer.status < 300:
            # The URL has a token in it, with which anybody could confirm: only its host is logged.
            self._log.warning(
                "handshake.confirmation_failed",
                endpoint_id=endpoint_id,
                host=url.split("/", 3)[2],
                status=answer.status,
                failure=answer.failure,
            )
            raise NotConfirmed("the provider did not accept the confirmation of the subscription")
        self._log.info("handshake.confirmed", endpoint_id=endpoint_id, host=url.split("/", 3)[2])
