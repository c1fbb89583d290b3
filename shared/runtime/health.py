"""The checks of `/readyz` and `/healthz`, besides draining."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.kafka.consumer import Consumer
from shared.runtime.kafka.producer import Producer
from shared.runtime.mongo import Mongo

_PING_INTERVAL_S: Final = 2.0
_PING_TIMEOUT_S: Final = 2.0
MAX_STALL_S: Final = 600.0
"""More than a handler needs for any record; Kafka itself gives a batch half of it."""


class HealthChecks:
    """The checks of one process. MongoDB is asked at most every 2 s."""

    def __init__(self, mongo: Mongo, producer: Producer, consumers: Sequence[Consumer]) -> None:
        self._mongo = mongo
        self._producer = producer
        self._consumers = consumers
        self._database_ok = False
        self._database_checked_at = -_PING_INTERVAL_S

    async def ready(self) -> Mapping[str, bool]:
        """Return whether the process can work. Lag is no reason: it does not end by taking processes away."""
        if monotonic() - self._database_checked_at >= _PING_INTERVAL_S:
            try:
                async with asyncio.timeout(_PING_TIMEOUT_S):
                    await self._mongo.ping()
                self._database_ok = True
            except (DatabaseUnavailable, TimeoutError):
                self._database_ok = False
            self._database_checked_at = monotonic()
        return {
            "producer_has_metadata": self._producer.ready,
            "store_answers": self._database_ok,
            **{f"{consumer.group}_assigned": consumer.ready for consumer in self._consumers},
        }

    async def alive(self) -> Mapping[str, bool]:
        """Return whether each consumer completes records: False if a restart may help.

        It may if a partition has had records with the handler for 10 minutes, none of them was completed, and
        everything else is in order: without MongoDB or Kafka, records wait, and would again after a restart.
        A blocked event loop needs no check: it does not answer at all.
        """
        checks = {
            f"{consumer.group}_progresses": consumer.stall_s() < MAX_STALL_S for consumer in self._consumers
        }
        if all(checks.values()) or all((await self.ready()).values()):
            return checks
        return dict.fromkeys(checks, True)
