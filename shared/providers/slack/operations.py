"""Messages and reactions in Slack: the calls that write, change and delete them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from shared.manifests.channel_types import (
    Account,
    Call,
    CallResponse,
    ChannelFailure,
    Operation,
    Outgoing,
    OutgoingFile,
    Place,
    Sent,
    Step,
)
from shared.providers.slack.blocks import MARKER_PREFIX
from shared.providers.slack.emoji import reaction_name
from shared.providers.slack.events import is_slack_address, permalink
from shared.providers.slack.render import Renderer, plain_text
from shared.providers.slack.rich_text import objects, text_of
from shared.richtext.tree import Bold, Document, Loss, Paragraph, Text

MAX_FALLBACK: Final = 3_000
_NO_RESPONSE: Final = "Slack's response lacks what its reference promises: the hub tries again."


def json_step(method: str, body: Mapping[str, Any], *, visible: bool = False) -> Step:
    """Return a step that calls a method with JSON."""
    return Step(Call("POST", method, json=body), visible=visible, method=method)


def get_step(method: str, **query: str) -> Step:
    """Return a step that reads with a method. Empty parameters are left out."""
    return Step(Call("GET", method, query={name: v for name, v in query.items() if v}), method=method)


def form_step(method: str, form: Mapping[str, str], *, visible: bool = False) -> Step:
    """Return a step that calls a method with a form."""
    return Step(Call("POST", method, form=form), visible=visible, method=method)


def field(response: CallResponse, name: str) -> Any:
    """Return a field of a response's JSON; None if there is none."""
    return response.json.get(name) if isinstance(response.json, dict) else None


def text_field(response: CallResponse, name: str) -> str:
    """Return a text of a response. Raises `ChannelFailure` if it is missing."""
    value = text_of(field(response, name))
    if not value:
        raise ChannelFailure("later", "unreadable_response", _NO_RESPONSE)
    return value


def send(message: Outgoing, account: Account) -> Operation[Sent]:
    """Write a message as its author: with name and picture, or with files and the name before the text."""
    if message.files:
        return (yield from _send_files(message, account))
    place = message.place
    thread = place.thread or place.reply_to
    blocks, losses = _blocks(message, with_name=False)
    body: dict[str, Any] = {
        "channel": place.conversation,
        "text": _fallback(message),
        "blocks": blocks,
        "unfurl_links": False,
        "unfurl_media": False,
    }
    if thread:
        body |= {"thread_ts": thread}
        body |= {"reply_broadcast": True} if message.broadcast else {}
    if message.show_author:
        body |= _author(message)
    response = yield json_step("chat.postMessage", body, visible=True)
    timestamp = text_field(response, "ts")
    conversation = text_of(field(response, "channel")) or place.conversation
    return Sent((timestamp,), permalink(conversation, timestamp, thread, account), losses, thread)


def edit(external_id: str, message: Outgoing, account: Account) -> Operation[Sent]:
    """Replace the text of a message. Name, picture and files stay as they are."""
    blocks, losses = _blocks(message, with_name=message.has_files)
    conversation = message.place.conversation
    body = {"channel": conversation, "ts": external_id, "text": _fallback(message), "blocks": blocks}
    response = yield json_step("chat.update", body, visible=True)
    timestamp = text_of(field(response, "ts")) or external_id
    return Sent((timestamp,), permalink(conversation, timestamp, message.place.thread, account), losses)


def delete(external_id: str, place: Place) -> Operation[None]:
    """Delete a message."""
    yield json_step("chat.delete", {"channel": place.conversation, "ts": external_id}, visible=True)


def react(external_id: str, place: Place, emoji: str, *, added: bool) -> Operation[Sequence[Loss]]:
    """Set or remove the account's reaction. An emoji that Slack does not have is a loss."""
    name = reaction_name(emoji)
    if name is None:
        return (Loss("reaction", "nothing: Slack does not have this emoji"),)
    form = {"channel": place.conversation, "name": name, "timestamp": external_id}
    yield form_step("reactions.add" if added else "reactions.remove", form, visible=True)
    return ()


def _author(message: Outgoing) -> dict[str, str]:
    name = f"{message.prefix}{message.author.name or message.author.id}"[:80]
    picture = message.author.avatar_url or ""
    return {"username": name} | ({"icon_url": picture} if picture.startswith("https://") else {})


def _fallback(message: Outgoing) -> str:
    return plain_text(message.body, MAX_FALLBACK) or " "


def _blocks(message: Outgoing, *, with_name: bool) -> tuple[list[dict[str, Any]], Sequence[Loss]]:
    """Return the block of a text, which has the marker as its id. Each revision has a marker of its own."""
    renderer = Renderer(mass_mentions=message.mass_mentions)
    body = message.body
    if with_name and message.show_author:
        name = f"{message.prefix}{message.author.name or message.author.id}"[:80]
        body = Document((Paragraph((Bold((Text(name),)),)), *body.blocks))
    elements = renderer.elements(body)
    block = {"type": "rich_text", "block_id": f"{MARKER_PREFIX}{message.marker}", "elements": elements}
    return [block], tuple(renderer.losses)


def _send_files(message: Outgoing, account: Account) -> Operation[Sent]:
    """Upload files, then share them in one message, which Slack shows as the app's."""
    ids: list[str] = []
    for file in message.files:
        ids += [(yield from _upload(file))]
    uploaded = [{"id": i, "title": file.filename} for i, file in zip(ids, message.files, strict=True)]
    blocks, losses = _blocks(message, with_name=True)
    place = message.place
    form = {
        "files": orjson.dumps(uploaded).decode(),
        "channel_id": place.conversation,
        "blocks": orjson.dumps(blocks).decode(),
    }
    thread = place.thread or place.reply_to
    if thread:
        form["thread_ts"] = thread
    yield form_step("files.completeUploadExternal", form, visible=True)
    if message.show_author:
        losses = (*losses, Loss("author", "a name before the text"))
    # Slack shares files a moment later. Without the message's id, its event brings it with the marker.
    info = yield get_step("files.info", file=uploaded[0]["id"])
    timestamp = _shared_at(field(info, "file"), place.conversation)
    if not timestamp:
        return Sent((), None, losses, thread)
    return Sent((timestamp,), permalink(place.conversation, timestamp, thread, account), losses, thread)


def _upload(file: OutgoingFile) -> Operation[str]:
    """Upload one file, which nobody sees yet, and return its id. Raises `ChannelFailure`."""
    address = yield get_step(
        "files.getUploadURLExternal", filename=file.filename or "file", length=str(file.size)
    )
    url, file_id = text_field(address, "upload_url"), text_field(address, "file_id")
    if not is_slack_address(url):
        raise ChannelFailure("later", "unreadable_response", _NO_RESPONSE)
    yield Step(Call("POST", url=url, body_of=file.id, token=False), method="files.upload")
    return file_id


def _shared_at(file: Any, conversation: str) -> str:
    """Return the timestamp of the message that shares a file in a conversation; '' if it is not there yet."""
    shares = file.get("shares") if isinstance(file, dict) else None
    for kind in ("public", "private"):
        places = shares.get(kind) if isinstance(shares, dict) else None
        for share in objects(places.get(conversation)) if isinstance(places, dict) else ():
            if timestamp := text_of(share.get("ts")):
                return timestamp
    return ""
