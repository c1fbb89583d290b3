"""The baseline of the importer, a helper process: `zipfile` and `orjson` read an export, and nothing else."""

import asyncio
import zipfile
from time import monotonic, process_time
from typing import Any

import orjson

from bench.remote import answer


async def read(path: str) -> dict[str, Any]:
    """Decompress and parse each file of an export; return how many records, and the seconds of CPU."""
    started, began = process_time(), monotonic()
    records = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            records += len(orjson.loads(archive.read(name)))
    return {"records": records, "cpu_s": process_time() - started, "seconds": monotonic() - began}


if __name__ == "__main__":
    asyncio.run(answer({"read": read}))
