"""A program outside the hub that calls the APIs of services, and repeats nothing.

`python -m tests.chaos.caller JOURNAL CALLS PER_SECOND`. CALLS is a JSON list of flows: a service, headers,
and the steps, each a method, a path, a body or null, and headers; `{location}` in a path is that of the
flow's first response. Each flow is repeated, PER_SECOND times a second. Each line of the input is a JSON
object with the addresses of each service, as the members of a load balancer; its end ends the load. The
journal has each request, and the reason if it failed: any status from 400 on, or no answer.
"""

import argparse
import asyncio
import json
import sys
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from tests.support.journal import Journal

_ANSWER_S: Final = 10.0
_OUTAGE: Final = "does not answer"


class Caller:
    """Calls until `over` is set."""

    def __init__(self, journal: Journal, http: aiohttp.ClientSession, every_s: float) -> None:
        self._journal = journal
        self._http = http
        self._every_s = every_s
        self._turn = count()
        self.addresses: dict[str, list[str]] = {}
        self.over = asyncio.Event()

    async def repeat(self, flow: dict[str, Any]) -> None:
        """Run a flow again and again. One that failed begins anew."""
        while not self.over.is_set():
            pause = asyncio.create_task(asyncio.sleep(self._every_s))
            location = ""
            for method, path, body, headers in flow["steps"]:
                answer = await self._call(
                    flow["service"],
                    method,
                    path.replace("{location}", location),
                    body,
                    {**flow["headers"], **headers},
                )
                if answer is None:
                    break
                location = location or urlsplit(answer.headers.get("location", "")).path
            await pause

    async def _call(
        self, service: str, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> aiohttp.ClientResponse | None:
        """Call once; None if it failed."""
        addresses = self.addresses[service]
        url = addresses[next(self._turn) % len(addresses)] + path
        sent: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
        try:
            async with self._http.request(
                method, url, headers=headers, allow_redirects=False, **(sent if body is not None else {})
            ) as answer:
                text = await answer.text()
                reason = "" if answer.status < 400 else f"{answer.status} {text[:200]}"
                if _OUTAGE in text:  # a page of the console is there while a service is not
                    reason = _OUTAGE
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = repr(error)
        self._journal.write("failed" if reason else "called", service=service, method=method, reason=reason)
        return None if reason else answer


async def main(journal: Path, flows: list[dict[str, Any]], per_second: float) -> None:
    """Call until the input ends."""
    lines = asyncio.StreamReader()
    protocol: Any = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
        caller = Caller(Journal(journal), http, 1 / per_second)
        caller.addresses = json.loads(await lines.readline())
        async with asyncio.TaskGroup() as repeated:
            for flow in flows:
                repeated.create_task(caller.repeat(flow))
            while line := await lines.readline():
                caller.addresses = json.loads(line)
            caller.over.set()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("journal", type=Path)
    arguments.add_argument("calls", type=Path)
    arguments.add_argument("per_second", type=float)
    given = arguments.parse_args()
    asyncio.run(main(given.journal, json.loads(given.calls.read_text("utf-8")), given.per_second))
