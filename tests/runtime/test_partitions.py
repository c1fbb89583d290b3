"""The partition of a record's key: the one that every other Kafka client chooses."""

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.kafka.producer import partition_of


@given(key=st.binary(min_size=1, max_size=60), partitions=st.integers(1, 50))
def test_partition_is_that_of_the_default_partitioner(key: bytes, partitions: int) -> None:
    listed = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, listed, listed)
