"""Failpoints: places where a test kills a process, as a failure of its machine would.

`INTERLINK_CRASH_AT=attempt.sent` kills the process when it reaches that place, with SIGKILL: no handler and
no clean-up runs, and the process does not leave its consumer groups. `attempt.sent:20` kills it when it
reaches the place for the twentieth time. The variable is for `tests/faults` only and not documented for
operators. Without it, `failpoint` does nothing.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from shared.contracts.errors import Misconfigured

FAILPOINT_VARIABLE: Final = "INTERLINK_CRASH_AT"

FAILPOINTS: Final[Mapping[str, str]] = {
    "fanout.read": "a batch of events is read, none of their delivery requests are published",
    "fanout.published": "the delivery requests are published, the offsets of the batch are not committed",
    "fanout.deferring": "events beyond a workspace's fair share are accepted, none of them is stored",
    "fanout.deferred": "events beyond a workspace's fair share are stored, the offsets are not committed",
    "drain.published": "delivery requests of deferred events are published, their chunk is in the backlog",
    "attempt.read": "a batch of delivery requests is read, no attempt has started",
    "attempt.direct": "a direct request is in its endpoint's queue, no attempt has started",
    "direct.published": "direct requests of a lost partition are published, their events are not complete",
    "attempt.before_send": "one attempt of the batch is about to start, others may be under way",
    "attempt.sent": "a subscriber has responded, the outcome is not written",
    "attempt.before_write": "some attempts have ended or are leased, none of them is written",
    "attempt.written": "the bulk write is done, the offsets are not committed",
    "attempt.head_written": "a strict webhook's open or failed delivery is written, those after it are not",
    "schedule.claimed": "a due delivery is claimed, its attempt has not started",
    "schedule.sent": "a subscriber has responded, the outcome is not written",
    "schedule.written": "the outcome is written, the steps after it are not done",
    "outbox.stored": "a change and its events are stored, none of the events is published",
    "refresh.claimed": "an integration is claimed for a refresh, the provider is not asked for new tokens",
    "refresh.committing": "the lease is committed, the provider is not asked for new tokens",
    "refresh.answered": "the provider has answered with new tokens, they are not written",
    "refresh.committed": "the new tokens are written, no caller of this process has got them",
    "confirmation.claimed": "a confirmation code is used up, the grant is in no integration",
    "confirmation.stored": "the grant is in its integration, and still among the unconfirmed ones",
    "poll.published": "the events of a poll are published, its cursor is not stored",
    "translate.read": "a batch of changes is read, nothing of it is stored",
    "translate.stored": "the messages of a batch are stored, none of its events and requests is published",
    "translate.published": "events and requests are published, the offsets of the batch are not committed",
    "carry.read": "a batch of requests is read, none is in a lane",
    "carry.queued": "changes that have to wait are stored, their records are not complete",
    "carry.sending": "a message is marked as being sent, the provider is not called",
    "carry.sent": "the provider has answered, neither link nor state is stored",
    "carry.written": "link and state are stored, the record is not complete",
    "undo.left": "messages of a part are left to another import, the numbers of both are as before",
    "undo.withdrawn": "messages of a part are out of the ledger, the numbers are as before",
    "audit.before_status": "a management call is carried out, its status is not stored and no answer is sent",
}
"""Every failpoint, and the state in which a process dies there."""


def failpoint_for(setting: str | None) -> Callable[[str], None]:
    """Return the function `failpoint` for this setting, the text of `INTERLINK_CRASH_AT`.

    Without a setting it does nothing. Raises `Misconfigured` if the name is not in `FAILPOINTS`, or the count
    is not 1 or more.
    """
    if not setting:
        return _disabled
    name, _, count = setting.partition(":")
    if name not in FAILPOINTS:
        raise Misconfigured(f"{FAILPOINT_VARIABLE}: {name!r} is not one of: {', '.join(FAILPOINTS)}")
    if count and not (count.isdecimal() and int(count) >= 1):
        raise Misconfigured(
            f"{FAILPOINT_VARIABLE}: {setting!r}: the part after the colon must be a count of 1 or more"
        )
    remaining = int(count or 1)

    def count_down(reached: str) -> None:
        nonlocal remaining
        if reached == name:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return count_down


def _disabled(_reached: str) -> None:
    pass


failpoint: Final = failpoint_for(os.environ.get(FAILPOINT_VARIABLE))
"""Called with its name where a place is reached."""
