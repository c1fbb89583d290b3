"""A headless Chromium, driven over its DevTools protocol: enough to open a page and ask it things."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp

CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_START_S: Final = 30.0


class Tab:
    """One page. `evaluate` runs JavaScript in it and returns its JSON value."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        """What the page's console and the browser's security policy complained about."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while True:
            answer = json.loads(await self._socket.receive_str())
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                return dict(answer["result"])
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(json.dumps(answer["params"]))

    async def evaluate(self, script: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str, within_s: float = 10.0) -> Any:
        """The script's value as soon as it is true."""
        async with asyncio.timeout(within_s):
            while not (value := await self.evaluate(script)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return value


@contextlib.asynccontextmanager
async def opened(url: str, *, width: int = 1100, height: int = 850) -> AsyncIterator[Tab]:
    """A tab that shows this page."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220
            [
                *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"),
                *(f"--window-size={width},{height}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    targets = await answer.json()
                page = next(target for target in targets if target["type"] == "page")
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    for domain in ("Runtime", "Log", "Page"):
                        await tab.call(f"{domain}.enable")
                    await tab.call("Page.navigate", url=url)
                    await tab.until("location.href !== 'about:blank' && document.readyState === 'complete'")
                    yield tab
        finally:
            process.kill()
            process.wait()


async def _port(file: Path) -> int:
    async with asyncio.timeout(_START_S):
        while not file.exists() or not file.read_text().strip():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])  # noqa: ASYNC240
