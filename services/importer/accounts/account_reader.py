"""Read a connected account for an import: its contents, then one page after another."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from time import monotonic, time
from typing import Any, Final, Protocol, Self

from services.importer.accounts.account_calls import AccountCalls
from services.importer.accounts.walk import Walk
from services.importer.reading.confined_process import ProcessEnded
from services.importer.reading.description import describe
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.page_process import PageOfLines, PageProcess
from services.importer.reading.protocol import Overview, SourcePart
from shared.manifests.channel_types import Account, ChannelFailure, Person
from shared.manifests.history_types import (
    LATEST,
    Broken,
    Contents,
    HistoryConversation,
    HistoryPerson,
    Unit,
    Unreadable,
)
from shared.runtime.retry import Backoff

MAX_PEOPLE: Final = 200_000
MAX_CONVERSATIONS: Final = 20_000
_MAX_PAGES: Final = 2_000
_MAX_FAILURES: Final = 30
_MAX_CRASHES: Final = 2
"""After so many, a page that ends the reader process costs its conversation."""
_PAUSES: Final = Backoff(first_s=5.0, max_s=600.0)
_NAMES_AT_ONCE: Final = 1_000
_SAMPLING_S: Final = 600.0
_ENDLESS: Final = "the provider sends pages without end: import this conversation again later"


class StoredLists(Protocol):
    """The people and conversations of an account as an import has stored them."""

    def people(self) -> AsyncIterator[HistoryPerson]:
        """Yield the people."""

    def conversations(self) -> AsyncIterator[HistoryConversation]:
        """Yield the conversations, with their members."""


class AccountReader:
    """Reads one account for one import. Use it as an async context manager.

    Methods that ask the provider raise `CallWaits`, `ChannelFailure`, `Unreadable` and `DatabaseUnavailable`.
    `since` has the Unix time by conversation before which an earlier import has read everything. With
    `samples`, the first page of each conversation is read, as far as 10 minutes go.
    """

    def __init__(
        self,
        process: PageProcess,
        calls: AccountCalls,
        account: Account,
        walk: Walk,
        *,
        known: StoredLists | None,
        span: tuple[float, float],
        since: Mapping[str, float],
        samples: bool,
    ) -> None:
        self._process = process
        self._calls = calls
        self._account = account
        self._known = known
        self._span = max(span[0], 0.0), min(span[1], LATEST)
        self._since = since
        self._samples = samples
        self._samples_until = monotonic() + _SAMPLING_S
        self._overview: Overview | None = None
        self._number_of_people = 0
        self._listed: Sequence[HistoryConversation] = ()
        self._selected: Sequence[HistoryConversation] = ()
        self._walk = walk
        self.read_at = 0.0
        """The time at which the conversation of the last page was started, if this page ended it; else 0."""

    @property
    def walk(self) -> Walk:
        """The place behind the last page that was read, and the state of the calls."""
        return self._walk.model_copy(update={"limiter": self._calls.limiter.state})

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._process)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def contents(self, answers: Mapping[str, str]) -> Overview:
        """Return the contents of the account, without what is listed: see `listed`."""
        self._overview = await self._process.contents(self._account, answers)
        return self._overview

    @property
    def listed(self) -> Overview:
        """The contents with the people and conversations that were yielded until now."""
        assert self._overview is not None  # noqa: S101 -- read before
        found = self._overview
        contents = Contents(
            found.kind,
            found.provider,
            found.account,
            conversations=self._listed,
            missing=found.missing,
            choices=found.choices,
        )
        return replace(
            found,
            description=describe(contents),
            people=self._number_of_people,
            conversations=len(self._listed),
        )

    async def people(self) -> AsyncIterator[HistoryPerson]:
        """Yield the people of the account: those that are stored, or else at most 200,000 of the provider."""
        self._number_of_people = 0
        async for person in self._known.people() if self._known else self._all_people():
            self._number_of_people += 1
            yield person

    async def conversations(self) -> AsyncIterator[HistoryConversation]:
        """Yield the conversations of the account: those that are stored, or else of the provider."""
        listed: list[HistoryConversation] = []
        async for item in self._known.conversations() if self._known else self._all_conversations():
            listed.append(replace(item, members=()))  # members of all of them take too much memory
            yield item
        self._listed = listed

    async def units(self) -> AsyncIterator[Unit]:
        """Yield nothing: the units of an account are pages, of unknown number."""
        none: Sequence[Unit] = ()
        for unit in none:
            yield unit

    async def use_names(self, users: Mapping[str, str], channels: Mapping[str, str]) -> None:
        """Set the ids of the chat for people, and for the conversations that are to be read."""
        async for _ in self.conversations():
            pass
        self._selected = [item for item in self._listed if item.id in channels]
        names = {item.id: item.name for item in self._listed}
        await self._process.use_names(users, channels, names)
        people: list[Person] = []
        async for item in self.people():
            people.append(item.person)
            if len(people) == _NAMES_AT_ONCE:
                await self._process.add_people(people)
                people = []
        await self._process.add_people(people)

    async def read(self, position: int, skip: int) -> AsyncIterator[SourcePart]:
        """Yield page after page of those conversations, from the place of `walk` on.

        A conversation that cannot be read ends with an error.
        """
        del skip  # a page is imported as a whole
        while self._walk.conversation < len(self._selected):
            if self._samples and monotonic() > self._samples_until:
                return
            conversation = self._selected[self._walk.conversation]
            name = f"{conversation.name}, page {self._walk.pages + 1}"
            lines: list[dict[str, Any]] = []
            try:
                async for found in self._page(conversation):
                    lines += found
            except Unreadable as refusal:
                lines.append(line_of(Broken(name, str(refusal)), Names()))
            lines.sort(key=lambda line: line["m"]["at"] if "m" in line else 0.0)
            yield SourcePart(
                position,
                0,
                position + 1,
                0,
                conversation.id,
                name,
                lines,
                walk=self.walk,
                read_at=self.read_at,
            )
            position += 1

    async def _page(self, conversation: HistoryConversation) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the lines of a page, and move on behind it.

        If the conversation cannot be read, move on to the next one, and raise `Unreadable`.
        """
        since, until = self._span
        since = max(since, self._since.get(conversation.id, 0.0))
        began_at = self._walk.began_at or time()
        self.read_at = 0.0
        try:
            page = await self._process.page(conversation, self._walk.cursor, since=since, until=until)
        except ChannelFailure as failure:
            if failure.kind == "account":
                raise
            if failure.kind == "later":
                raise self._failed(failure) from None
            self._walk = self._walk.next_conversation()
            raise Unreadable(failure.text) from None
        except ProcessEnded as ended:
            if self._walk.failures < _MAX_CRASHES:
                raise self._failed(ChannelFailure("later", "process_ended", str(ended))) from None
            self._walk = self._walk.next_conversation()
            raise
        except Unreadable:
            self._walk = self._walk.next_conversation()
            raise
        if page.rate is not None:
            self._calls.limiter.observe(page.rate)
        endless = self._walk.is_endless(page.next_cursor)
        fraction = self._fraction(conversation, page, since, min(until, began_at))
        if self._samples:
            pages = 1 / fraction if page.next_cursor and fraction else 1.0
            self._walk = self._walk.next_conversation(more_pages=pages, interval_s=self._calls.interval_s)
            yield page.lines
            return
        self._walk = self._walk.after_page(
            None if endless else page.next_cursor,
            records=len(page.lines),
            fraction=fraction,
            interval_s=self._calls.interval_s,
        )
        if page.next_cursor is None:
            self.read_at = min(began_at, until)
        yield page.lines
        if endless:
            raise Unreadable(_ENDLESS)

    def _failed(self, failure: ChannelFailure) -> ChannelFailure:
        """Return the failure of a page: tried again later, or after too many attempts by a person."""
        if failure.retry_after is None or failure.code != "rate_limited":
            self._walk = self._walk.model_copy(update={"failures": self._walk.failures + 1})
            failure.retry_after = max(failure.retry_after or 0.0, _PAUSES.pause_s(self._walk.failures))
        if self._walk.failures < _MAX_FAILURES:
            return failure
        text = f"{failure.text} It failed {_MAX_FAILURES} times in a row: resume the import later"
        return ChannelFailure("account", failure.code, text)

    def _fraction(
        self, conversation: HistoryConversation, page: PageOfLines, since: float, until: float
    ) -> float:
        """Return how much of the time of a conversation is read; 0.0 if it is unknown."""
        since = max(since, conversation.created_at)
        if not page.reached or until <= since or not since:
            return 0.0
        read = until - page.reached if self._process.newest_first else page.reached - since
        return max(0.0, read) / (until - since)

    async def _all_people(self) -> AsyncIterator[HistoryPerson]:
        number = 0
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page, cursor = await self._process.people(cursor)
            number += len(page)
            if number > MAX_PEOPLE:
                break
            for person in page:
                yield person
            if cursor is None:
                return
        raise Unreadable(_too_many("people", MAX_PEOPLE))

    async def _all_conversations(self) -> AsyncIterator[HistoryConversation]:
        seen: set[str] = set()
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page, cursor = await self._process.conversations(cursor)
            for item in page:
                if item.id not in seen:
                    seen.add(item.id)
                    yield item
            if len(seen) > MAX_CONVERSATIONS:
                break
            if cursor is None:
                return
        raise Unreadable(_too_many("conversations", MAX_CONVERSATIONS))


def _too_many(what: str, limit: int) -> str:
    return (
        f"the account lists more than {limit:,} {what}, or in more than {_MAX_PAGES:,} pages: upload an "
        "export of the channels that you want"
    )
