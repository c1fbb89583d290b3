"""Read a connected account: a confined process asks for requests, and parses the responses."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import orjson

from services.importer.reading.confined_process import ConfinedProcess
from services.importer.reading.protocol import Overview, conversation_of, overview_of, person_of
from services.importer.reading.reader_process import ReaderLimits
from shared.connections.channel_calls import StepResponse
from shared.manifests.channel_types import Account, Call, ChannelFailure, Person, Step
from shared.manifests.history_models import HistorySpec
from shared.manifests.history_types import (
    HistoryConversation,
    HistoryPerson,
    ObservedRate,
    Unreadable,
)

_MODULE: Final = "services.importer.reading.page_child"
_SEGMENT: Final = r"(?:[A-Za-z0-9_@.-]|%(?!2[5EF]|5C|7F|[01])[0-9A-F]{2})+"
"""A part of a path, such as an emoji. What could leave it is refused in its encoded form, too."""
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_MAX_PARAMETERS: Final = 20
_MAX_VALUE: Final = 8_192
_MAX_CURSOR: Final = 64 * 1024

Send = Callable[[Step], Awaitable[StepResponse]]


@dataclass(frozen=True, slots=True)
class PageOfLines:
    """A page of a conversation: its records as lines (`message_lines`), and the rest of `HistoryPage`."""

    lines: list[dict[str, Any]]
    next_cursor: str | None
    reached: float
    rate: ObservedRate | None


class PageProcess(ConfinedProcess):
    """A process that reads one account with its provider's `PageReader`.

    It is not trusted, because it parses responses: it can ask for GET requests below the base address of the
    API, and for nothing else. Every method raises `ChannelFailure` if the provider refuses, what sending a
    step raises, and `Unreadable` if the process died.
    """

    def __init__(self, provider: str, spec: HistorySpec, send: Send, limits: ReaderLimits) -> None:
        super().__init__(_MODULE)
        self._provider = provider
        self._spec = spec
        self._request = send
        self._limits = limits
        self._methods = {method for rate in spec.rates for method in rate.methods}
        self.newest_first = True
        """Whether pages go back in time. Known when the contents are read."""

    async def __aenter__(self) -> Self:
        limits = {"memory_bytes": self._limits.memory_bytes, "cpu_s": self._limits.cpu_s}
        await self._start(self._provider, self._spec.model_dump_json(), orjson.dumps(limits).decode())
        return self

    async def contents(self, account: Account, answers: Mapping[str, str]) -> Overview:
        """Return the contents of the account, still without people and conversations."""
        response = await self._do({"do": "contents", "account": asdict(account), "answers": answers})
        self.newest_first = response["newest_first"] is True
        return overview_of(response["contents"])

    async def people(self, cursor: str | None) -> tuple[list[HistoryPerson], str | None]:
        """Return a page of people, and the cursor of the next one."""
        response = await self._do({"do": "people", "cursor": cursor})
        return [person_of(item) for item in response["items"]], _next_cursor(response, cursor)

    async def conversations(self, cursor: str | None) -> tuple[list[HistoryConversation], str | None]:
        """Return a page of conversations, and the cursor of the next one."""
        response = await self._do({"do": "conversations", "cursor": cursor})
        return [conversation_of(item) for item in response["items"]], _next_cursor(response, cursor)

    async def use_names(
        self, users: Mapping[str, str], channels: Mapping[str, str], conversations: Mapping[str, str]
    ) -> None:
        """Set the ids and names of the chat with which the texts of all further pages are rendered.

        The names of people follow by `add_people`.
        """
        names = {"users": users, "channels": channels, "conversations": conversations}
        await self._send({"do": "names", "names": names})

    async def add_people(self, people: Sequence[Person]) -> None:
        """Add the names of some people."""
        # The texts of messages need no addresses of mail.
        items = [(person.id, person.name, person.avatar_url, None, person.bot) for person in people]
        await self._send({"do": "add_people", "people": items})

    async def page(
        self, conversation: HistoryConversation, cursor: str | None, *, since: float, until: float
    ) -> PageOfLines:
        """Return a page of a conversation."""
        command = {
            "do": "page",
            "conversation": asdict(conversation),
            "cursor": cursor,
            "since": since,
            "until": until,
        }
        response = await self._do(command)
        rate = response["rate"]
        return PageOfLines(
            lines=response["lines"],
            next_cursor=_next_cursor(response, cursor),
            reached=response["reached"],
            rate=ObservedRate(**rate) if rate else None,
        )

    async def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Have a command done, with the requests that it takes, and return its result."""
        await self._send(command)
        while "step" in (response := await self._response()):
            answer = await self._request(self._step(response["step"]))
            about = {"status": answer.status, "headers": dict(answer.headers), "size": len(answer.body)}
            await self._send(about, answer.body)
        if "failure" in response:
            raise ChannelFailure(**response["failure"])
        return response

    def _step(self, asked: Mapping[str, Any]) -> Step:
        """Return a step that the process may have done. Raises `Unreadable` for another one."""
        path, query, name = asked["path"], asked["query"], asked["name"]
        allowed = (
            asked["http"] == "GET"
            and _PATH.fullmatch(path) is not None
            and ".." not in path.split("/")
            and name in self._methods
            and len(query) <= _MAX_PARAMETERS
            and all(isinstance(value, str) and len(value) <= _MAX_VALUE for value in query.values())
        )
        if not allowed:
            raise Unreadable(f"its reader asked for {str(name)[:80]!r}, which the manifest does not name")
        return Step(Call("GET", path, query=query), method=name)


def _next_cursor(response: Mapping[str, Any], cursor: str | None) -> str | None:
    """Return the cursor of the next page. Raises `Unreadable` if it is the same again, or too long."""
    following: str | None = response["next"]
    if following is not None and (following == cursor or len(following) > _MAX_CURSOR):
        raise Unreadable("the provider sends the same page again and again: try again later")
    return following
