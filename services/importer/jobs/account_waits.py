"""Pause an import if its account allows no call now: for a time, or until a person acts."""

from typing import Any, Final

from services.importer.accounts.account_calls import CallWaits
from shared.manifests.channel_types import ChannelFailure
from shared.runtime.jobs import StepResult

_PAUSE_S: Final = 5.0


class AccountWaits(Exception):
    """The step ends. The next one is due after `pause_s` seconds, or when a person resumes the import."""

    def __init__(self, pause_s: float, reason: str | None = None, *, for_person: bool = False) -> None:
        super().__init__(reason)
        self._pause_s = pause_s
        self._reason = reason
        self._for_person = for_person

    def result(self, **changes: Any) -> StepResult:
        """Return the result of the step, with other fields of the import to change."""
        changes["waiting_for"] = self._reason
        if self._for_person:
            return StepResult(waits=True, changes={**changes, "is_paused": True})
        return StepResult(pause_s=self._pause_s, changes=changes)


def account_waits(error: CallWaits | ChannelFailure) -> AccountWaits:
    """Return how an import waits after a call that was not made, or that the provider refused."""
    if isinstance(error, CallWaits):
        return AccountWaits(error.seconds)
    if error.kind == "later":
        return AccountWaits(error.retry_after or _PAUSE_S, error.text)
    needed = f" Missing: {', '.join(error.needed)}." if error.needed else ""
    return AccountWaits(0.0, f"{error.text}{needed}"[:500], for_person=True)
