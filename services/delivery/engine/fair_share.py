"""Fair shares: what each workspace's work costs this process, and whether more of it may go on at once. Pure.

Costs are microseconds of processing: what evaluating and rendering took, and a fixed price for each request,
which stands for what it costs from `delivery.requested` to the log. A workspace earns an equal part of what
all may spend in a second, and may save up one burst. Whoever has nothing left waits, so that others need not.
"""

from typing import Final

BUDGET_PER_S: Final = 500_000.0
"""What all workspaces together may spend at once in a second: half a process; the rest is for the backlog."""
BURST: Final = 50_000.0
"""What one workspace may spend at once after a pause: 50 requests."""
MAX_IMMEDIATE_COST: Final = 16_000.0
"""What one event may cost for it to be handled at once."""
REQUEST_COST: Final = 1_000.0
"""The price of a request."""
_BYTES_PER_MICROSECOND: Final = 100

_ACTIVE_WINDOW_S: Final = 1.0
_ACCOUNT_TTL_S: Final = 60.0
_COUNT_INTERVAL_S: Final = 0.1


def request_cost(body: bytes) -> float:
    """What a request with this body costs on its way."""
    return REQUEST_COST + len(body) / _BYTES_PER_MICROSECOND


class _ShareAccount:
    __slots__ = ("at", "balance", "seen_at", "typical")

    def __init__(self, balance: float, now: float) -> None:
        self.balance = balance
        self.at = self.seen_at = now
        self.typical = 0.0
        """What its events cost: the highest at once, then half of it with each cheaper one."""


class FairShares:
    """The accounts of one process. Every `now` is in seconds of one clock that never goes back."""

    def __init__(self, per_s: float = BUDGET_PER_S, burst: float = BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._accounts: dict[str, _ShareAccount] = {}
        self._active = 1
        self._counted_at = float("-inf")

    def can_afford(self, workspace: str, now: float) -> bool:
        """Whether the workspace's next event may be handled at once."""
        account = self._account(workspace, now)
        return account.balance > 0 and account.typical <= MAX_IMMEDIATE_COST

    def charge(self, workspace: str, cost: float, now: float) -> None:
        """An event of the workspace was handled at once, at this cost."""
        account = self._account(workspace, now)
        account.balance -= cost
        account.seen_at = now
        self.record_cost(workspace, cost, now)

    def record_cost(self, workspace: str, cost: float, now: float) -> None:
        """An event of the workspace cost so much, and was paid for otherwise."""
        account = self._account(workspace, now)
        account.typical = max(cost, account.typical / 2)

    def has_other_active(self, waiting: frozenset[str] | set[str], now: float) -> bool:
        """Whether work of a workspace that is not among the waiting ones came within the last second."""
        since = now - _ACTIVE_WINDOW_S
        return any(
            account.seen_at > since and workspace not in waiting
            for workspace, account in self._accounts.items()
        )

    def mark_active(self, workspace: str, now: float) -> None:
        """Work of the workspace is here, which another process fanned out."""
        self._account(workspace, now).seen_at = now

    def _account(self, workspace: str, now: float) -> _ShareAccount:
        self._count(now)
        account = self._accounts.get(workspace)
        if account is None:
            account = self._accounts[workspace] = _ShareAccount(self._burst, now)
            account.seen_at = float("-inf")
        elif now > account.at:
            earned = (now - account.at) * self._per_s / self._active
            account.balance = min(self._burst, account.balance + earned)
            account.at = now
        return account

    def _count(self, now: float) -> None:
        """Count who is active, and forget who has not been for long."""
        if now - self._counted_at < _COUNT_INTERVAL_S:
            return
        self._counted_at = now
        gone = [name for name, each in self._accounts.items() if now - each.at > _ACCOUNT_TTL_S]
        for name in gone:
            del self._accounts[name]
        self._active = max(1, sum(now - each.seen_at < _ACTIVE_WINDOW_S for each in self._accounts.values()))
