"""Which offset may be committed while records of a partition are open: without a broker."""

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.kafka.watermark import MAX_UNCOMMITTABLE, PartitionTracker, TrackedRecord


def tracker(offset: int = 0, max_bytes: int = 1 << 30) -> PartitionTracker:
    return PartitionTracker(TopicPartition("t", 0), offset, max_bytes=max_bytes, on_progress=lambda *_: None)


def polled(partition: PartitionTracker, *offsets: int, size: int = 1) -> list[TrackedRecord]:
    records = [TrackedRecord(partition, offset, size) for offset in offsets]
    for record in records:
        partition.add(record)
    return records


@given(st.data())
def test_no_order_of_completions_commits_past_an_open_record_and_all_is_committed_in_the_end(
    data: st.DataObject,
) -> None:
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=40))  # compaction leaves gaps
    offsets = [5 + sum(gaps[:place]) for place in range(len(gaps))]
    partition = tracker(5)
    waiting = list(offsets)
    open_records: dict[int, TrackedRecord] = {}
    before = partition.watermark
    while waiting or open_records:
        if waiting and (not open_records or data.draw(st.booleans())):
            offset = waiting.pop(0)
            [open_records[offset]] = polled(partition, offset)
        else:
            chosen = data.draw(st.lists(st.sampled_from(sorted(open_records)), min_size=1, unique=True))
            partition.complete(*(open_records.pop(offset) for offset in chosen))
        assert before <= partition.watermark <= min(open_records, default=offsets[-1] + 1)
        if open_records:
            assert partition.watermark == min(open_records), "nor does it stay behind"
        assert (partition.open_count, partition.open_bytes) == (len(open_records), len(open_records))
        before = partition.watermark
    assert partition.watermark == offsets[-1] + 1


def test_a_record_is_completed_once() -> None:
    completed: list[int] = []
    partition = PartitionTracker(
        TopicPartition("t", 0), 0, max_bytes=9, on_progress=lambda _, count: completed.append(count)
    )
    first, second = polled(partition, 0, 1)
    partition.complete(second)
    partition.complete(second)
    partition.complete(second, first)
    assert completed == [1, 1]
    assert (partition.watermark, partition.open_count, partition.open_bytes) == (2, 0, 0)


def test_completions_after_the_partition_was_revoked_have_no_effect() -> None:
    partition = tracker()
    first, second = polled(partition, 0, 1)
    partition.complete(first)
    partition.revoke()
    called = partition.watermark
    partition.complete(second)
    assert partition.watermark == called


def test_the_bound_of_bytes_counts_open_records() -> None:
    partition = tracker(max_bytes=100)
    records = polled(partition, 0, 1, 2, size=30)
    assert not partition.is_full
    records += polled(partition, 3, size=10)
    full = [partition.is_full]
    partition.complete(records[2])
    full.append(partition.is_full)  # 70 of 100 are open
    partition.complete(records[3], records[0])
    assert [*full, partition.is_full] == [True, True, False]


def test_the_bound_of_records_counts_from_the_watermark() -> None:
    """One record that stays open must not let the others pass it without end: a kill repeats them all."""
    partition = tracker()
    first, *others = polled(partition, *range(MAX_UNCOMMITTABLE))
    full = [partition.is_full]
    partition.complete(*others)
    assert partition.open_count == 1
    full.append(partition.is_full)
    partition.complete(first)
    assert [*full, partition.is_full] == [True, True, False]
