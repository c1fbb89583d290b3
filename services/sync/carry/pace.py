"""Rate limits of providers: the wait before an account's next call, by the manifest's rates and by 429s.

One process owns an account, so its calls are counted in memory, separately for each workspace that has
connected it. A new owner starts counting at zero; if the provider then answers 429, its pause is obeyed.
"""

from collections import OrderedDict, deque
from time import monotonic
from typing import Final

from shared.manifests.channel_models import ChannelSpec, RateScope, RateSpec

_MAX_WINDOWS: Final = 50_000
"""Counted rates of all accounts of a process; the least recently used are forgotten."""
ANY_METHOD: Final = "*"

_Key = tuple[str, str, str]
"""Rate key of the account, number or scope of the rule, and conversation or method ('' for the account)."""


class Pace:
    """The calls of the accounts of one process. Times are those of `monotonic`, in seconds."""

    def __init__(self) -> None:
        self._windows: OrderedDict[_Key, deque[float]] = OrderedDict()
        self._blocked: dict[_Key, float] = {}

    def delay(self, account: str, spec: ChannelSpec, method: str, conversation: str) -> float:
        """Return the seconds until a method may be called; 0.0 for now."""
        now = monotonic()
        until = max((self._blocked_until(key) for key in _blocks(account, method, conversation)), default=0.0)
        for number, rule in _rules(spec, method):
            window = self._windows.get(_window_key(account, number, rule, method, conversation))
            if window is not None and len(window) >= rule.amount:
                until = max(until, window[-rule.amount] + rule.per_s)
        return max(0.0, until - now)

    def take(self, account: str, spec: ChannelSpec, method: str, conversation: str) -> float:
        """Count a call if it may be made now and return 0.0; else return the seconds until it may."""
        if delay := self.delay(account, spec, method, conversation):
            return delay
        now = monotonic()
        for number, rule in _rules(spec, method):
            key = _window_key(account, number, rule, method, conversation)
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = deque(maxlen=rule.amount)
                if len(self._windows) > _MAX_WINDOWS:
                    self._windows.popitem(last=False)
            self._windows.move_to_end(key)
            window.append(now)
        return 0.0

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
