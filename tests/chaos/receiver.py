"""A receiver outside the hub: what it says 200 to is on the disk before it says so.

`python -m tests.chaos.receiver JOURNAL`, until its input ends; its first line of output is its port. One in
50 deliveries to `/any` gets a 503 at its first request.
"""

import asyncio
import re
import sys
from pathlib import Path
from typing import Final
from zlib import crc32

from aiohttp import web

from tests.chaos.journal import SyncedJournal

_NAME: Final = re.compile(rb'"chaos": ?"(\d+)\.(\d+)"')
_REFUSE_ONE_IN: Final = 50


class Receiver:
    """Answers 200 to what is journalled as taken, and 503 to what it refuses."""

    def __init__(self, journal: SyncedJournal) -> None:
        self._journal = journal
        self._refused: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        """Take one POST."""
        found = _NAME.search(await request.read())
        assert found, "a delivery of another load"
        path, delivery = request.path.strip("/"), request.headers["webhook-id"]
        if path == "any" and crc32(delivery.encode()) % _REFUSE_ONE_IN == 0 and delivery not in self._refused:
            self._refused.add(delivery)
            return web.Response(status=503)
        self._refused.discard(delivery)
        await self._journal.write("taken", path=path, conversation=int(found[1]), number=int(found[2]))
        return web.Response()


async def main(journal: Path) -> None:
    """Serve until the input ends."""
    app = web.Application()
    app.router.add_post("/{path}", Receiver(SyncedJournal(journal)).take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
