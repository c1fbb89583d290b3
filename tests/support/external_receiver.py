"""A receiver of somebody else: what it says 200 to is in its journal before it says so.

`python -m tests.support.external_receiver JOURNAL --refuse flaky=10`, until its input ends; its first line of
output is its port. It listens for POST on every path and journals path, event, delivery and its answer. With
`--refuse flaky=10` about one in ten deliveries to `/flaky` gets 503 at its first request.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import orjson
from aiohttp import web

from tests.support.journal import Journal


class Receiver:
    """Answers 200 to what is journalled as taken, 503 to what is journalled as refused."""

    def __init__(self, journal: Journal, refuse: Mapping[str, int]) -> None:
        self._journal = journal
        self._refuse = refuse
        self._refused: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        """One POST. The answer's status is on disk before it is sent."""
        to, delivery = request.path.strip("/"), request.headers["webhook-id"]
        event = orjson.loads(await request.read())["id"]
        status = 503 if self._refuses(to, delivery) else 200
        self._journal.write("answer", to=to, event=event, delivery=delivery, status=status)
        return web.Response(status=status)

    def _refuses(self, to: str, delivery: str) -> bool:
        one_in = self._refuse.get(to)
        if not one_in or crc32(delivery.encode()) % one_in or delivery in self._refused:
            return False
        self._refused.add(delivery)
        return True


async def main(journal: Path, refuse: Mapping[str, int]) -> None:
    """Serve until the input ends."""
    app = web.Application()
    app.router.add_post("/{path:.*}", Receiver(Journal(journal), refuse).take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    await runner.cleanup()


def _share(text: str) -> tuple[str, int]:
    path, _, one_in = text.partition("=")
    return path, int(one_in)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("journal", type=Path)
    arguments.add_argument("--refuse", type=_share, nargs="*", default=[], metavar="PATH=N")
    given = arguments.parse_args()
    asyncio.run(main(given.journal, dict(given.refuse)))
