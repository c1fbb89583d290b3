"""Remember which deliveries may be in the log: a Bloom filter, so that an event that is new needs no read.

The log has an entry for as long as its retention lasts, and a publisher may publish an event again at any
time. So the filter has every id of the log, whatever its age. It is loaded at each assignment, in the
background and with pauses. Until then, and for records that a previous owner of the partition may have
handled too, the log is read. The embedded database would scan the whole log for each range of ids, and answer
nobody else meanwhile: with it, a short log is read in one scan, and a filter for a long one is not loaded.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from time import perf_counter
from typing import Final

from services.delivery.log.delivery_ids import DeliveryIds
from services.delivery.model.delivery import DeliveryRequest, at_ms_of
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.clock import now_ms
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

BYTES_PER_ID: Final = 2
_PROBES: Final = 4
_MIN_CAPACITY: Final = 1 << 16
_MAX_CAPACITY: Final = 1 << 24
"""Ids beyond these 16 million make more reads necessary, not more memory than 32 MiB."""
_WINDOW: Final = 1_000
"""Ids that are read at a time, about."""
_MAX_SCANNED: Final = 20_000
"""Deliveries that the embedded database scans at once: in 0.2 to 0.5 s."""
_MAX_COUNT_S: Final = 0.1
"""For the embedded database to count them. A log that takes longer is long, or the database is busy."""
_SCANNED_CAPACITY: Final = 1 << 20
"""Of the filter after such a scan, which is not repeated when the log is longer."""
_REST_FACTOR: Final = 4
"""Pause of the load, as a multiple of its work: it takes a fifth of the process."""
_CLOCK_SKEW_MS: Final = 5_000
_RETRY_INTERVAL_S: Final = 5.0
_BUSY_RETRY: Final = Backoff(first_s=5.0, max_s=600.0)
"""For an embedded database that did not count the log in time."""


class DeliveryFilter:
    """A set of ids that may claim to have an id that it does not have, but never the reverse.

    With `capacity` ids, that happens for one of 400. It has two bytes per id of its capacity.
    """

    def __init__(self, capacity: int) -> None:
        """Initialise; the capacity is rounded up to a power of two, within bounds."""
        bounded = min(max(capacity, _MIN_CAPACITY), _MAX_CAPACITY)
        self.capacity = 1 << (bounded - 1).bit_length()
        self.count = 0
        """Ids that were added, repeats included."""
        self._bits = bytearray(self.capacity * BYTES_PER_ID)
        self._mask = len(self._bits) * 8 - 1

    def add(self, delivery_id: str) -> None:
        bits, mask = self._bits, self._mask
        position, step = _hashes(delivery_id)
        for _ in range(_PROBES):
            bit = position & mask
            bits[bit >> 3] |= 1 << (bit & 7)
            position += step
        self.count += 1

    def __contains__(self, delivery_id: str) -> bool:
        bits, mask = self._bits, self._mask
        position, step = _hashes(delivery_id)
        for _ in range(_PROBES):
            bit = position & mask
            if not bits[bit >> 3] & 1 << (bit & 7):
                return False
            position += step
        return True


class KnownDeliveries:
    """The filter of this process: the ids in the log, and those of requests that are on their way there."""

    def __init__(self, logged_ids: DeliveryIds, log: Log, *, open_ids: Callable[[], Iterable[str]]) -> None:
        """Initialise; `open_ids` returns the ids of all requests that are not in the log yet."""
        self._logged_ids = logged_ids
        self._open_ids = open_ids
        self._log = log
        self._assignment: int | None = None
        self._new_from_ms = 0
        """Records from this broker time on were never polled by an earlier owner of their partition."""
        self._filter: DeliveryFilter | None = None
        """None until the log is loaded for the current assignment."""
        self._next: DeliveryFilter | None = None
        """The filter that is being loaded."""
        self._load_task: asyncio.Task[None] | None = None
        self._ids_indexed = False

    async def stop(self) -> None:
        """Stop loading."""
        if self._load_task:
            self._load_task.cancel()
            await asyncio.gather(self._load_task, return_exceptions=True)

    def follow_assignment(self, assignment: int) -> None:
        """Load the log again if the assignment has another number: others may have written to it."""
        if assignment == self._assignment:
            return
        self._assignment = assignment
        # An earlier owner cannot have polled what was produced after this. Its own late entries are of
        # earlier records, which are looked up.
        self._new_from_ms = now_ms() + _CLOCK_SKEW_MS
        self._filter = None
        self._load()

    def is_new(self, request: DeliveryRequest) -> bool:
        """Return whether the request's delivery is certainly not in the log."""
        return self.is_new_at(request.delivery_id, at_ms_of(request.order))

    def is_new_at(self, delivery_id: str, at_ms: int) -> bool:
        """Return the same for an id; `at_ms` is the broker's time of its record, or of its event's."""
        return self._filter is not None and at_ms >= self._new_from_ms and delivery_id not in self._filter

    def add(self, delivery_id: str) -> None:
        """Note that the delivery will be in the log."""
        if self._next is not None:
            self._next.add(delivery_id)
        if self._filter is not None:
            self._filter.add(delivery_id)
            if self._filter.count > self._filter.capacity < _MAX_CAPACITY and self._may_reload:
                self._load()

    @property
    def _may_reload(self) -> bool:
        return self._ids_indexed and self._load_task is not None and self._load_task.done()

    def _load(self) -> None:
        if self._load_task:
            self._load_task.cancel()
        self._next = None
        self._load_task = asyncio.create_task(self._run_load())

    async def _run_load(self) -> None:
        busy = 0
        while True:
            try:
                if await self._read_log():
                    return
            except DatabaseUnavailable as error:
                self._log.warning("known_deliveries.load_failed", error=str(error))
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                busy += 1
                await asyncio.sleep(_BUSY_RETRY.pause_s(busy))

    async def _read_log(self) -> bool:
        """Load the filter unless the log is too long; return False if that is not known."""
        started_at = perf_counter()
        self._ids_indexed = await self._logged_ids.are_indexed()
        if self._ids_indexed:
            count = await self._logged_ids.estimated_count()
            windows = _windows(count)
            capacity = 2 * count
        else:
            counted = await self._logged_ids.count_within(_MAX_COUNT_S)
            if counted is None or counted > _MAX_SCANNED:
                reason = "the database reads ids by a full scan, and the log is long"
                self._log.info("known_deliveries.not_loaded", reason=reason)
                return counted is not None
            windows = iter([(None, None)])
            capacity = _SCANNED_CAPACITY
        # From here on `add` fills it too. What was added before is open, or the log has it already.
        loading = self._next = DeliveryFilter(capacity)
        for delivery_id in self._open_ids():
            loading.add(delivery_id)
        for low, high in windows:
            window_at = perf_counter()
            for delivery_id in await self._logged_ids.between(low, high):
                loading.add(delivery_id)
            await asyncio.sleep((perf_counter() - window_at) * _REST_FACTOR)
        self._filter, self._next = loading, None
        seconds = round(perf_counter() - started_at, 1)
        self._log.info("known_deliveries.loaded", ids=loading.count, seconds=seconds)
        return True


def _hashes(delivery_id: str) -> tuple[int, int]:
    """Return the first position of an id and the distance of the others."""
    digest = blake2b(delivery_id.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8]), int.from_bytes(digest[8:]) | 1


def _windows(count: int) -> Iterator[tuple[str | None, str | None]]:
    """Yield ranges of ids that cover all strings; derived ids are equally distributed over them."""
    digits = 0
    while count >> (4 * digits) > _WINDOW:
        digits += 1
    bounds = [f"dlv_{number:0{digits}x}" for number in range(1, 16**digits)] if digits else []
    yield from zip([None, *bounds], [*bounds, None], strict=True)
