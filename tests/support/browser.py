"""A headless Chromium, driven over its DevTools protocol: pages are opened, read, filled in and clicked."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support import capture

CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_START_S: Final = 30.0
_LOOK_S: Final = 0.05
_WITHIN_S: Final = 60.0
_QUIET: Final = (
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-features=AutofillServerCommunication",
)
_NO_NAMES: Final = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
"""Names are the proxy's business."""
_WHERE: Final = """
(() => {
  const element = document.querySelector(%s);
  if (!element || element.disabled || document.readyState === 'loading') return null;
  element.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
  const box = element.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
  const hit = document.elementFromPoint(x, y);
  return hit && (hit === element || element.contains(hit)) ? [x, y] : null;
})()
"""


_BETWEEN_PAGES: Final = ("context", "navigated")
"""What the browser's errors speak of when a page was just left."""


class ScriptFailed(AssertionError):
    """A script threw in the page, or the page was left before it could run."""


_KEYS: Final = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " ")}
"""Keys by their code names: the key's number, and the text that it enters."""


class Tab:
    """One page. `evaluate` runs JavaScript in it and returns its JSON value.

    What waits fails with the page's address and text when it has waited `within_s` seconds for nothing.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        """What the page's console and the browser's security policy complained about."""
        self._methods: dict[str, str] = {}
        """The methods of requests, by their id."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while True:
            answer = json.loads(await self._socket.receive_str())
            if answer.get("id") == self._calls:
                if (error := answer.get("error")) is None:
                    return dict(answer["result"])
                raise (ScriptFailed if _is_between_pages(error) else AssertionError)(f"{method}: {error}")
            self._happened(answer.get("method", ""), answer.get("params", {}))

    def _happened(self, what: str, params: dict[str, Any]) -> None:
        if what in ("Log.entryAdded", "Runtime.exceptionThrown"):
            if not params.get("entry", {}).get("url", "").endswith("/favicon.ico"):  # its own idea
                self.complaints.append(json.dumps(params))
        elif what == "Network.requestWillBeSent":
            # A redirect is the answer to the request before, which has the same id.
            before = self._methods.get(params["requestId"], "GET")
            _keep(params.get("redirectResponse"), method=before)
            self._methods[params["requestId"]] = params["request"]["method"]
        elif what == "Network.responseReceived":
            _keep(params["response"], method=self._methods.get(params["requestId"], "GET"))

    async def evaluate(self, script: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise ScriptFailed(result)
        return result["result"].get("value")

    async def until(self, script: str, within_s: float = _WITHIN_S) -> Any:
        """The script's value as soon as it is true."""
        return await self._until(lambda: self.evaluate(script), script, within_s)

    async def goto(self, url: str) -> None:
        """Open a URL, and wait until what it leads to is there; fails when it cannot be opened."""
        gone = await self.call("Page.navigate", url=url)
        assert not gone.get("errorText"), f"{url}: {gone['errorText']}"
        await self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    async def reload(self) -> None:
        """Open the page again."""
        await self.goto(await self.url())

    async def url(self) -> str:
        """Where the page is now."""
        return str(await self.until("location.href"))

    async def at(self, pattern: str, within_s: float = _WITHIN_S) -> str:
        """The page's URL, as soon as it is read and a part of its URL matches the regular expression."""

        async def look() -> str | None:
            ready, url = await self.evaluate("[document.readyState === 'complete', location.href]")
            return str(url) if ready and re.search(pattern, url) else None

        found = str(await self._until(look, f"a URL with {pattern}", within_s))
        _keep({"url": found, "status": 200}, await self.evaluate("document.documentElement.outerHTML"))
        return found

    async def see(self, selector: str, within_s: float = _WITHIN_S) -> str:
        """The text of the first element that the selector finds, as soon as it is there to be seen.

        The page is read to its end by then: an element is there before its text is.
        """
        script = f"""(() => {{ const one = document.querySelector({json.dumps(selector)});
            const read = document.readyState !== 'loading';
            return read && one && one.checkVisibility() ? [one.innerText] : null }})()"""
        return str((await self.until(script, within_s))[0])

    async def text(self) -> str:
        """All that can be read on the page."""
        return str(await self.evaluate("document.body?.innerText ?? ''"))

    async def press(self, selector: str, within_s: float = _WITHIN_S) -> None:
        """Click with the mouse, as soon as the element can be clicked: it is there and nothing covers it."""
        x, y = await self.until(_WHERE % json.dumps(selector), within_s)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def fill(self, selector: str, text: str, within_s: float = _WITHIN_S) -> None:
        """Type a text into a field, in place of what is in it."""
        await self.press(selector, within_s)
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        await self.call("Input.insertText", text=text)

    async def key(self, name: str) -> None:
        """Press and release a key: Tab, Enter or Space."""
        code, text = _KEYS[name]
        shared = {"key": text or name, "code": name, "windowsVirtualKeyCode": code}
        kind = "keyDown" if text else "rawKeyDown"
        await self.call("Input.dispatchKeyEvent", type=kind, **shared, **({"text": text} if text else {}))
        await self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    async def tab_to(self, selector: str, within: int = 200) -> None:
        """Press Tab until an element of the selector has the focus. Fails after so many elements."""
        await self.see(selector)
        has_focus = f"document.activeElement?.matches({json.dumps(selector)})"
        for _ in range(within):
            if await self.evaluate(has_focus):
                return
            await self.key("Tab")
        raise AssertionError(f"Tab does not lead to {selector} at {await self.url()}")

    async def choose(self, selector: str, *files: Path) -> None:
        """Choose files in a field for files."""
        document = await self.call("DOM.getDocument")
        root = document["root"]["nodeId"]
        field = await self.call("DOM.querySelector", nodeId=root, selector=selector)
        await self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=field["nodeId"])

    async def cookies(self) -> list[dict[str, Any]]:
        """The cookies that the browser would send to the page's URL, with `name`, `value`, `httpOnly`, ..."""
        found = await self.call("Network.getCookies", urls=[await self.url()])
        return list(found["cookies"])

    async def _until(self, look: Callable[[], Awaitable[Any]], what: str, within_s: float) -> Any:
        failed = ""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        if value := await look():
                            return value
                    except ScriptFailed as error:  # as it does between two pages
                        failed = f"\n{error}"
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            page = await self.evaluate("location.href + '\\n' + document.body?.innerText")
            raise AssertionError(f"not within {within_s} s: {what}{failed}\n{page}") from None


class Browser:
    """A running Chromium. Every tab of `user` is a person's own: it shares no cookies with another."""

    def __init__(self, session: aiohttp.ClientSession, port: int, control: Tab, proxy: str | None) -> None:
        self._session = session
        self._port = port
        self._control = control
        # Only what people open goes through it, not what the browser itself asks of its maker's hosts.
        self._profile = {"disposeOnDetach": True} | ({} if proxy is None else {"proxyServer": proxy})

    @contextlib.asynccontextmanager
    async def user(self) -> AsyncIterator[Tab]:
        """An empty tab with a profile of its own."""
        context = await self._control.call("Target.createBrowserContext", **self._profile)
        made = await self._control.call(
            "Target.createTarget", url="about:blank", browserContextId=context["browserContextId"]
        )
        at = f"ws://127.0.0.1:{self._port}/devtools/page/{made['targetId']}"
        async with self._session.ws_connect(at, max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Runtime", "Log", "Page", "Network"):
                await tab.call(f"{domain}.enable")
            yield tab
        await self._control.call("Target.disposeBrowserContext", browserContextId=context["browserContextId"])

    @contextlib.asynccontextmanager
    async def target(self, part: str, within_s: float = _WITHIN_S) -> AsyncIterator[Tab]:
        """The window, or the frame of another site, whose address has this part, as soon as it is there."""
        found: list[str] = []
        async with asyncio.timeout(within_s):
            while not found:
                targets = (await self._control.call("Target.getTargets"))["targetInfos"]
                found = [item["targetId"] for item in targets if part in item["url"]]
                await asyncio.sleep(_LOOK_S)
        at = f"ws://127.0.0.1:{self._port}/devtools/page/{found[0]}"
        async with self._session.ws_connect(at, max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Runtime", "Log", "Page"):
                await tab.call(f"{domain}.enable")
            yield tab


@contextlib.asynccontextmanager
async def browser(
    *, width: int = 1100, height: int = 850, proxy: str | None = None, flags: Sequence[str] = ()
) -> AsyncIterator[Browser]:
    """A Chromium with a window of this size.

    `proxy` is the one of `ProviderHosts`: hosts are reached through it, their certificates are trusted,
    and loopback is reached directly. `flags` are further ones of the command line.
    """
    assert CHROMIUM
    through = () if proxy is None else ("--ignore-certificate-errors", _NO_NAMES)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220
            [
                *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--remote-debugging-port=0", f"--user-data-dir={profile}", *_QUIET, *through, *flags),
                *(f"--window-size={width},{height}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port, path = await _listening(Path(profile) / "DevToolsActivePort")
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
            ):
                yield Browser(session, port, Tab(socket), proxy)
        finally:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def opened(url: str, *, width: int = 1100, height: int = 850) -> AsyncIterator[Tab]:
    """A tab that shows this page."""
    async with browser(width=width, height=height) as started, started.user() as tab:
        await tab.goto(url)
        yield tab


async def _listening(file: Path) -> tuple[int, str]:
    """The port and the path of the browser's own socket."""
    async with asyncio.timeout(_START_S):
        while not file.exists() or file.read_text().count("\n") < 1:  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(_LOOK_S)
    port, path = file.read_text().splitlines()  # noqa: ASYNC240
    return int(port), path


def _keep(response: dict[str, Any] | None, body: str = "", method: str = "GET") -> None:
    """Keep what the browser was answered, for the search for secrets."""
    if response is not None:
        headers = response.get("headers", {}).items()
        capture.save_response(method, response["url"], "", b"", response["status"], headers, body.encode())


def _is_between_pages(error: dict[str, Any]) -> bool:
    return any(word in error["message"] for word in _BETWEEN_PAGES)
