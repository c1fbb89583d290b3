"""A provider outside the hub: it signs webhooks, sends them, and repeats what was not acknowledged.

`python -m tests.chaos.provider JOURNAL ENDPOINTS RATE`. ENDPOINTS is a JSON file with a path, a secret and an
event for each conversation; RATE is webhooks a second of all. Each line of its input is a JSON list of the
addresses to send to, as the members of a load balancer; its end ends the load. Before a webhook goes out, its
`intent` is on the disk; after a 2xx, `acknowledged`; after anything else, `failed` with the reason, and the
same webhook follows at the next address, under the same delivery id, as providers do. The webhooks of a
conversation follow one another, so that they have an order.
"""

import argparse
import asyncio
import json
import sys
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final

import aiohttp
import orjson

from tests.chaos.journal import SyncedJournal
from tests.support.github import signed

CONVERSATIONS: Final = 16
_ANSWER_S: Final = 10.0
_PAUSE_S: Final = 0.2
_PADDING: Final = "x" * 1000


class Provider:
    """Sends until `over` is set."""

    def __init__(self, journal: SyncedJournal, http: aiohttp.ClientSession, every_s: float) -> None:
        self._journal = journal
        self._http = http
        self._every_s = every_s
        self._turn = count()
        self.addresses: list[str] = []
        self.over = asyncio.Event()

    async def converse(self, conversation: int, endpoint: dict[str, str]) -> None:
        """Send the webhooks 1, 2, 3, ... of a conversation."""
        due = monotonic() + conversation * self._every_s / CONVERSATIONS
        await asyncio.sleep(due - monotonic())
        for number in count(1):
            if self.over.is_set():
                return
            await self._send(conversation, number, endpoint)
            due = max(due + self._every_s, monotonic())  # an outage is not made up for by a burst
            await asyncio.sleep(due - monotonic())

    async def _send(self, conversation: int, number: int, endpoint: dict[str, str]) -> None:
        name = f"{conversation}.{number}"
        body = orjson.dumps({"chaos": name, "padding": _PADDING})
        headers = signed(endpoint["secret"], endpoint["event"], body, delivery=f"chaos-{name}")
        await self._journal.write("intent", conversation=conversation, number=number)
        while True:
            address = self.addresses[next(self._turn) % len(self.addresses)]
            reason = await self._post(address + endpoint["path"], body, headers)
            if not reason:
                return await self._journal.write("acknowledged", conversation=conversation, number=number)
            await self._journal.write("failed", conversation=conversation, number=number, reason=reason)
            if self.over.is_set():
                return None  # of unknown fate
            await asyncio.sleep(_PAUSE_S)

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> str:
        """Post once; return the reason of a failure, or nothing."""
        try:
            async with self._http.post(url, data=body, headers=headers) as answer:
                return "" if answer.ok else str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__


async def main(journal: Path, endpoints: list[dict[str, str]], rate: float) -> None:
    """Send until the input ends."""
    lines = asyncio.StreamReader()
    protocol: Any = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        provider = Provider(SyncedJournal(journal), http, len(endpoints) / rate)
        provider.addresses = json.loads(await lines.readline())
        async with asyncio.TaskGroup() as conversations:
            for number, endpoint in enumerate(endpoints):
                conversations.create_task(provider.converse(number, endpoint))
            while line := await lines.readline():
                provider.addresses = json.loads(line)
            provider.over.set()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("journal", type=Path)
    arguments.add_argument("endpoints", type=Path)
    arguments.add_argument("rate", type=float)
    given = arguments.parse_args()
    asyncio.run(main(given.journal, json.loads(given.endpoints.read_text("utf-8")), given.rate))
