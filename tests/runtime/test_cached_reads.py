"""Counts that take long are cached, shown while they are counted again, and counted once for all callers."""

import asyncio

import pytest

from shared.runtime import cached_reads
from shared.runtime.cached_reads import CachedReads


class Counter:
    """Counts how often it was asked, each time for a while."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        call = self.calls
        await asyncio.sleep(self.takes_s)
        return call


def test_a_slow_count_is_cached_and_shown_while_it_is_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_reads, "_SLOW_S", 0.01)
    counter = Counter(0.03)

    async def ask() -> None:
        counts = CachedReads[int]()
        assert await asyncio.gather(*(counts.get("w", None, counter) for _ in range(3))) == [1, 1, 1]
        assert await counts.get("w", "other scope", counter) == 2
        await asyncio.sleep(0.1)
        assert await counts.get("w", None, counter) == 1, "for ten times as long as counting took"
        await asyncio.sleep(0.3)
        assert await counts.get("w", None, counter) == 1, "the last one, at once"
        await asyncio.sleep(0.1)
        assert await counts.get("w", None, counter) == 3
        await asyncio.sleep(1.2)
        assert await counts.get("w", None, counter) == 4, "an old one is not shown"

    asyncio.run(ask())


def test_a_quick_count_is_not_cached_and_an_error_is_not_stored() -> None:
    counter = Counter(0)

    async def fail() -> int:
        raise LookupError("once")

    async def ask() -> list[int]:
        counts = CachedReads[int]()
        with pytest.raises(LookupError):
            await counts.get("w", None, fail)
        return [await counts.get("w", None, counter) for _ in range(3)]

    assert asyncio.run(ask()) == [1, 2, 3]


@pytest.mark.parametrize(("factor", "calls"), [(0, 2), (20, 1)])
def test_what_took_long_to_read_is_read_less_often(factor: int, calls: int) -> None:
    counter = Counter(0.12)

    async def ask() -> None:
        reads = CachedReads[int](min_s=0.05, factor=factor, at_once=None)
        await reads.get("w", "part", counter)
        assert await reads.get("w", "part", counter) == calls

    asyncio.run(ask())
    assert counter.calls == calls


def test_results_are_read_ahead_and_the_oldest_leave_what_is_too_much() -> None:
    counter = Counter(0)

    async def ask() -> list[int]:
        reads = CachedReads[int](min_s=60, max_size=5, size_of=lambda call: call)
        reads.refresh("a", None, counter)
        await asyncio.sleep(0.01)
        reads.refresh("a", None, counter)
        first = await reads.get("a", None, counter)
        others = [await reads.get(name, None, counter) for name in ("b", "c")]  # 1 + 2 + 3 are too much
        again = [await reads.get(name, None, counter) for name in ("c", "b", "a")]
        return [first, *others, *again]

    assert asyncio.run(ask()) == [1, 2, 3, 3, 2, 4]
