"""Histories of connected workspaces of Slack, read page by page with the Web API.

A page of `conversations.history` has messages and the parents of threads, the newest first. The replies of
each of its threads are pages of their own, which follow before the next older messages. The replies that a
conversation shows too are among its messages already, so they are left out of their thread's pages.

Slack lists a thread at the time of its first message only. So the reader looks further back than it reads,
for threads that have got replies since.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.manifests.channel_failures import history_failure, status_failure
from shared.manifests.channel_types import (
    Account,
    CallResponse,
    ChannelFailure,
    Operation,
    Page,
    Step,
)
from shared.manifests.history_types import (
    LATEST,
    Contents,
    ConversationKind,
    HistoryConversation,
    HistoryPage,
    ObservedRate,
    no_choices,
)
from shared.providers.slack.emoji import reaction_emoji
from shared.providers.slack.history_records import (
    MAX_MEMBERS,
    parse_conversation,
    parse_person,
    parse_record,
    parse_time,
)
from shared.providers.slack.lookups import next_cursor
from shared.providers.slack.operations import get_step
from shared.providers.slack.responses import error_code
from shared.providers.slack.rich_text import is_id, objects, text_of
from shared.richtext.build import clean_line

if TYPE_CHECKING:  # a reader process of an import starts without pydantic
    from shared.manifests.history_models import HistorySpec

_PAGE: Final = 200
_PEOPLE_PAGE: Final = "1000"
_CONVERSATION_PAGE: Final = "200"
_RESTRICTED_PAGE: Final = 15
"""Messages of a page for an app that is distributed outside of Slack's Marketplace, whatever it asks for."""
_RESTRICTED_CALLS: Final = 1
"""Calls of a method in a minute that such an app may make."""
_CALLS: Final = 50
_MINUTE_S: Final = 60.0
_MAX_THREADS: Final = 1000
_LOOK_BACK_S: Final = 30 * 86_400.0
_MAX_LOOK_BACK: Final = 20
"""Pages of messages before the time that is read, in which threads with later replies are looked for."""
_LATE_REPLIES: Final = (
    "replies to old threads: an import that repeats another one reads the week before it again, and one with "
    "a time range begins with it. Both find later replies only to threads that began in the 30 days before "
    f"that, among the last {_MAX_LOOK_BACK * _PAGE:,} messages of a channel; none of them where Slack allows "
    "the app one request a minute"
)
_ORDER: Final = (
    "the oldest messages of an import that was stopped early: Slack gives the newest messages first"
)
_TIMESTAMP: Final = re.compile(r"\d{1,12}\.\d{1,6}", re.ASCII)
_NOT_MEMBER: Final = "The app is not in this channel: invite it with /invite in Slack, then import again."
_HISTORIES: Final[Mapping[str, tuple[str, str, str]]] = {
    "public_channel": ("channels:read", "channels:history", "public channels"),
    "private_channel": ("groups:read", "groups:history", "private channels"),
    "mpim": ("mpim:read", "mpim:history", "group messages"),
    "im": ("im:read", "im:history", "direct messages"),
}
"""The types of conversations: the scopes that list and read them, and their name."""


@dataclass(frozen=True, slots=True)
class _Cursor:
    """What the next page is: replies of the first of `threads`, or else messages of the conversation.

    `messages` is Slack's cursor of the messages, empty at their start and None behind their end; `replies` is
    that of the thread. `back` is how many pages had messages from before the time that is read.
    """

    messages: str | None = ""
    threads: tuple[str, ...] = ()
    replies: str = ""
    reached: float = 0.0
    back: int = 0

    @property
    def text(self) -> str | None:
        return orjson.dumps(asdict(self)).decode() if self.threads or self.messages else None


class PageReader:
    """Reads what an app may read of a workspace."""

    KIND = "a Slack workspace"
    NEWEST_FIRST = True

    def __init__(self, spec: "HistorySpec") -> None:
        self._spec = spec
        reaction_emoji("smile")  # reads the table of emoji

    def contents(self, account: Account, answers: Mapping[str, str]) -> Operation[Contents]:
        """Return what the token may read, by the scopes that Slack names. Raises `ChannelFailure`."""
        no_choices(answers)
        response = yield from self._call(get_step("auth.test"))
        scopes = _scopes(response)
        types = [name for name, needed in _HISTORIES.items() if scopes is None or scopes >= set(needed[:2])]
        wanted = [scope for needed in _HISTORIES.values() for scope in needed[:2]]
        lacks = [] if scopes is None else [scope for scope in wanted if scope not in scopes]
        if not types:
            failure = self._named("missing_scope")
            failure.needed = lacks
            raise failure
        missing = [text for name, (*_, text) in _HISTORIES.items() if name not in types]
        notes = []
        if scopes is not None and (unread := [*lacks, *({"users:read"} - scopes)]):
            notes.append(
                f"The account lacks the scopes {', '.join(unread)}: to import all, connect it again with the "
                "purpose import"
            )
        return Contents(
            kind=self.KIND,
            provider="slack",
            account=account.id,
            values={
                **account.values,
                "types": ",".join(types),
                "names": "1" if scopes is None or "users:read" in scopes else "",
                "is_bot": "1" if _field(response, "bot_id") else "",
            },
            missing=missing,
            notes=notes,
            undetermined=(_LATE_REPLIES, _ORDER),
        )

    def people(self, contents: Contents, cursor: str | None) -> Operation[Page]:
        """Return a page of people, also of those who left; none without the scope."""
        if not contents.values["names"]:
            return Page(())
        response = yield from self._call(get_step("users.list", limit=_PEOPLE_PAGE, cursor=cursor or ""))
        people = []
        for user in objects(_field(response, "members")):
            if is_id(person_id := text_of(user.get("id"))):
                found = parse_person(person_id, user)
                if user.get("is_email_confirmed") is not True:
                    found = replace(found, person=replace(found.person, email=None))
                people.append(found)
        return Page(people, next_cursor(response.json))

    def conversations(self, contents: Contents, cursor: str | None) -> Operation[Page]:
        """Return a page of conversations; of a private channel or a group with its members."""
        step = get_step(
            "conversations.list",
            types=contents.values["types"],
            limit=_CONVERSATION_PAGE,
            cursor=cursor or "",
        )
        response = yield from self._call(step)
        found = []
        for item in objects(_field(response, "channels")):
            if is_id(conversation_id := text_of(item.get("id"))):
                conversation = _conversation(conversation_id, item, is_bot=bool(contents.values["is_bot"]))
                if conversation.kind in {"private", "group"} and not conversation.problem:
                    members = yield from self._members(conversation_id)
                    conversation = replace(conversation, members=members)
                found.append(conversation)
        return Page(found, next_cursor(response.json))

    def page(
        self,
        contents: Contents,
        conversation: HistoryConversation,
        cursor: str | None,
        *,
        since: float,
        until: float,
    ) -> Operation[HistoryPage]:
        """Return a page of messages, or of the replies of a thread."""
        place = _cursor(cursor)
        if place.threads:
            return (yield from self._replies(contents, conversation.id, place, since))
        step = get_step(
            "conversations.history",
            channel=conversation.id,
            cursor=place.messages or "",
            limit=str(_PAGE),
            oldest=f"{since - _LOOK_BACK_S:.6f}" if since > _LOOK_BACK_S else "",
            latest=f"{until:.6f}" if until < LATEST else "",
            inclusive="true" if since > 0 or until < LATEST else "",
        )
        response = yield from self._call(step)
        found = objects(_field(response, "messages"))[::-1]
        threads = [ts for message in found if (ts := _thread(message, since))][:_MAX_THREADS]
        messages = [message for message in found if (parse_time(message.get("ts")) or since) >= since]
        oldest = parse_time(found[0].get("ts")) if found else None
        following = _Cursor(
            next_cursor(response.json),
            tuple(threads),
            reached=max(oldest or place.reached, since),
            back=place.back + (len(messages) < len(found)),
        )
        rate = _rate(step, response)
        if following.back and (_is_restricted(rate) or following.back > _MAX_LOOK_BACK):
            following = replace(following, messages=None)
        return self._page(contents, conversation.id, messages, following, rate)

    def _replies(
        self, contents: Contents, conversation: str, place: _Cursor, since: float
    ) -> Operation[HistoryPage]:
        """Return a page of the first thread; an empty one if the thread was deleted meanwhile."""
        parent, *others = place.threads
        step = get_step(
            "conversations.replies",
            channel=conversation,
            ts=parent,
            cursor=place.replies,
            limit=str(_PAGE),
            oldest=f"{since:.6f}" if since > 0 else "",
            inclusive="true" if since > 0 else "",
        )
        rest = replace(place, threads=tuple(others), replies="")
        try:
            response = yield from self._call(step)
        except ChannelFailure as failure:
            if failure.code != "thread_not_found":
                raise
            return HistoryPage((), rest.text, place.reached)
        messages = [
            message
            for message in objects(_field(response, "messages"))
            if text_of(message.get("ts")) != parent and message.get("subtype") != "thread_broadcast"
        ]
        more = next_cursor(response.json)
        following = replace(place, replies=more) if more else rest
        return self._page(contents, conversation, messages, following, _rate(step, response))

    def _page(
        self,
        contents: Contents,
        conversation: str,
        messages: Sequence[Mapping[str, Any]],
        following: _Cursor,
        rate: ObservedRate | None,
    ) -> HistoryPage:
        account = Account(contents.account, contents.values)
        records = [
            parse_record(message, conversation, account, f"{conversation}, {_excerpt(message)}")
            for message in messages
        ]
        return HistoryPage(records, following.text, following.reached, rate)

    def _members(self, conversation: str) -> Generator[Step, CallResponse, tuple[str, ...]]:
        step = get_step("conversations.members", channel=conversation, limit="1000")
        response = yield from self._call(step)
        members = _field(response, "members")
        listed = members[:MAX_MEMBERS] if isinstance(members, list) else ()
        return tuple(member for member in listed if is_id(text_of(member)))

    def _call(self, step: Step) -> Generator[Step, CallResponse, CallResponse]:
        """Have a step done, and return its response. Raises `ChannelFailure`."""
        response = yield step
        if failure := status_failure(response, scope="method"):
            raise failure
        if code := error_code(response):
            failure = self._named(code)
            needed = _field(response, "needed")
            failure.needed = [needed[:200]] if code == "missing_scope" and isinstance(needed, str) else ()
            raise failure
        return response

    def _named(self, code: str) -> ChannelFailure:
        return history_failure(self._spec, code)


def _cursor(text: str | None) -> _Cursor:
    if text is None:
        return _Cursor()
    values = orjson.loads(text)
    return _Cursor(**values | {"threads": tuple(values["threads"])})


def _scopes(response: CallResponse) -> frozenset[str] | None:
    """Return the scopes of the token; None if the response does not name them."""
    text = next((value for name, value in response.headers.items() if name.lower() == "x-oauth-scopes"), "")
    return frozenset(scope.strip() for scope in text.split(",")) if text else None


def _conversation(conversation_id: str, item: Mapping[str, Any], *, is_bot: bool) -> HistoryConversation:
    kind: ConversationKind = "channel"
    if item.get("is_im") is True:
        kind = "direct"
    elif item.get("is_mpim") is True:
        kind = "group"
    elif item.get("is_private") is True:
        kind = "private"
    found = parse_conversation(conversation_id, item, kind)
    if kind == "direct" and is_id(text_of(item.get("user"))):
        found = replace(found, members=(item["user"],))
    # A person's token reads every public channel, that of a bot only those where it is.
    if is_bot and kind != "direct" and item.get("is_member") is False:
        found = replace(found, problem=_NOT_MEMBER)
    return found


def _thread(message: Mapping[str, Any], since: float) -> str:
    """Return the timestamp of a thread's parent; '' for a message without replies from a time on."""
    timestamp, replies = text_of(message.get("ts")), message.get("reply_count")
    is_parent = isinstance(replies, int) and replies > 0 and message.get("thread_ts") == timestamp
    is_new = (parse_time(message.get("latest_reply")) or since) >= since
    return timestamp if is_parent and is_new and _TIMESTAMP.fullmatch(timestamp) else ""


def _excerpt(message: Mapping[str, Any]) -> str:
    return clean_line(text_of(message.get("ts")))[:40] or "a message without a time"


def _rate(step: Step, response: CallResponse) -> ObservedRate | None:
    """Return the rate of the method that the length of a page shows; None for the last page."""
    if _field(response, "has_more") is not True:
        return None
    restricted = len(objects(_field(response, "messages"))) <= _RESTRICTED_PAGE
    return ObservedRate(step.method, _RESTRICTED_CALLS if restricted else _CALLS, _MINUTE_S)


def _is_restricted(rate: ObservedRate | None) -> bool:
    return rate is not None and rate.amount == _RESTRICTED_CALLS


def _field(response: CallResponse, name: str) -> Any:
    return response.json.get(name) if isinstance(response.json, dict) else None
