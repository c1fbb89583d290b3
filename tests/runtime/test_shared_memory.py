"""The memory that workers share: exact while many write, and usable after a writer was killed."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

import pytest

from services.gateway.ingest import deduplication
from services.gateway.ingest.deduplication import SharedRecentDeliveries
from services.gateway.ingest.rate_limit import RateLimits, TokenBuckets
from shared.contracts.errors import BrokerUnavailable
from shared.runtime.workers.memory import GROUP_SLOTS, SharedDocument, SharedMemory, SharedTable
from tests.support.eventually import eventually

SIZE = 8 << 20


def forked(work: Callable[[], None]) -> int:
    """Do the work in a process that ends with it; its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Wait for the end of a process; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def replaced(time: float, before: float) -> float:
    """Replace any time by this one."""
    del before
    return time


def test_no_change_is_lost_among_processes() -> None:
    table = SharedTable(SharedMemory(SIZE), GROUP_SLOTS)

    def add() -> None:
        for _ in range(2_000):
            for number in range(3):
                table.change(SharedTable.key("counter", str(number)), lambda value: value + 1)

    assert [ended(pid) for pid in [forked(add) for _ in range(4)]] == [0] * 4
    assert [table.get(SharedTable.key("counter", str(number))) for number in range(3)] == [8_000.0] * 3


def test_the_lock_of_a_killed_process_is_free() -> None:
    table = SharedTable(SharedMemory(SIZE), GROUP_SLOTS)
    key = SharedTable.key("k")

    def die(_: float) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    assert ended(forked(lambda: table.change(key, die))) == -signal.SIGKILL
    table.change(key, lambda value: value + 2)
    assert table.get(key) == 2.0


def test_a_full_table_forgets_the_earliest_time() -> None:
    table = SharedTable(SharedMemory(SIZE), GROUP_SLOTS)
    keys = [SharedTable.key(str(number)) for number in range(GROUP_SLOTS + 1)]
    for number, key in enumerate(keys):
        table.change(key, partial(replaced, (100.0 + number) * (-1) ** number))
    assert table.get(keys[0]) == 0.0
    assert [abs(table.get(key)) for key in keys[1:]] == [float(101 + number) for number in range(GROUP_SLOTS)]


def test_parts_of_the_memory_are_apart() -> None:
    memory = SharedMemory(4096)
    one, other = SharedTable(memory, GROUP_SLOTS), SharedTable(memory, GROUP_SLOTS)
    one.change(SharedTable.key("k"), lambda _: 1.0)
    assert other.get(SharedTable.key("k")) == 0.0
    with pytest.raises(ValueError, match="4096"):
        memory.take(4096)


def test_a_document_is_read_whole_while_it_is_written() -> None:
    document = SharedDocument(SharedMemory(SIZE), 1024)
    assert document.read() == b""
    assert not document.write(bytes(8193))

    def write() -> None:
        while True:
            for number in range(1, 256):
                document.write(bytes([number]) * number * 16)

    writer = forked(write)
    try:
        eventually(document.read)
        for _ in range(5_000):
            content = document.read()
            assert content == bytes(content[:1]) * content[0] * 16
    finally:
        os.kill(writer, signal.SIGKILL)
    ended(writer)
    assert document.read()


def test_a_bucket_gives_its_tokens_once_among_processes() -> None:
    limits = RateLimits(SharedMemory(SIZE))
    given = SharedTable(SharedMemory(SIZE), GROUP_SLOTS)
    bucket = limits.bucket("kind", "name", 600)

    def take() -> None:
        for _ in range(600):
            if bucket.try_take() == 0:
                given.change(1, lambda count: count + 1)

    started = monotonic()
    assert [ended(pid) for pid in [forked(take) for _ in range(4)]] == [0] * 4
    assert 600 <= given.get(1) <= 600 + (monotonic() - started) * 10 + 1


@pytest.mark.parametrize("memory", [None, SharedMemory(SIZE)])
def test_a_bucket_with_and_without_workers_is_the_same(memory: SharedMemory | None) -> None:
    buckets = TokenBuckets(60, limits=RateLimits(memory), kind="x")
    bucket = buckets.of("a")
    assert [bucket.try_take() for _ in range(60)] == [0.0] * 60, "a burst of all"
    assert 0.5 < bucket.wait() <= 1
    assert bucket.try_take() > 0
    bucket.take(3)  # into debt
    assert 3 < bucket.wait() <= 4
    bucket.take(-4)
    assert bucket.wait() == 0
    bucket.take(-1_000_000)  # never more than the burst
    assert [bucket.try_take() for _ in range(60)] == [0.0] * 60
    assert bucket.try_take(-59) > 0
    bucket.take(-59)
    assert bucket.try_hold(58.5) == 0
    assert bucket.wait() > 0, "what is held is not there"
    bucket.settle(58.5, spent=False)
    assert bucket.wait() == 0
    assert bucket.try_hold(58.5) == 0
    bucket.settle(58.5, spent=True)
    assert bucket.wait() > 0
    assert buckets.of("b").wait() == 0
    assert buckets.of("a") is bucket


async def _publish(recent: SharedRecentDeliveries, keys: Sequence[str], *, fails: bool = False) -> list[int]:
    async def publish(_: Sequence[int]) -> None:
        await asyncio.sleep(0.05)
        if fails:
            raise BrokerUnavailable("no")

    return await recent.publish_once(keys, publish, window_s=60)


async def test_a_repeat_at_another_worker_waits_for_the_first() -> None:
    memory = SharedMemory(SIZE)
    one = SharedRecentDeliveries(memory)
    memory.taken = 0  # as another worker takes the same part
    other = SharedRecentDeliveries(memory)
    first_fresh, other_fresh = await asyncio.gather(
        _publish(one, ["a", "b", "a"]), _publish(other, ["b", "c"])
    )
    assert (first_fresh, other_fresh) == ([0, 1], [1])
    assert await _publish(other, ["a", "b", "c"]) == []
    first, second = await asyncio.gather(
        _publish(one, ["d"], fails=True), _publish(other, ["d"]), return_exceptions=True
    )
    assert isinstance(first, BrokerUnavailable)
    assert isinstance(second, BrokerUnavailable)
    assert await _publish(other, ["d"]) == [0], "it was not published"


async def test_what_a_killed_worker_was_publishing_can_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplication, "_PUBLICATION_S", 0.3)
    memory = SharedMemory(SIZE)
    killed = SharedRecentDeliveries(memory)
    memory.taken = 0
    assert killed._claim("a")
    other = SharedRecentDeliveries(memory)
    with pytest.raises(BrokerUnavailable):
        await _publish(other, ["a"])
    assert await _publish(other, ["a"]) == [0]
