"""Store the failure of a poll: when it is tried again, and what a person has to do."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.oauth.polling.errors import PollRefused
from services.oauth.polling.records import PollingTrigger, PollingTriggerRepository
from shared.connections.integration_record import LastError
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.metrics import POLLS
from shared.runtime.retry import Backoff

_PAUSES: Final = Backoff(first_s=60.0, max_s=6 * 3600.0, spread=0.2)
_STOPPED_RECHECK: Final = timedelta(seconds=60)
_MAX_FAILURES: Final = 10
"""Refused polls in a row after which a trigger is paused."""
_MAX_DETAIL_LENGTH: Final = 300
_HELP: Final[Mapping[int, str]] = {
    401: "the provider does not accept the account's token for this: connect the account again, then resume",
    403: "the account may not read this: grant the permission at the provider or connect it with more "
    "scopes, then resume",
    404: "the provider does not know this, or the account cannot see it: check the params, then resume",
    410: "this does not exist any more: delete the trigger, or create one with other params",
}


class PollOutcomes:
    """Writes the outcomes of polls that did not succeed. A write does nothing if the claim is over."""

    def __init__(self, triggers: PollingTriggerRepository, log: Log) -> None:
        self._triggers = triggers
        self._log = log

    async def fail(
        self,
        claimed: PollingTrigger,
        code: str,
        detail: str,
        min_pause_s: float,
        *,
        is_page_refused: bool = False,
    ) -> None:
        """Store a failure, and the time of the next poll: growing pauses, at least those of the provider."""
        POLLS.labels(claimed.provider, "failed").inc()
        failures = claimed.failures + 1
        pause_s = max(min_pause_s, _PAUSES.pause_s(failures))
        await self._triggers.finish(
            claimed,
            status="failing",
            failures=failures,
            last_polled_at=utcnow(),
            due_at=utcnow() + timedelta(seconds=pause_s),
            last_error=new_error(code, detail),
            is_page_refused=is_page_refused,
        )

    async def refuse(self, claimed: PollingTrigger, error: PollRefused) -> None:
        """Pause a trigger whose request a person has to mend; else try again for a while.

        The refused page may have ended at the provider: the next poll begins with the first one.
        """
        help_text = error.detail or _HELP.get(error.status, "")
        if error.detail and error.status in _HELP:
            help_text = f"{error.detail}: {_HELP[error.status]}"
        detail = (
            f"the provider refused the request ({error.code}): {help_text or 'check the params, then resume'}"
        )
        moved = 300 <= error.status < 400
        if error.status in _HELP or moved or claimed.failures + 1 >= _MAX_FAILURES:
            await self.pause(claimed, error.code, detail, is_page_refused=True)
        else:
            await self.fail(claimed, error.code, detail, 0.0, is_page_refused=True)

    async def pause(
        self, claimed: PollingTrigger, code: str, detail: str, *, is_page_refused: bool = False
    ) -> None:
        """Store that a person has to do something before the trigger can go on."""
        POLLS.labels(claimed.provider, "paused").inc()
        self._log.info("polling.paused", polling_trigger_id=claimed.id, code=code)
        await self._triggers.finish(
            claimed,
            status="paused",
            failures=claimed.failures + 1,
            last_polled_at=utcnow(),
            is_open=False,
            due_at=None,
            last_error=new_error(code, detail),
            is_page_refused=is_page_refused,
        )

    async def stop(self, claimed: PollingTrigger, code: str, detail: str) -> None:
        """Store that the account has to be connected first; it is looked at again every minute."""
        await self._triggers.finish(
            claimed,
            status="stopped",
            due_at=utcnow() + _STOPPED_RECHECK,
            last_error=new_error(code, detail),
        )


def new_error(code: str, detail: str) -> LastError:
    """Return the error to show, with its texts cut to their lengths."""
    return LastError(at=utcnow(), code=code[:100], detail=detail[:_MAX_DETAIL_LENGTH])
