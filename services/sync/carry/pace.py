"""Rate limits of providers: the wait before an account's next call, by the manifest's rates and by 429s.

One process owns an account, so its calls are counted in memory, separately for each workspace that has
connected it. A new owner starts counting at zero; if the provider then answers 429, its pause is obeyed.
"""

from bisect import insort
from collections import OrderedDict
from time import monotonic
from typing import Final

from shared.manifests.channel_models import ChannelSpec, RateScope, RateSpec

_MAX_WINDOWS: Final = 50_000
"""Counted rates of all accounts of a process; the least recently used are forgotten."""
_RESERVED_S: Final = 300.0
_USABLE_S: Final = 60.0
"""How long a reserved time may be used after it: the call that it counts should be near."""
ANY_METHOD: Final = "*"

_Key = tuple[str, str, str]
"""Rate key of the account, number or scope of the rule, and conversation or method ('' for the account)."""


class Pace:
    """The calls of the accounts of one process. Times are those of `monotonic`, in seconds."""

    def __init__(self) -> None:
        self._windows: OrderedDict[_Key, list[float]] = OrderedDict()
        """Times of the last calls that a rule counts, in order. Reserved ones are later than now."""
        self._reserved: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        """Times reserved, by account, lane and method."""
        self._blocked: dict[_Key, float] = {}

    def take(self, account: str, spec: ChannelSpec, method: str, conversation: str, lane: str = "") -> float:
        """Count a call if it may be made now and return 0.0; else return the seconds until it may.

        A lane that has to wait gets the next free time, up to five minutes from now: so lanes are served
        in the order in which they asked, and do not all come back for one call. Without `lane`, nothing is
        reserved.
        """
        now = monotonic()
        blocked_until = max(
            (self._blocked_until(key) for key in _blocks(account, method, conversation)), default=0.0
        )
        reserved = self._reserved.pop((account, lane, method), None)
        if reserved is not None and now - reserved < _USABLE_S and blocked_until <= now:
            if reserved <= now:
                return 0.0  # it was counted when it was reserved
            self._reserved[account, lane, method] = reserved
            return reserved - now
        until = max(now, blocked_until)
        counted = [
            (_window_key(account, number, rule, method, conversation), rule)
            for number, rule in _rules(spec, method)
        ]
        for key, rule in counted:
            window = self._windows.get(key, ())
            if len(window) >= rule.amount:
                until = max(until, window[-rule.amount] + rule.per_s)
        if until > now and (not lane or until <= blocked_until or until - now > _RESERVED_S):
            return until - now
        for key, rule in counted:
            self._count(key, rule, until)
        if until > now:
            self._reserved[account, lane, method] = until
            if len(self._reserved) > _MAX_WINDOWS:
                self._reserved.popitem(last=False)
        return until - now

    def _count(self, key: _Key, rule: RateSpec, at: float) -> None:
        window = self._windows.setdefault(key, [])
        insort(window, at)
        del window[: -rule.amount]
        self._windows.move_to_end(key)
        if len(self._windows) > _MAX_WINDOWS:
            self._windows.popitem(last=False)

    def block(self, account: str, scope: RateScope, method: str, conversation: str, pause_s: float) -> None:
        """Let nothing of a scope go out for a while: the provider has asked for it."""
        key = _block_key(account, scope, method, conversation)
        self._blocked[key] = max(self._blocked.get(key, 0.0), monotonic() + pause_s)
        if len(self._blocked) > _MAX_WINDOWS:
            now = monotonic()
            self._blocked = {key: until for key, until in self._blocked.items() if until > now}

    def _blocked_until(self, key: _Key) -> float:
        until = self._blocked.get(key, 0.0)
        if until and until <= monotonic():
            del self._blocked[key]
            return 0.0
        return until


def _rules(spec: ChannelSpec, method: str) -> list[tuple[int, RateSpec]]:
    return [
        (number, rule)
        for number, rule in enumerate(spec.rates)
        if method in rule.methods or ANY_METHOD in rule.methods
    ]


def _window_key(account: str, number: int, rule: RateSpec, method: str, conversation: str) -> _Key:
    counted = {"conversation": conversation, "method": method, "account": ""}[rule.scope]
    return account, str(number), counted


def _blocks(account: str, method: str, conversation: str) -> tuple[_Key, ...]:
    return (
        (account, "account", ""),
        (account, "method", method),
        (account, "conversation", conversation),
    )


def _block_key(account: str, scope: RateScope, method: str, conversation: str) -> _Key:
    return account, scope, {"account": "", "method": method, "conversation": conversation}[scope]
