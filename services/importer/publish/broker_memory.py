"""The memory of the embedded broker, which never deletes a record: what imports need of it, and a limit."""

from typing import Final

_MB: Final = 1024 * 1024
_FACTOR: Final = 1.1
"""Bytes of the embedded broker's memory for each byte of a record (`python -m bench.broker_memory`)."""


class BrokerFull(Exception):
    """The embedded broker may not take more of imports. The message names the limit and the fix."""


class BrokerMemory:
    """Counts what this process publishes for imports. Without a limit, for Kafka, it refuses nothing.

    The embedded broker and the process start together (`interlink up`), and a restart empties the broker.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit = limit_bytes
        self._published = 0

    def needed_bytes(self, kafka_bytes: int) -> int | None:
        """Return how much memory the embedded broker needs for so many bytes; None for Kafka."""
        return None if self._limit is None else round(kafka_bytes * _FACTOR)

    def check(self, kafka_bytes: int) -> None:
        """Raise `BrokerFull` if so many bytes more are too much."""
        if self._limit is None:
            return
        needed = round((self._published + kafka_bytes) * _FACTOR)
        if needed > self._limit:
            raise BrokerFull(
                f"the embedded broker keeps every record in memory, and would need {needed // _MB:,} MB "
                f"for imports; at most {self._limit // _MB:,} MB are allowed "
                "(INTERLINK_EMBEDDED_BROKER_IMPORT_BYTES). Set KAFKA_BOOTSTRAP_SERVERS and MONGODB_URI to "
                "run on Kafka and MongoDB, or import a shorter time"
            )

    def take(self, kafka_bytes: int) -> None:
        """Count bytes that are about to be published. Raises `BrokerFull`."""
        self.check(kafka_bytes)
        self._published += kafka_bytes
