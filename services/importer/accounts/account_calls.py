"""Send the steps of one import with its account's token, no faster than the account allows."""

import asyncio
from typing import Final, TypeVar

import orjson

from services.importer.accounts.rate_limiter import RateLimiter
from shared.connections.channel_calls import ChannelCalls, NotReached, OutcomeUnknown, StepResponse
from shared.connections.tokens import Access, NotConnected, TokenSource
from shared.contracts.errors import NotFound
from shared.manifests.channel_failures import retry_after
from shared.manifests.channel_types import CallResponse, ChannelFailure, Operation, Step
from shared.manifests.provider_response import ProviderUnavailable

MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
DISCONNECTED: Final = "the account was disconnected: connect it again, then resume the import"
_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 5.0
_TOO_MANY_REQUESTS: Final = 429
_FIRST_LIMIT_PAUSE_S: Final = 30.0
"""After a 429 that does not say how long to wait."""

T = TypeVar("T")


class CallWaits(Exception):
    """A call has to wait for longer than the caller waits: `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class AccountCalls:
    """Sends the calls of one import with one account. A call waits for at most `max_wait_s` seconds."""

    def __init__(
        self,
        tokens: TokenSource,
        calls: ChannelCalls,
        integration_id: str,
        limiter: RateLimiter,
        *,
        max_wait_s: float,
    ) -> None:
        self._tokens = tokens
        self._calls = calls
        self._integration_id = integration_id
        self._access: Access | None = None
        self._last_method = ""
        self.limiter = limiter
        self.max_wait_s = max_wait_s

    @property
    def interval_s(self) -> float:
        """The seconds between two calls of the method that was called last, as the account allows it."""
        return self.limiter.interval_s(self._last_method) if self._last_method else 0.0

    async def send(self, step: Step) -> StepResponse:
        """Send a step when it is its turn, and return the response.

        Raises `CallWaits`, `ChannelFailure` (of kind `account` if the account has to be connected again,
        `later` without a response, `conversation` for a response that is too large) and
        `DatabaseUnavailable`.
        """
        wait_s = self.limiter.wait_s(step.method)
        if wait_s > self.max_wait_s:
            raise CallWaits(wait_s)
        await asyncio.sleep(wait_s)
        self.limiter.called(step.method)
        self._last_method = step.method
        try:
            access = self._access or await self._tokens.access(self._integration_id)
            response, self._access = await self._calls.send(
                step, access, timeout_s=_TIMEOUT_S, max_bytes=MAX_RESPONSE_BYTES
            )
        except NotConnected as error:
            raise ChannelFailure("account", "not_connected", f"{error}, then resume the import") from None
        except NotFound:
            raise ChannelFailure("account", "not_connected", DISCONNECTED) from None
        except ProviderUnavailable as error:
            raise ChannelFailure("later", "unavailable", str(error), retry_after=error.retry_after) from None
        except (NotReached, OutcomeUnknown) as error:
            text = f"the provider did not answer ({error}): the import tries again"
            raise ChannelFailure("later", "no_answer", text, retry_after=_PAUSE_S) from None
        if response.status == _TOO_MANY_REQUESTS:
            pause_s = retry_after(response.headers) or _FIRST_LIMIT_PAUSE_S
            self.limiter.limited(step.method, "method", pause_s)
        if len(response.body) >= MAX_RESPONSE_BYTES:
            text = f"a page has more than {MAX_RESPONSE_BYTES // 1024**2} MB: import it from an export"
            raise ChannelFailure("conversation", "too_large", text)
        return response

    async def run(self, operation: Operation[T]) -> T:
        """Carry an operation out, and return its result. Raises as `send` and the operation do."""
        try:
            step = next(operation)
            while True:
                response = await self.send(step)
                step = operation.send(CallResponse(response.status, response.headers, _json(response.body)))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            operation.close()


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
