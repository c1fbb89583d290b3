"""Crash points: places where a test makes a process die as if the machine had taken it.

`INTERLINK_CRASH_AT=attempt.sent` kills the process (SIGKILL: no handler, no clean-up, no farewell to the
broker) when it gets there; `attempt.sent:20` when it gets there for the twentieth time. The variable is for
`tests/faults` and stands in no manual. Without it, `failpoint` is a function that does nothing.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from shared.contracts.errors import Misconfigured

FAILPOINT_VARIABLE: Final = "INTERLINK_CRASH_AT"

FAILPOINTS: Final[Mapping[str, str]] = {
    "fanout.read": "a batch of events is read, nothing of it is published",
    "fanout.published": "its requests are on Kafka, its offsets are not committed",
    "fanout.deferring": "what is beyond a workspace's share is accepted, nothing of it is stored",
    "fanout.deferred": "what is beyond a workspace's share is stored, its offsets are not committed",
    "drain.published": "requests of deferred events are on Kafka, the events are still stored",
    "attempt.read": "a batch of requests is read, nothing of it is sent",
    "attempt.before_send": "one of its requests is about to be sent, others of it may be under way",
    "attempt.sent": "an answer is here, nothing of it is written",
    "attempt.before_write": "all of the batch that is not under way is sent, the bulk write has not begun",
    "attempt.written": "the bulk write is done, the offsets are not committed",
    "schedule.claimed": "due work is claimed, nothing of it is sent",
    "schedule.sent": "an answer is here, nothing of it is written",
    "schedule.written": "the result is written, what comes after it is not done",
    "refresh.claimed": "a credential is claimed, the platform is not asked for new tokens",
    "refresh.committing": "it is written that the platform is about to be asked, it is not asked",
    "refresh.answered": "the platform has answered with new tokens, nothing of them is written",
    "refresh.committed": "the new tokens are written, nobody has got them from this process",
}
"""Every crash point, and what has happened by the time that a process dies there."""


def failpoint_for(setting: str | None) -> Callable[[str], None]:
    """What `failpoint` is under this setting: nothing without one, else the end at the place it names.

    Raises `Misconfigured` for a place that is not in `FAILPOINTS`, and for a count that is not 1 or more.
    """
    if not setting:
        return _disabled
    name, _, count = setting.partition(":")
    if name not in FAILPOINTS:
        raise Misconfigured(f"{FAILPOINT_VARIABLE}: {name!r} is not one of: {', '.join(FAILPOINTS)}")
    if count and not (count.isdecimal() and int(count) >= 1):
        raise Misconfigured(
            f"{FAILPOINT_VARIABLE}: {setting!r}: what follows the colon is a count of 1 or more"
        )
    left = int(count or 1)

    def count_down(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return count_down


def _disabled(_reached: str) -> None:
    pass


failpoint: Final = failpoint_for(os.environ.get(FAILPOINT_VARIABLE))
"""`failpoint("attempt.sent")`: this place is reached."""
