"""Fair shares: what each workspace's work costs this process, and whether it may do more at once. Pure.

Costs are microseconds of processing: evaluating and rendering, and a fixed price for each request, which
stands for its way from `delivery.requested` to the log. A workspace earns an equal part of what all may spend
in a second, and may save up to one burst. A workspace without credit waits, so that others need not.
"""

from typing import Final

BUDGET_PER_S: Final = 500_000.0
"""Work per second that all workspaces together may do at once: half a process. The backlog gets the rest."""
BURST: Final = 50_000.0
"""Work that one workspace may do at once after a pause: about 100 requests."""
MAX_IMMEDIATE_COST: Final = 16_000.0
"""The highest cost of an event that is handled at once."""
REQUEST_COST: Final = 500.0
"""The fixed price of a request."""
_BYTES_PER_MICROSECOND: Final = 100

_ACTIVE_WINDOW_S: Final = 1.0
_ACCOUNT_TTL_S: Final = 60.0
_COUNT_INTERVAL_S: Final = 0.1


def request_cost(body: bytes) -> float:
    """Return the cost of a request with this body."""
    return REQUEST_COST + len(body) / _BYTES_PER_MICROSECOND


class _ShareAccount:
    __slots__ = ("at", "balance", "seen_at", "typical")

    def __init__(self, balance: float, now: float) -> None:
        self.balance = balance
        self.at = self.seen_at = now
        self.typical = 0.0
        """The expected cost of an event. It rises at once, and falls by half with each cheaper event."""


class FairShares:
    """The accounts of the workspaces in one process. `now` is in seconds of a clock that never goes back."""

    def __init__(self, per_s: float = BUDGET_PER_S, burst: float = BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._accounts: dict[str, _ShareAccount] = {}
        self._active = 1
        self._counted_at = float("-inf")

    def can_afford(self, workspace: str, now: float) -> bool:
        """Return whether the workspace's next event may be handled at once."""
        account = self._account(workspace, now)
        return account.balance > 0 and account.typical <= MAX_IMMEDIATE_COST

    def charge(self, workspace: str, cost: float, now: float) -> None:
        """Charge the cost of an event that was handled at once."""
        account = self._account(workspace, now)
        account.balance -= cost
        account.seen_at = now
        self.record_cost(workspace, cost, now)

    def record_cost(self, workspace: str, cost: float, now: float) -> None:
        """Record the cost of an event without charging it."""
        account = self._account(workspace, now)
        account.typical = max(cost, account.typical / 2)

    def has_other_active(self, waiting: frozenset[str] | set[str], now: float) -> bool:
        """Return whether a workspace outside `waiting` had work within the last second."""
        since = now - _ACTIVE_WINDOW_S
        return any(
            account.seen_at > since and workspace not in waiting
            for workspace, account in self._accounts.items()
        )

    def mark_active(self, workspace: str, now: float) -> None:
        """Note that there is work of the workspace, which another process may have fanned out."""
        self._account(workspace, now).seen_at = now

    def _account(self, workspace: str, now: float) -> _ShareAccount:
        self._count_active(now)
        account = self._accounts.get(workspace)
        if account is None:
            account = self._accounts[workspace] = _ShareAccount(self._burst, now)
            account.seen_at = float("-inf")
        elif now > account.at:
            earned = (now - account.at) * self._per_s / self._active
            account.balance = min(self._burst, account.balance + earned)
            account.at = now
        return account

    def _count_active(self, now: float) -> None:
        """Count the active workspaces, and drop accounts that were idle for a minute."""
        if now - self._counted_at < _COUNT_INTERVAL_S:
            return
        self._counted_at = now
        expired = [
            workspace for workspace, account in self._accounts.items() if now - account.at > _ACCOUNT_TTL_S
        ]
        for workspace in expired:
            del self._accounts[workspace]
        self._active = max(
            1, sum(now - account.seen_at < _ACTIVE_WINDOW_S for account in self._accounts.values())
        )
