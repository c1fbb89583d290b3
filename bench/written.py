"""Measure what deliveries store in the database: rows, BSON bytes, and the bytes written to disk."""

from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Final

import psutil
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.statistics import STATISTICS

_SAMPLE_SIZE: Final = 2_000


@dataclass(frozen=True)
class Written:
    """Sizes per delivery, and the number of statistics rows.

    There is a statistics row for each webhook and hour, and one for each workspace. `bson_bytes` is the size
    of a delivery's document, of which `body_bytes` are the request's body. `index_bytes` is as the database
    reports it, `disk_bytes` is what its process wrote, including the journal. None if it is not known.
    `cpu_us` is the CPU time of its process, user and system, in microseconds.
    """

    rows: float
    bson_bytes: float
    body_bytes: float
    statistics_rows: int
    statistics_bytes: float
    index_bytes: float | None
    disk_bytes: float | None
    cpu_us: float

    @property
    def description(self) -> str:
        parts = [
            f"{self.cpu_us:,.0f} us of the database's CPU per delivery",
            f"{self.rows:.2f} rows per delivery",
            f"{self.bson_bytes:,.0f} bytes of BSON, of them {self.body_bytes:,.0f} the body",
            f"{self.statistics_rows} rows of statistics, {self.statistics_bytes:,.1f} bytes per delivery",
        ]
        if self.index_bytes is not None:
            parts.append(f"indexes {self.index_bytes:,.0f} bytes per delivery")
        if self.disk_bytes is not None:
            parts.append(f"written to disk by the database {self.disk_bytes:,.0f} bytes per delivery")
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def written(uri: str, deliveries: int, *, cpu_us: float, disk_bytes: float | None) -> Written:
    """Measure a database that holds only these deliveries. Sizes are means of the latest 2,000.

    `cpu_us` and `disk_bytes` were measured by the caller while they were made.
    """
    with MongoClient[RawBSONDocument](uri, document_class=RawBSONDocument) as client:
        database = client.get_default_database()
        log, statistics = database[DELIVERIES], database[STATISTICS]
        rows = log.count_documents({})
        latest = list(log.find().sort("created_at", -1).limit(_SAMPLE_SIZE))
        hours = list(statistics.find())
        index_bytes = _index_bytes(client, database.name)
    return Written(
        rows=rows / deliveries,
        bson_bytes=mean(len(document.raw) for document in latest),
        body_bytes=mean(len(document["body"]) for document in latest),
        statistics_rows=len(hours),
        statistics_bytes=sum(len(hour.raw) for hour in hours) / deliveries,
        index_bytes=None if index_bytes is None else index_bytes / deliveries,
        disk_bytes=disk_bytes,
        cpu_us=cpu_us,
    )


def _index_bytes(client: MongoClient[RawBSONDocument], database: str) -> float | None:
    try:
        answer = client[database].command({"collStats": DELIVERIES})
    except OperationFailure:
        return None
    return float(answer["totalIndexSize"]) if "totalIndexSize" in answer else None


def bytes_to_disk(pid: int) -> int:
    """Return what a process wrote to disk; 0 if the kernel does not say it, or if the disk is memory."""
    try:
        return int(psutil.Process(pid).io_counters().write_bytes)  # not on every platform
    except (AttributeError, psutil.Error):
        return 0
