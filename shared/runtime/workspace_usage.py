"""What each workspace uses, as one counter with a bounded number of workspaces.

A label per workspace has no bound, and workspaces are strangers. So a process counts a fixed number of them
by name and all others together, and every five minutes gives the names to those that have used more. The
series of a workspace that loses its name ends, and `other` stays as it is, so that no series goes back.
"""

from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import REGISTRY, Collector

UsageKind = Literal["request", "event", "attempt", "stored_byte", "refusal", "account_call", "message"]
_UNRANKED: Final[UsageKind] = "stored_byte"
"""Bytes decide nothing about names: they would outnumber everything else."""

_OTHER: Final = "other"
_TURN_S: Final = 300.0
_MAX_COMPARED: Final = 1_000
"""Workspaces of which a process remembers what they used since the last turn."""


class WorkspaceUsage(Collector):
    """A counter with the labels `workspace`, `kind` and `worker`."""

    MAX_WORKSPACES: Final = 50

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self.worker = 0
        """The number of this process among the workers of its service. Each gives names of its own: without
        this label, the sum of all would go back when one of them exchanges a name."""
        self._named: dict[str, Counter[str]] = {}
        self._other: Counter[str] = Counter()
        self._recent: Counter[str] = Counter()
        """Uses since the last turn, by workspace."""
        self._turned_at = monotonic()
        REGISTRY.register(self)

    def count(self, workspace: str, kind: UsageKind, amount: int = 1) -> None:
        """Count what a workspace used."""
        rank = 0 if kind == _UNRANKED else amount
        own = self._named.get(workspace)
        if own is None and len(self._named) < self.MAX_WORKSPACES:
            own = self._named[workspace] = Counter()
        if own is not None:
            own[kind] += amount
            self._recent[workspace] += rank
            return
        self._other[kind] += amount
        # However many workspaces use a little, those that use much stay.
        while len(self._recent) >= _MAX_COMPARED:
            self._recent = Counter({name: used // 2 for name, used in self._recent.items() if used > 1})
        self._recent[workspace] += rank

    def turn(self) -> None:
        """Give the names of the workspaces that used least since the last turn to those that used more."""
        unnamed = [item for item in self._recent.most_common() if item[0] not in self._named]
        least_first = sorted(self._named, key=self._recent.__getitem__)
        for (workspace, used), former in zip(unnamed, least_first, strict=False):
            if used <= self._recent[former]:
                break
            del self._named[former]
            self._named[workspace] = Counter()
        self._recent.clear()
        self._turned_at = monotonic()

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[CounterMetricFamily]:
        if monotonic() - self._turned_at >= _TURN_S:
            self.turn()
        family = self._family()
        for workspace, counts in [*self._named.items(), (_OTHER, self._other)]:
            for kind, used in counts.items():
                family.add_metric([workspace, kind, str(self.worker)], used)
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._documentation, labels=["workspace", "kind", "worker"])
