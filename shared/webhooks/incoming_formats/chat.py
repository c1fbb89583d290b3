"""Messages of chats: the hub's own format, and those of Slack, Discord, Mattermost and Rocket.Chat. Pure.

They are recognized by their fields, not by the sender, and may be mixed: *cards* (`attachments[]` with
`fallback`, `title_link`, `color` names, `fields[].short`), *blocks* (`blocks[]`), and *numbered embeds*
(`embeds[]` with `color` as an integer, `author` as an object, `footer`, `image`). Nothing is fetched.
"""

from collections.abc import Callable
from typing import Any, Final

from shared.richtext.fragments import escape
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    MAX_ATTACHMENTS,
    MAX_EMBEDS,
    MAX_FIELDS,
    NormalForm,
    NormalObject,
    RawObject,
    append_line,
    clip,
    parse_http_url,
)
from shared.webhooks.incoming_formats.slack_blocks import MAX_BLOCKS, blocks_to_markdown, buttons_to_markdown

UPLOADED_FILES: Final = "uploaded_files"
"""The field in which the files of a multipart form are named: `{filename, content_type, size}` each."""

_FIELD_NAMES: Final = (
    ("username", "alias"),
    ("icon_url", "iconUrl", "avatar_url", "avatarUrl", "avatar"),
    ("thread_id", "threadId", "thread_ts"),
    ("text", "content"),
)
"""The names of each field in the order in which they are looked for; the first is that of the normal form."""
_CARD_FIELDS: Final = frozenset(
    {"fallback", "text", "title", "title_link", "pretext", "color", "fields", "blocks", "author_name"}
    | {"image_url", "thumb_url", "footer"}
)
_FILE_FIELDS: Final = frozenset({"url", "filename", "content_type", "contentType"})
_COLORS: Final = {"good": "#2eb886", "warning": "#daa038", "danger": "#a30200"}
_MAX_COLOR: Final = 0xFFFFFF


def read_chat(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message in a body of a chat's format."""
    form = NormalForm(formatter)
    for names in _FIELD_NAMES:
        _copy_first(form, source, names)
    _convert_text(form, source)
    # Embeds made of cards come before the body's own embeds.
    _convert_attachments(form, source)
    for position, raw in enumerate(form.objects(source, "embeds", MAX_EMBEDS)):
        where = f"embeds.{position}"
        form.add_embed(_convert_embed(form, raw, where), where)
    if UPLOADED_FILES in source:
        _name_uploaded_files(form, source)
    return form


def _copy_first(form: NormalForm, source: RawObject, names: tuple[str, ...]) -> None:
    """Copy the first of `names` that has a value, under the first name."""
    for name in names:
        if source.get(name) not in (None, ""):
            form.set(names[0], clip(source[name]), name)
            return


def _convert_text(form: NormalForm, source: RawObject) -> None:
    """Use the blocks as the text, if they have any text: then the text of the body is only a summary."""
    text = _convert_blocks(form, source)
    if text:
        form.set("text", clip(text), "blocks")
    elif isinstance(form.fields.get("text"), str):
        form.fields["text"] = form.formatter.markdown(form.fields["text"])


def _convert_attachments(form: NormalForm, source: RawObject) -> None:
    """Add the embeds made of cards, and the files."""
    for position, raw in enumerate(form.objects(source, "attachments", MAX_ATTACHMENTS + MAX_EMBEDS)):
        where = f"attachments.{position}"
        if "url" not in raw and _CARD_FIELDS & raw.keys():
            form.add_embed(_convert_card(form, raw, where), where)
        elif _FILE_FIELDS & raw.keys():
            file = _without_empty(raw)
            if "contentType" in file:
                file.setdefault("content_type", file["contentType"])
            form.add_file(file, where)


def _convert_embed(form: NormalForm, raw: RawObject, where: str) -> NormalObject:
    """Return an embed in normal form; a footer becomes the last line, images become attachments."""
    embed = _without_empty(raw)
    author = embed.get("author")
    if isinstance(author, dict):
        embed["author"] = author.get("name") or None
    color = embed.get("color")
    if type(color) is int and 0 <= color <= _MAX_COLOR:
        embed["color"] = f"#{color:06x}"
    if isinstance(embed.get("description"), str):
        embed["description"] = form.formatter.markdown(clip(embed["description"]))
    embed["fields"] = [
        {
            "name": _value_text(item.get("name")),
            "value": _formatted(form.formatter.markdown, _value_text(item.get("value"))),
            **({"inline": item["inline"]} if item.get("inline") is not None else {}),
        }
        for item in form.objects(raw, "fields", MAX_FIELDS, where)
        if item
    ]
    footer = embed.get("footer")
    if isinstance(footer, dict):
        append_line(embed, clip(footer.get("text")))
    for name in ("image", "thumbnail"):
        image = embed.get(name)
        if isinstance(image, dict):
            form.add_image(image.get("url"))
    return embed


def _convert_card(form: NormalForm, raw: RawObject, where: str) -> NormalObject:
    """Return a card as an embed, without what cannot be shown (an unknown color, an invalid link)."""
    card = form.formatter.card
    text = _convert_blocks(form, raw, where) or _formatted(card, raw.get("text"))
    embed: NormalObject = {
        "title": clip(raw.get("title")) or None,
        "url": parse_http_url(raw.get("title_link")),
        "color": _card_color(raw.get("color")),
        "author": clip(raw.get("author_name")) or None,
        "description": _formatted(card, raw.get("pretext")),
        "fields": [
            {
                "name": _value_text(item.get("title")),
                "value": _formatted(card, _value_text(item.get("value"))),
                "inline": item.get("short") is True,
            }
            for item in form.objects(raw, "fields", MAX_FIELDS, where)
            if item.get("title") or item.get("value") not in (None, "")
        ],
    }
    append_line(embed, text)
    if not (embed["title"] or embed["description"] or embed["fields"]):
        append_line(embed, _formatted(card, raw.get("fallback")))
    append_line(embed, buttons_to_markdown(raw.get("actions"), form.formatter))
    append_line(embed, clip(raw.get("footer")))
    form.add_image(raw.get("image_url") or raw.get("thumb_url"))
    return embed


def _convert_blocks(form: NormalForm, source: RawObject, where: str = "") -> str:
    """Return the text of the blocks as Markdown; their images become attachments."""
    if source.get("blocks") is None:
        return ""
    text, images = blocks_to_markdown(form.objects(source, "blocks", MAX_BLOCKS, where), form.formatter)
    for image in images:
        form.add_image(image)
    return text


def _name_uploaded_files(form: NormalForm, source: RawObject) -> None:
    """Name the files of a multipart form at the end of the text: the hub stores no files."""
    files = [item for item in form.objects(source, UPLOADED_FILES, MAX_ATTACHMENTS) if item]
    names = [f"{_file_name(file)} ({_size(file.get('size'))})" for file in files]
    if names:
        form.notes.append(f"Files that are not stored: {', '.join(names)}")
        form.warn("files", "the hub stores no files: the message names them")


def _file_name(file: RawObject) -> str:
    name = file.get("filename")
    return escape(" ".join(name[:100].split())) if isinstance(name, str) and name.strip() else "file"


def _size(size: object) -> str:
    count = size if isinstance(size, int) else 0
    return f"{count} bytes" if count < 1024 else f"{count // 1024} KB"


def _without_empty(raw: RawObject) -> NormalObject:
    """Return the object without nulls and empty texts: many clients send every field they know."""
    return {name: clip(value) for name, value in raw.items() if value not in (None, "")}


def _value_text(value: object) -> Any:
    """Return a number as text and null as an empty text; anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return "" if value is None else clip(value)


def _formatted(convert: Callable[[str], str], value: Any) -> Any:
    return convert(clip(value)) if isinstance(value, str) else value


def _card_color(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    digits = value.removeprefix("#").lower()
    if len(digits) == 6 and set(digits) <= set("0123456789abcdef"):
        return f"#{digits}"
    return _COLORS.get(value)
