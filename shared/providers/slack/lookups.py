"""What is read from Slack: sent messages, history, conversations, people and files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import (
    Account,
    Call,
    ChannelFailure,
    Conversation,
    ExternalFile,
    MessageWritten,
    Operation,
    Page,
    Person,
    Place,
    Sent,
    Step,
)
from shared.providers.slack.blocks import marker_of
from shared.providers.slack.events import file_address, is_own, is_slack_address, parse_message, permalink
from shared.providers.slack.files import without_token
from shared.providers.slack.operations import field, get_step
from shared.providers.slack.rich_text import objects, text_of
from shared.richtext.build import clean_line

_PAGE: Final = "200"
_MAX_PAGES: Final = 5
_CLOCK_SKEW_S: Final = 5
_NOT_MEMBER: Final = "The app is not in this channel: invite it with /invite in Slack."
_ARCHIVED: Final = "The channel is archived: unarchive it in Slack."


def find_sent(marker: str, place: Place, since: float, account: Account) -> Operation[Sent | None]:
    """Look for a marker in the latest messages of a conversation or thread."""
    place = replace(place, thread=place.thread or place.reply_to)  # as it is sent
    cursor: str | None = ""
    for _ in range(_MAX_PAGES):
        step = _history_step(place, cursor or "", f"{max(since - _CLOCK_SKEW_S, 0):.6f}")
        response = yield step
        for message in objects(field(response, "messages")):
            timestamp = text_of(message.get("ts"))
            if timestamp and marker_of(message) == marker and is_own(message, account):
                link = permalink(place.conversation, timestamp, place.thread, account)
                return Sent((timestamp,), link, (), place.thread)
        cursor = next_cursor(response.json)
        if cursor is None:
            break
    return None


def history(place: Place, cursor: str | None, account: Account) -> Operation[Page]:
    """Return a page of messages. What is not a message of somebody (joins, topics) is left out."""
    response = yield _history_step(place, cursor or "", "")
    messages: list[MessageWritten] = []
    for message in objects(field(response, "messages")):
        if text_of(message.get("subtype")) in {
            "",
            "bot_message",
            "file_share",
            "thread_broadcast",
            "me_message",
        }:
            try:
                messages.append(parse_message(message, place.conversation, account))
            except Malformed:
                continue  # costs this message only
    return Page(messages, next_cursor(response.json))


def _history_step(place: Place, cursor: str, oldest: str) -> Step:
    if place.thread:
        return get_step(
            "conversations.replies",
            channel=place.conversation,
            ts=place.thread,
            oldest=oldest,
            limit=_PAGE,
            cursor=cursor,
        )
    return get_step(
        "conversations.history", channel=place.conversation, oldest=oldest, limit=_PAGE, cursor=cursor
    )


def conversations(query: str, cursor: str | None) -> Operation[Page]:
    """Return a page of channels whose name has the query in it."""
    response = yield get_step(
        "conversations.list",
        types="public_channel,private_channel",
        exclude_archived="true",
        limit=_PAGE,
        cursor=cursor or "",
    )
    found = [_conversation(channel) for channel in objects(field(response, "channels"))]
    wanted = query.casefold().removeprefix("#")
    items = [item for item in found if item.id and wanted in item.name.casefold()]
    return Page(items, next_cursor(response.json))


def conversation(conversation_id: str) -> Operation[Conversation]:
    """Look a conversation up by its id."""
    response = yield get_step("conversations.info", channel=conversation_id, include_num_members="true")
    channel = field(response, "channel")
    found = _conversation(channel if isinstance(channel, dict) else {})
    if not found.id:
        raise ChannelFailure("later", "unreadable_response", "Slack's response has no channel: try again.")
    return found


def _conversation(channel: Mapping[str, Any]) -> Conversation:
    direct = channel.get("is_im") is True or channel.get("is_mpim") is True
    problem = _ARCHIVED if channel.get("is_archived") is True else None
    if problem is None and channel.get("is_member") is False and not direct:
        problem = _NOT_MEMBER
    members = channel.get("num_members")
    return Conversation(
        id=text_of(channel.get("id")),
        name=_name(text_of(channel.get("name"))),
        kind="direct" if direct else "channel",
        members=members if isinstance(members, int) else None,
        private=channel.get("is_private") is True,
        problem=problem,
    )


def people(query: str, cursor: str | None) -> Operation[Page]:
    """Return a page of people whose name or address has the query in it."""
    response = yield get_step("users.list", limit=_PAGE, cursor=cursor or "")
    users = [user for user in objects(field(response, "members")) if user.get("deleted") is not True]
    found = [_person(user) for user in users]
    wanted = query.casefold().removeprefix("@")
    items = [
        person
        for person in found
        if person.id and (wanted in person.name.casefold() or wanted in (person.email or "").casefold())
    ]
    return Page(items, next_cursor(response.json))


def profile(person_id: str) -> Operation[Person]:
    """Look a person up, or a bot by the id of its integration."""
    if person_id.startswith("B"):
        response = yield get_step("bots.info", bot=person_id)
        bot = field(response, "bot")
        bot = bot if isinstance(bot, dict) else {}
        return Person(person_id, _name(text_of(bot.get("name"))), _picture(bot.get("icons")), bot=True)
    response = yield get_step("users.info", user=person_id)
    user = field(response, "user")
    return _person({**user, "id": person_id} if isinstance(user, dict) else {"id": person_id})


def _person(user: Mapping[str, Any]) -> Person:
    """Return a person. The e-mail address is there only if Slack says that it was confirmed."""
    details = user.get("profile")
    details = details if isinstance(details, dict) else {}
    names = (details.get("display_name"), details.get("real_name"), user.get("real_name"), user.get("name"))
    return Person(
        id=text_of(user.get("id")),
        name=_name(next((name for name in map(text_of, names) if name), "")),
        avatar_url=_picture(details),
        email=text_of(details.get("email")) or None if user.get("is_email_confirmed") is True else None,
        bot=user.get("is_bot") is True,
    )


def download(file: ExternalFile) -> Operation[Call]:
    """Return the call for a file's bytes. Files of shared channels have their address looked up first."""
    address = file.ref
    if not address:
        response = yield get_step("files.info", file=file.id)
        found = field(response, "file")
        address = file_address(found) if isinstance(found, dict) else ""
    if not is_slack_address(address):
        text = "The file is not stored in Slack: open it there."
        raise ChannelFailure("message", "file_not_in_slack", text)
    return Call("GET", url=without_token(address))


def next_cursor(document: Any) -> str | None:
    """Return the cursor of the next page of a response's JSON; None at the end."""
    metadata = document.get("response_metadata") if isinstance(document, dict) else None
    cursor = metadata.get("next_cursor") if isinstance(metadata, dict) else None
    return cursor if isinstance(cursor, str) and cursor else None


def _picture(values: Any) -> str | None:
    values = values if isinstance(values, dict) else {}
    pictures = (text_of(values.get(name)) for name in ("image_192", "image_72", "image_48"))
    return next((url for url in pictures if url.startswith("https://")), None)


def _name(text: str) -> str:
    return clean_line(text[:200]).strip()
