"""Telegram's Bot API, strict: it refuses what Telegram refuses, and has a state that people act on.

https://core.telegram.org/bots/api; from memory: the texts of most errors. Give `hosts` to `ProviderHosts`
(with `max_body=MAX_REQUEST` when large files are uploaded). Text with `parse_mode`, parameters that a method
does not have and other faults of a client that Telegram would let pass stand in `complaints`.

- Bots get updates at their webhook, or by getUpdates, of what `People` do here.
- `fail(...)` makes the next calls fail. `ProviderHosts.take_down` refuses connections.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import unquote

from tests.support.fakes.ranges import file_reply
from tests.support.fakes.telegram_chats import ChatMethods
from tests.support.fakes.telegram_messages import MessageMethods
from tests.support.fakes.telegram_model import Refusal
from tests.support.fakes.telegram_params import Params
from tests.support.fakes.telegram_people import Bot, People
from tests.support.provider_hosts import Handler, HostRequest, Reply

HOST: Final = "api.telegram.org"
MAX_UPLOAD: Final = 50 * 1024 * 1024
MAX_REQUEST: Final = MAX_UPLOAD + 1024 * 1024
"""What a server of the test has to read, in bytes, so that this one can refuse it."""
_TOKEN: Final = re.compile(r"\d+:[A-Za-z0-9_-]{30,}")


@dataclass(frozen=True)
class Fault:
    """What happens to a call: a delay, then an error instead of its effect, or a lost response after it.

    `method` limits it to one method. `code` is 0 for none; with `loses_response`, it is answered after the
    effect.
    """

    code: int = 0
    retry_after: int = 0
    delay_s: float = 0
    loses_response: bool = False
    method: str = ""

    def reply(self) -> Reply:
        """The error."""
        if self.code == 429:
            wait = self.retry_after
            refusal = Refusal(429, f"Too Many Requests: retry after {wait}", {"retry_after": wait})
            return Reply.json(refusal.envelope(), 429)
        if self.code in (200, 502):
            return Reply.html("<h1>a page of a proxy</h1>", self.code)
        return Reply.json(Refusal(self.code, "Internal Server Error").envelope(), self.code)


class TelegramApi(People):
    """The whole service; `calls` are the methods that were called with known tokens, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.chat_methods = ChatMethods(self)
        self.message_methods = MessageMethods(self)
        self.max_upload = MAX_UPLOAD
        self.calls: list[str] = []
        self._faults: list[Fault] = []
        self._table = {**self.chat_methods.table, **self.message_methods.table}
        self.hosts: Mapping[str, Handler] = {HOST: self.handle}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fail(self, *faults: Fault) -> None:
        """Let the next calls fail, each by the first fault that is of its method."""
        with self.lock:
            self._faults.extend(faults)

    @property
    def pending_faults(self) -> int:
        """The number of faults that no call has met yet."""
        return len(self._faults)

    def handle(self, request: HostRequest) -> Reply:
        """Answer one request."""
        path = unquote(request.path)
        if path.startswith("/file/bot"):
            return self._download(path.removeprefix("/file/bot"), request)
        token, _, name = path.removeprefix("/bot").partition("/")
        try:
            bot = self._bot(path, token)
            fault = self._fault(name)
            if fault.delay_s:
                time.sleep(fault.delay_s)
            if fault.code and not fault.loses_response:
                return fault.reply()
            result = self._call(bot, name, request)
        except Refusal as refusal:
            return Reply.json(refusal.envelope(), refusal.code)
        if fault.loses_response:
            return fault.reply() if fault.code else Reply.gone()
        return Reply.json({"ok": True, "result": result})

    def _bot(self, path: str, token: str) -> Bot:
        if not path.startswith("/bot") or not _TOKEN.fullmatch(token):
            raise Refusal(404, "Not Found")
        for bot in self.bots:
            if bot.token == token:
                return bot
        raise Refusal(401, "Unauthorized")

    def _fault(self, name: str) -> Fault:
        with self.lock:
            for fault in self._faults:
                if fault.method.lower() in {"", name.lower()}:
                    self._faults.remove(fault)
                    return fault
        return Fault()

    def _call(self, bot: Bot, name: str, request: HostRequest) -> Any:
        if request.method not in {"GET", "POST"}:
            raise Refusal(405, "Method Not Allowed")
        if len(request.body) > self.max_upload:
            raise Refusal(413, "Request Entity Too Large")
        if name.lower() not in self._table:
            raise Refusal(404, "Not Found: method not found")
        method, accepted = self._table[name.lower()]
        params = Params.of(request)
        with self.lock:
            self.calls.append(name)
            unknown = params.values.keys() - set(accepted.split())
            self.complaints.extend(f"{name} has no parameter {one}" for one in sorted(unknown))
            if "parse_mode" in unknown:
                raise Refusal.bad("parse_mode is not used here: send entities")
            return method(bot, params)

    def _download(self, rest: str, request: HostRequest) -> Reply:
        token, _, path = rest.partition("/")
        try:
            self._bot(f"/bot{token}", token)
            content = self.chat_methods.downloaded(path)
        except Refusal as refusal:
            return Reply.json(refusal.envelope(), refusal.code)
        return file_reply(request, content, "application/octet-stream")
