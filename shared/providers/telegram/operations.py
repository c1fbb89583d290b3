"""Messages, files and reactions in Telegram: the calls of the Bot API."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson

from shared.manifests.channel_types import (
    Account,
    Call,
    CallResponse,
    ChannelFailure,
    Conversation,
    ExternalFile,
    FilePart,
    Operation,
    Outgoing,
    OutgoingFile,
    Place,
    Sent,
    Step,
)
from shared.providers.telegram.events import permalink
from shared.providers.telegram.reactions import REACTIONS
from shared.providers.telegram.render import Rendered, render
from shared.richtext.build import clean_line
from shared.richtext.tree import Loss

MAX_ALBUM: Final = 10
_MAX_PHOTO: Final = 10 * 1024 * 1024
_PHOTOS: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
_PLAYED: Final[Mapping[str, str]] = {
    "video/mp4": "video",
    "audio/mpeg": "audio",
    "audio/mp4": "audio",
    "audio/x-m4a": "audio",
}
"""The kinds of files that Telegram's clients play, by type."""
_UNREADABLE: Final = "Telegram's response lacks what its reference promises: the hub tries again."
_FILE_ADDRESS: Final = "https://api.telegram.org/file/bot{access_token}/"
_VARIATION: Final = "\ufe0f"


def json_step(method: str, body: Mapping[str, Any], *, visible: bool = False) -> Step:
    """Return a step that calls a method with JSON."""
    return Step(Call("POST", method, json=body), visible=visible, method=method)


def result_of(response: CallResponse) -> Any:
    """Return what a method returned; None if the response has no result."""
    return response.json.get("result") if isinstance(response.json, dict) else None


def chat_id(conversation: str) -> int | str:
    """Return a chat's id as Telegram wants it: a number, or the name of a public channel."""
    digits = conversation.removeprefix("-")
    return int(conversation) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else conversation


def heading(message: Outgoing) -> str:
    """Return the line with the author's name; empty if it is not to be shown."""
    if not message.show_author:
        return ""
    name = clean_line(f"{message.prefix}{message.author.name or message.author.id}")
    return name.strip()[:100]


def send(message: Outgoing) -> Operation[Sent]:
    """Write a message, or up to ten files as an album with the text as caption."""
    rendered = render(message.body, heading=heading(message))
    files = message.files[:MAX_ALBUM]
    losses = rendered.losses
    if len(message.files) > len(files):
        losses = (*losses, Loss("attachment", f"the first {MAX_ALBUM} files"))
    if not files:
        body = {**_place(message.place), **_text(rendered)}
        response = yield json_step("sendMessage", body, visible=True)
    elif len(files) == 1:
        response = yield _file_step(message.place, files[0], rendered)
    else:
        response = yield _album_step(message.place, files, rendered)
    return _sent(result_of(response), losses)


def _text(rendered: Rendered) -> dict[str, Any]:
    return {
        "text": rendered.text or " ",
        "entities": list(rendered.entities),
        "link_preview_options": {"is_disabled": True},
    }


def _place(place: Place) -> dict[str, Any]:
    """Return the chat, the topic and the answered message. One that is gone does not stop the message."""
    fields: dict[str, Any] = {"chat_id": chat_id(place.conversation)}
    if place.thread and place.thread.isdecimal():
        fields["message_thread_id"] = int(place.thread)
    if place.reply_to and place.reply_to.isdecimal():
        fields["reply_parameters"] = {
            "message_id": int(place.reply_to),
            "allow_sending_without_reply": True,
        }
    return fields


def _form(fields: Mapping[str, Any]) -> list[tuple[str, str | FilePart]]:
    """Return fields as Telegram wants them beside files: what is no text as JSON."""
    return [
        (name, value if isinstance(value, str) else orjson.dumps(value).decode())
        for name, value in fields.items()
    ]


def _caption(rendered: Rendered) -> dict[str, Any]:
    if not rendered.text:
        return {}
    return {"caption": rendered.text, "caption_entities": list(rendered.entities)}


def _is_photo(file: OutgoingFile) -> bool:
    return file.content_type in _PHOTOS and file.size <= _MAX_PHOTO


def _album_kinds(files: Sequence[OutgoingFile]) -> list[str]:
    """Return the kinds of files in an album: photos and videos mix, everything else goes as documents."""
    kinds = ["photo" if _is_photo(file) else _PLAYED.get(file.content_type, "document") for file in files]
    mixes = set(kinds) <= {"photo", "video"} or set(kinds) == {"audio"}
    return kinds if mixes else ["document"] * len(files)


def _part(file: OutgoingFile) -> FilePart:
    return FilePart(file.id, file.filename or "file", file.content_type)


def _file_step(place: Place, file: OutgoingFile, rendered: Rendered) -> Step:
    method, name = ("sendPhoto", "photo") if _is_photo(file) else ("sendDocument", "document")
    parts = [*_form({**_place(place), **_caption(rendered)}), (name, _part(file))]
    return Step(Call("POST", method, multipart=parts), visible=True, method=method)


def _album_step(place: Place, files: Sequence[OutgoingFile], rendered: Rendered) -> Step:
    """Return the step for several files, which Telegram shows together."""
    media: list[dict[str, Any]] = [
        {"type": kind, "media": f"attach://file{number}"} for number, kind in enumerate(_album_kinds(files))
    ]
    media[0] |= _caption(rendered)  # so the first id is the one whose caption is edited
    parts: list[tuple[str, str | FilePart]] = _form({**_place(place), "media": media})
    parts += ((f"file{number}", _part(file)) for number, file in enumerate(files))
    return Step(Call("POST", "sendMediaGroup", multipart=parts), visible=True, method="sendMediaGroup")


def _sent(result: Any, losses: Sequence[Loss]) -> Sent:
    """Return the ids of the messages in a response. Raises `ChannelFailure` if there are none."""
    messages = result if isinstance(result, list) else [result]
    found = [
        message
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("message_id"), int)
    ]
    if not found:
        raise ChannelFailure("later", "unreadable_response", _UNREADABLE)
    ids = tuple(str(message["message_id"]) for message in found)
    return Sent(ids, permalink(found[0].get("chat"), ids[0]), losses)


def edit(external_id: str, message: Outgoing) -> Operation[Sent]:
    """Replace a message's text, or the caption of its files."""
    rendered = render(message.body, heading=heading(message))
    target = {"chat_id": chat_id(message.place.conversation), "message_id": int_id(external_id)}
    if message.has_files:
        body = {**target, "caption": rendered.text, "caption_entities": list(rendered.entities)}
        response = yield json_step("editMessageCaption", body, visible=True)
    else:
        response = yield json_step("editMessageText", {**target, **_text(rendered)}, visible=True)
    result = result_of(response)
    chat = result.get("chat") if isinstance(result, dict) else None
    return Sent((external_id,), permalink(chat, external_id), rendered.losses)


def delete(external_id: str, place: Place) -> Operation[None]:
    """Delete a message."""
    body = {"chat_id": chat_id(place.conversation), "message_id": int_id(external_id)}
    yield json_step("deleteMessage", body, visible=True)


def react(external_id: str, place: Place, emoji: str, *, added: bool) -> Operation[Sequence[Loss]]:
    """Set the bot's one reaction, or remove it. An emoji that Telegram does not offer is a loss."""
    shown = REACTIONS.get(emoji.replace(_VARIATION, ""))
    if shown is None:
        return (Loss("reaction", "nothing: Telegram does not offer this emoji"),)
    body = {
        "chat_id": chat_id(place.conversation),
        "message_id": int_id(external_id),
        "reaction": [{"type": "emoji", "emoji": shown}] if added else [],
    }
    yield json_step("setMessageReaction", body, visible=True)
    return ()


def signal(place: Place) -> Operation[None]:
    """Show for five seconds that the bot types."""
    body: dict[str, Any] = {"chat_id": chat_id(place.conversation), "action": "typing"}
    if place.thread and place.thread.isdecimal():
        body["message_thread_id"] = int(place.thread)
    yield json_step("sendChatAction", body, visible=True)


def download(file: ExternalFile) -> Operation[Call]:
    """Look a file's path up, which works for an hour, and return the call for its bytes."""
    response = yield json_step("getFile", {"file_id": file.ref})
    result = result_of(response)
    path = result.get("file_path") if isinstance(result, dict) else None
    if not isinstance(path, str) or not path or ".." in path:
        raise ChannelFailure("later", "unreadable_response", _UNREADABLE)
    return Call("GET", url=_FILE_ADDRESS + quote(path[:500], errors="replace"))


def conversation(conversation_id: str, account: Account) -> Operation[Conversation]:
    """Look a chat up, and whether the bot may write there and sees reactions."""
    response = yield json_step("getChat", {"chat_id": chat_id(conversation_id)})
    chat = result_of(response)
    chat = chat if isinstance(chat, dict) else {}
    if not isinstance(chat.get("id"), int):
        raise ChannelFailure("later", "unreadable_response", _UNREADABLE)
    kind = chat.get("type")
    names = (chat.get(name) for name in ("title", "first_name", "username"))
    name = next((name for name in names if isinstance(name, str) and name), "")
    problem = None
    if kind != "private":
        member = yield json_step("getChatMember", {"chat_id": chat["id"], "user_id": int_id(account.id)})
        problem = _problem(result_of(member), is_channel=kind == "channel")
    return Conversation(
        id=str(chat["id"]),
        name=clean_line(name[:200]),
        kind="direct" if kind == "private" else "channel" if kind == "channel" else "group",
        private=not chat.get("username"),
        problem=problem,
    )


def _problem(member: Any, *, is_channel: bool) -> str | None:
    """Say what keeps the bot from writing in a chat, and the fix; None if nothing does."""
    member = member if isinstance(member, dict) else {}
    status = member.get("status")
    if status in ("creator", "administrator"):
        denied = is_channel and member.get("can_post_messages") is False
        return "The bot may not post in the channel: allow it to post messages." if denied else None
    if status not in ("member", "restricted") or member.get("is_member") is False:
        return "The bot is not in the chat: add it there."
    if is_channel:
        return "The bot is no administrator of the channel: make it one, with the right to post messages."
    if status == "restricted" and member.get("can_send_messages") is False:
        return "The bot may not write in the chat: allow it to send messages."
    return None


def int_id(external_id: str) -> int:
    """Return an id as a number. Raises `ChannelFailure` for what is none."""
    if external_id.isascii() and external_id.isdecimal() and len(external_id) < 20:
        return int(external_id)
    text = "The message is not known to Telegram: nothing has to be done."
    raise ChannelFailure("gone", "message_id_invalid", text)
