"""The cost of many viewers of the overview, when they see an event, and the first paint in a browser."""

import asyncio
import json
from contextlib import AsyncExitStack
from secrets import token_hex
from statistics import median
from time import monotonic
from typing import Any, Final

import aiohttp

from bench.machine import cpu_seconds
from bench.system import System
from services.console.live.streams import MAX_OF_SESSION
from tests.console.person import Person
from tests.support.browser import CHROMIUM, browser

SIGN_IN: Final = "/console/sign-in"
_MEMBERS: Final = 4
"""Keys among which the sessions are divided: a member may have 50 streams."""
_PUBLISH_INTERVAL_S: Final = 1.0
_SEEN_TIMEOUT_S: Final = 20.0
_SETTLE_S: Final = 2.0
_LOOK_S: Final = 0.05
_PAINT = """(() => {
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    if (!paint || document.readyState !== "complete") return null;
    const loads = ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
    return [paint.startTime, loads.reduce((sum, load) => sum + load.transferSize, 0)];
})()"""


def viewers(hub: System, count: int, seconds: float) -> dict[str, Any]:
    """Return what `count` open overviews cost each service, in shares of a core, and when they see an event.

    An event a second is published meanwhile, and in the time before, without viewers.
    """
    people = [Person(hub.url("console")) for _ in range(-(-count // MAX_OF_SESSION))]
    keys = [
        hub.call("POST", "/api/api-keys", {"name": f"viewer {number}", "scopes": ["admin"]}, expect=201)[
            "key"
        ]
        for number in range(_MEMBERS)
    ]
    for number, person in enumerate(people):
        person.sign_in(keys[number % _MEMBERS])
    cookies = [
        "; ".join(f"{name}={value}" for name, value in person.client.cookies.items()) for person in people
    ]
    alone, _, _ = asyncio.run(_watch(hub, [], seconds))
    cookies = [cookie for cookie in cookies for _ in range(MAX_OF_SESSION)][:count]
    beside, seen_s, first_s = asyncio.run(_watch(hub, cookies, seconds))
    return {
        "viewers": count,
        "core_percent": {name: 100 * (beside[name] - alone[name]) / seconds for name in beside},
        "seen_p50_s": median(seen_s),
        "seen_max_s": max(seen_s),
        "first_seen_s": first_s,
    }


async def _watch(
    hub: System, cookies: list[str], seconds: float
) -> tuple[dict[str, float], list[float], float]:
    """Return the CPU of each service while streams are open, and after how long a stream had each event.

    The last value is how long the first event after the streams were opened took.
    """
    seen_s: list[float] = []
    published: dict[str, float] = {}

    async def read(response: aiohttp.ClientResponse, *, counts: bool) -> None:
        async for line in response.content:
            if counts:
                for kind in [kind for kind in published if kind.encode() in line]:
                    seen_s.append(monotonic() - published.pop(kind))

    async def publish(session: aiohttp.ClientSession) -> None:
        kind = f"bench.{token_hex(4)}"
        event = {"specversion": "1.0", "id": kind, "source": "bench", "type": kind, "data": {}}
        published[kind] = monotonic()
        async with session.post(
            f"{hub.url('gateway')}/api/events",
            data=json.dumps(event),
            headers={"authorization": f"Bearer {hub.admin_key}", "content-type": "application/json"},
        ) as answer:
            answer.raise_for_status()

    async def until_seen() -> float:
        started = monotonic()
        for _ in range(int(_SEEN_TIMEOUT_S / _LOOK_S) if cookies else 0):
            if not published:
                break
            await asyncio.sleep(_LOOK_S)
        return monotonic() - started

    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=2**22)
        )
        readers = []
        for number, cookie in enumerate(cookies):
            response = await stack.enter_async_context(
                session.get(f"{hub.url('console')}/console/live", headers={"cookie": cookie})
            )
            response.raise_for_status()
            readers.append(asyncio.create_task(read(response, counts=number == 0)))
        # The console begins to read events when its first viewer comes.
        await publish(session)
        first_s = await until_seen()
        await asyncio.sleep(_SETTLE_S)
        seen_s.clear()
        before = {name: cpu_seconds(hub.pid(name)) for name in hub.services}
        ends = monotonic() + seconds
        while monotonic() < ends:
            await publish(session)
            await asyncio.sleep(_PUBLISH_INTERVAL_S)
        used = {name: cpu_seconds(hub.pid(name)) - before[name] for name in before}
        await until_seen()
        seen_s += [_SEEN_TIMEOUT_S] * (len(published) if cookies else 0)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return used, seen_s, first_s


def first_paint(hub: System, paths: list[str], repeats: int) -> dict[str, Any] | None:
    """Return the first contentful paint in ms and the bytes of each page with an empty cache.

    None without a Chromium.
    """
    if not CHROMIUM:
        return None
    person = Person(hub.url("console"))
    person.sign_in(hub.admin_key)
    cookies = [
        {"name": name, "value": value, "url": person.base} for name, value in person.client.cookies.items()
    ]

    async def paint() -> dict[str, list[list[float]]]:
        found: dict[str, list[list[float]]] = {path: [] for path in paths}
        async with browser() as started:
            for path in paths * repeats:
                async with started.user() as tab:  # a profile of its own: nothing is in its cache
                    if path != SIGN_IN:
                        await tab.call("Network.setCookies", cookies=cookies)
                    await tab.goto(person.base + path)
                    found[path].append(await tab.until(_PAINT))
        return found

    return {
        path: {"paint_ms": median(ms for ms, _ in times), "bytes": max(size for _, size in times)}
        for path, times in asyncio.run(paint()).items()
    }
