"""Slack and Telegram behind TLS, as the hub finds them: part of the helper process `bench.providers`.

The strict servers of `tests/support/fakes` check every field of a call and keep every message. At hundreds of
calls a second that takes more CPU than the hub under test. These check what a provider refuses a call for:
method, token, that the account is in the conversation, the type and the required fields of the body, the
length of the text. Whatever they refuse is a complaint, and fails the stage. Slack reports to its app what
the app has sent, as the real one does. Both are found through an HTTP proxy, by CONNECT.
"""

import asyncio
import json
import re
import ssl
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import count
from time import monotonic_ns, time
from typing import Any, Final
from urllib.parse import parse_qsl

from bench.conversations import (
    BASELINE,
    HOSTS,
    PERSON,
    Conversations,
    encoded,
    number_of_channel,
    number_of_group,
    slack_app_bot,
    slack_app_user,
    slack_echo,
    slack_token,
    telegram_token,
    timestamp,
)
from bench.framing import message_ends

SENT: Final = re.compile(rb"(([0-9a-f]{16})-[0-9a-f]{6})!")
"""The mark of a message of the bench: when it was due, in monotonic nanoseconds, and its number."""
_HEADER: Final = re.compile(rb"(?i)\r\n([a-z-]+): *([^\r]*)")
_MAX_TEXT: Final = 4096
_TELEGRAM: Final = re.compile(r"/bot([0-9]+):([A-Za-z0-9_-]+)/([A-Za-z]+)")


class ProvidersState:
    """The state of the providers, and the requests since the last reset."""

    def __init__(self) -> None:
        self.conversations = Conversations(1, 1)
        self.hooks: dict[str, dict[str, str]] = {}
        """Address and secret of the webhook of each bot."""
        self.refused: dict[str, str] = {}
        """Channels of Slack that refuse messages, and how: `ratelimited`, or another error of Slack."""
        self.complaints: Counter[str] = Counter()
        self.message_ids = count(1)
        self.report: Callable[[str, bytes], None] = lambda _team, _body: None
        """Reports to the app in a workspace of Slack what the app has sent."""
        self.reset()

    def reset(self) -> None:
        self.seen: set[bytes] = set()
        self.ages = array("q")
        self.chat_ages = array("q")
        self.calls = self.refusals = 0
        self.first_ns = self.last_ns = 0

    def note(self, body: bytes) -> None:
        """Record the age of the message in a call."""
        now_ns = monotonic_ns()
        self.calls += 1
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
        if found := SENT.search(body):
            if found[1] in self.seen:
                self.complaints["a message came twice"] += 1
            self.seen.add(found[1])
            self.ages.append(now_ns - int(found[2], 16))


state = ProvidersState()
_tasks: set[asyncio.Task[Any]] = set()


class _Refused(Exception):
    """The provider refuses a call with this answer."""

    def __init__(self, status: int, body: dict[str, Any], headers: str = "") -> None:
        super().__init__()
        self.answer = (status, body, headers)


class Proxy(asyncio.Protocol):
    """The proxy's side of a connection until CONNECT."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if b"\r\n\r\n" not in self._buffer:
            return
        method, target = self._buffer.split(b" ", 2)[:2]
        host = target.decode().removesuffix(":443")
        if method != b"CONNECT" or host not in HOSTS:
            state.complaints[f"the proxy was asked for {method.decode()} {host}"] += 1
            self._transport.close()
            return
        self._transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        keep(self._encrypt(host))

    async def _encrypt(self, host: str) -> None:
        protocol, loop = _Api(host), asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, protocol, self._tls, server_side=True)
        except (OSError, ssl.SSLError):
            return
        if transport is not None:
            protocol.connection_made(transport)


class _Api(asyncio.Protocol):
    """One connection to a provider's API."""

    def __init__(self, host: str) -> None:
        self._handle = _slack if host == "slack.com" else _telegram
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while ends := message_ends(self._buffer):
            head, body = self._buffer[: ends[0]], self._buffer[ends[0] + 4 : ends[1]]
            self._buffer = self._buffer[ends[1] :]
            method, target = head.split(b" ", 2)[:2]
            headers = {name.lower(): value.decode("latin-1") for name, value in _HEADER.findall(head)}
            path, _, query = target.decode().partition("?")
            status, fields = 200, ""
            try:
                document = self._handle(method.decode(), path, query, headers, body)
            except _Refused as refused:
                status, document, fields = refused.answer
            except (ValueError, KeyError, TypeError) as error:
                state.complaints[f"{path}: {error!r}"] += 1
                status, document = 400, {"ok": False, "error": "invalid_arguments"}
            content = encoded(document)
            fields = f"{fields}content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
            self._transport.write(b"HTTP/1.1 %d OK\r\n%b%b" % (status, fields.encode(), content))


def _slack(method: str, path: str, query: str, headers: dict[bytes, str], body: bytes) -> dict[str, Any]:
    name = path.removeprefix("/api/")
    if name == "oauth.v2.access":
        return _slack_authorized(*dict(parse_qsl(body.decode()))["code"].split(":", 1))
    team = headers.get(b"authorization", "").removeprefix("Bearer xoxb-bench-")
    if headers.get(b"authorization") != f"Bearer {slack_token(team)}":
        return _complain(f"slack: {name}: invalid_auth", {"ok": False, "error": "invalid_auth"})
    if name == "chat.postMessage" and method == "POST":
        return _post_message(team, headers, body)
    if name == "auth.test":
        names = {
            "team": team,
            "team_id": team,
            "user_id": slack_app_user(team),
            "bot_id": slack_app_bot(team),
        }
        return {"ok": True, "url": f"https://{team.lower()}.slack.com/", "user": "interlink", **names}
    if name == "users.info":
        user = dict(parse_qsl(query))["user"]
        profile = {"real_name": "Ada Example", "display_name": "Ada"}
        return {
            "ok": True,
            "user": {"id": user, "team_id": team, "is_bot": user != PERSON, "profile": profile},
        }
    return _complain(f"slack: {method} {name}", {"ok": False, "error": "unknown_method"})


def _slack_authorized(team: str, scope: str) -> dict[str, Any]:
    """Return the token for a code, which is the workspace and the scopes: nobody is asked."""
    return {
        "ok": True,
        "access_token": slack_token(team),
        "token_type": "bot",
        "scope": scope,
        "app_id": "A00000001",
        "bot_user_id": slack_app_user(team),
        "team": {"id": team, "name": team},
        "enterprise": None,
        "is_enterprise_install": False,
        "authed_user": {"id": PERSON},
    }


def _post_message(team: str, headers: dict[bytes, str], body: bytes) -> dict[str, Any]:
    if not headers[b"content-type"].startswith("application/json"):
        return _complain("slack: not JSON", {"ok": False, "error": "invalid_form_data"})
    call = json.loads(body)
    channel_id = call["channel"]
    if state.conversations.team(number_of_channel(channel_id)) != team:
        return _complain("slack: the app is not there", {"ok": False, "error": "channel_not_found"})
    if refusal := state.refused.get(channel_id):
        state.refusals += 1
        failed = {"ok": False, "error": refusal}
        if refusal == "ratelimited":
            raise _Refused(429, failed, "retry-after: 1\r\n")
        return failed
    block = call["blocks"][0]
    if block["type"] != "rich_text" or not block["block_id"] or not call["text"]:
        return _complain("slack: invalid_blocks", {"ok": False, "error": "invalid_blocks"})
    if len(call["text"]) > _MAX_TEXT:
        return _complain("slack: msg_too_long", {"ok": False, "error": "msg_too_long"})
    at = timestamp()
    state.note(body)
    if block["block_id"] != BASELINE:
        state.report(team, encoded(slack_echo(team, channel_id, at, call)))
    message = {"type": "message", "ts": at, "bot_id": slack_app_bot(team), "text": call["text"]}
    return {"ok": True, "channel": channel_id, "ts": at, "message": message}


def _telegram(method: str, path: str, query: str, headers: dict[bytes, str], body: bytes) -> dict[str, Any]:
    del query
    asked = _TELEGRAM.fullmatch(path)
    if asked is None or telegram_token(asked[1]) != f"{asked[1]}:{asked[2]}":
        return _complain(f"telegram: {path}", {"ok": False, "error_code": 401, "description": "Unauthorized"})
    bot, name = asked[1], asked[3]
    call = json.loads(body) if body and headers[b"content-type"].startswith("application/json") else {}
    if name == "getMe":
        user = {"id": int(bot), "is_bot": True, "first_name": "Interlink", "username": f"bench_{bot}_bot"}
        return {"ok": True, "result": user | {"can_join_groups": True, "can_read_all_group_messages": True}}
    if name == "setWebhook":
        state.hooks[bot] = {"url": call["url"], "secret": call["secret_token"]}
        return {"ok": True, "result": True, "description": "Webhook was set"}
    if name == "deleteWebhook":
        return {"ok": True, "result": True, "description": "Webhook was deleted"}
    if name != "sendMessage" or method != "POST":
        failed = {"ok": False, "error_code": 404, "description": "Not Found"}
        return _complain(f"telegram: {method} {name}", failed)
    chat_id, text = call["chat_id"], call["text"]
    if not isinstance(chat_id, int) or state.conversations.bot(number_of_group(chat_id)) != bot:
        failed = {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
        return _complain("telegram: the bot is not there", failed)
    units = len(text.encode("utf-16-le")) // 2
    ends = [entity["offset"] + entity["length"] for entity in call.get("entities", ())]
    if not 0 < units <= _MAX_TEXT or max(ends, default=0) > units:
        failed = {"ok": False, "error_code": 400, "description": "Bad Request: message is too long"}
        return _complain("telegram: the text", failed)
    state.note(body)
    chat = {"id": chat_id, "type": "supergroup", "title": "Example"}
    message = {"message_id": 10_000_000 + next(state.message_ids), "date": int(time()), "chat": chat}
    return {"ok": True, "result": message | {"text": text}}


def _complain(what: str, document: dict[str, Any]) -> dict[str, Any]:
    state.complaints[what] += 1
    return document


def keep(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run a coroutine aside: the event loop holds only weak references."""
    task = asyncio.create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task
