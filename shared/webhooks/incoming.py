"""The request body of an incoming webhook: the hub's own format, and those that existing scripts send. Pure.

All are converted to one normal form. The other formats are recognised by their fields, not by the sender:
*cards* (`attachments[]` with `fallback`, `title_link`, `color` names, `fields[].short`), *blocks*
(`blocks[]` of sections, headers, context, images) and *numbered embeds* (`embeds[]` with `color` as an
integer, `author` as an object, `footer`, `image`). Nothing is fetched, and the length of every list is
checked before it is read.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, HttpUrl, ValidationError

from shared.contracts.errors import FieldError, Invalid
from shared.contracts.messages import Attachment, Embed, Payload, Text256, Text4000
from shared.wire.addresses import is_internal_host
from shared.wire.bodies import FORM_CONTENT_TYPE, form_field, media_type, parse_object
from shared.wire.mentions import defuse_mentions
from shared.wire.mrkdwn import blocks_to_markdown, buttons_to_markdown, mrkdwn_to_markdown, parse_http_url

INCOMING_PROVIDER: Final = "incoming"
"""The provider id in events and routes of incoming webhooks."""
MASS_MENTIONS_ATTRIBUTE: Final = "mass_mentions"
"""The event attribute of an incoming webhook that may mention everybody."""

MAX_EMBEDS: Final = 10
MAX_ATTACHMENTS: Final = 10
_MAX_BLOCKS: Final = 50
_MAX_FIELDS: Final = 25
_MAX_ERRORS: Final = 20

_CARD_FIELDS: Final = frozenset(
    {"fallback", "text", "title", "title_link", "pretext", "color", "fields", "blocks", "author_name"}
    | {"image_url", "thumb_url", "footer"}
)
_COLORS: Final = {"good": "#2eb886", "warning": "#daa038", "danger": "#a30200"}

RawObject = Mapping[str, Any]
NormalizedObject = dict[str, Any]


def _public_icon(url: HttpUrl) -> HttpUrl:
    """Validate an https URL on the internet, by its text: no DNS lookup."""
    if url.scheme != "https" or url.username is not None or url.password is not None:
        raise ValueError("should be an https URL without a user name")
    if is_internal_host(url.host or ""):
        raise ValueError("should not be an internal address")
    return url


class IncomingMessage(Payload):
    """A message of an incoming webhook in normal form. `text` and descriptions are Markdown."""

    text: Text4000 = ""
    username: Text256 | None = None
    icon_url: Annotated[HttpUrl, AfterValidator(_public_icon)] | None = None
    thread_id: Text256 | None = None
    attachments: list[Attachment] = Field(default_factory=list, max_length=MAX_ATTACHMENTS)
    embeds: list[Embed] = Field(default_factory=list, max_length=MAX_EMBEDS)


def parse_incoming_message(content_type: str, body: bytes, *, mass_mentions: bool = False) -> IncomingMessage:
    """Return the message in a request's body: JSON, or a form with the JSON in its field `payload`.

    Unless `mass_mentions` is true, mentions of everybody (`<!here>`, `@everyone`) become plain text.
    Raises `Malformed` if the body is not a JSON object, `Invalid` with the path of every invalid field as
    the caller wrote it, or if there is nothing to show. Errors never repeat what was sent.
    """
    normalizer = _MessageNormalizer(_parse_body(content_type, body))
    if not mass_mentions:
        _defuse_message(normalizer.normalized)
    try:
        message = IncomingMessage.model_validate(normalizer.normalized)
    except ValidationError as error:
        raise Invalid("some fields are not acceptable", errors=normalizer.field_errors(error)) from None
    if not (message.text.strip() or message.embeds or message.attachments):
        missing = FieldError("text", "send text (or content), embeds or attachments")
        raise Invalid("the message is empty", errors=(missing,))
    return message


def _parse_body(content_type: str, body: bytes) -> RawObject:
    """Return the body's JSON object. A form with bare JSON in it (curl's default type) is read as JSON."""
    is_form = media_type(content_type) == FORM_CONTENT_TYPE and not body.lstrip().startswith(b"{")
    return parse_object(form_field(body, "payload") if is_form else body)


def _defuse_message(message: NormalizedObject) -> None:
    """Make the mass mentions in all visible texts of a message plain text."""
    embeds = message["embeds"]
    visible: list[tuple[NormalizedObject, tuple[str, ...]]] = [(message, ("text", "username"))]
    visible += [(embed, ("title", "description", "author")) for embed in embeds]
    visible += [(field, ("name", "value")) for embed in embeds for field in embed["fields"]]
    visible += [(file, ("filename",)) for file in message["attachments"] if isinstance(file, dict)]
    for part, names in visible:
        for name in names:
            if isinstance(part.get(name), str):
                part[name] = defuse_mentions(part[name])


class _MessageNormalizer:
    """Converts one body to the normal form, and remembers the path of each part in the body, for errors."""

    def __init__(self, source: RawObject) -> None:
        self._source_paths: dict[tuple[str | int, ...], str] = {}
        self._images: list[NormalizedObject] = []
        self.normalized: NormalizedObject = {}
        for name, others in (
            ("username", ()),
            ("icon_url", ("avatar_url",)),
            ("thread_id", ("thread_ts",)),
            ("text", ("content",)),
        ):
            self._copy_first(source, name, *others)
        self._convert_text(source)
        # Embeds made of cards come before the body's own embeds.
        embeds, files = self._convert_attachments(source)
        for position, raw in enumerate(_object_list(source, "embeds", MAX_EMBEDS)):
            self._add_embed(embeds, self._convert_embed(raw, f"embeds.{position}"), f"embeds.{position}")
        self.normalized["embeds"] = embeds
        self.normalized["attachments"] = files + self._images[: max(0, MAX_ATTACHMENTS - len(files))]

    def field_errors(self, error: ValidationError) -> tuple[FieldError, ...]:
        """Return the errors of the validation, with the paths that the caller used."""
        errors = error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_ERRORS]
        return tuple(FieldError(self._path(item["loc"]), item["msg"]) for item in errors)

    def _path(self, loc: tuple[str | int, ...]) -> str:
        # The longest known path wins: an embed that was a card has its path below `attachments`.
        for length in (2, 1):
            source_path = self._source_paths.get(loc[:length])
            if source_path:
                return ".".join((source_path, *map(str, loc[length:])))
        return ".".join(map(str, loc))

    def _copy_first(self, source: RawObject, *names: str) -> None:
        """Copy the first of `names` that has a value, under the first name."""
        for name in names:
            if source.get(name) not in (None, ""):
                self.normalized[names[0]] = source[name]
                self._source_paths[names[0],] = name
                return

    def _convert_text(self, source: RawObject) -> None:
        """Use the blocks as the text, if they have any text: then the text of the body is only a summary."""
        text = self._convert_blocks(source)
        if text:
            self.normalized["text"] = text
            self._source_paths["text",] = "blocks"
        elif isinstance(self.normalized.get("text"), str):
            self.normalized["text"] = mrkdwn_to_markdown(self.normalized["text"], emphasis=False)

    def _convert_attachments(self, source: RawObject) -> tuple[list[NormalizedObject], list[Any]]:
        """Return the embeds made of cards, and the files."""
        cards: list[NormalizedObject] = []
        files: list[Any] = []
        for position, raw in enumerate(_object_list(source, "attachments", MAX_ATTACHMENTS + MAX_EMBEDS)):
            where = f"attachments.{position}"
            if "url" not in raw and _CARD_FIELDS & raw.keys():
                self._add_embed(cards, self._convert_card(raw, where), where)
            else:
                self._source_paths["attachments", len(files)] = where
                files.append(_without_empty(raw))
        return cards, files

    def _add_embed(self, embeds: list[NormalizedObject], embed: NormalizedObject, where: str) -> None:
        """Append an embed, unless it shows nothing."""
        if any(embed.get(part) for part in ("title", "description", "fields", "author")):
            self._source_paths["embeds", len(embeds)] = where
            embeds.append(embed)

    def _convert_embed(self, raw: RawObject, where: str) -> NormalizedObject:
        """Return an embed in normal form; a footer becomes the last line, images become attachments."""
        embed = _without_empty(raw)
        author = embed.get("author")
        if isinstance(author, dict):
            embed["author"] = author.get("name") or None
        color = embed.get("color")
        if type(color) is int and 0 <= color <= 0xFFFFFF:
            embed["color"] = f"#{color:06x}"
        embed["fields"] = [
            _without_empty(
                {**item, "name": _value_text(item.get("name")), "value": _value_text(item.get("value"))}
            )
            for item in _object_list(raw, "fields", _MAX_FIELDS, where)
        ]
        footer = embed.get("footer")
        if isinstance(footer, dict):
            _append_line(embed, footer.get("text"))
        for name in ("image", "thumbnail"):
            image = embed.get(name)
            if isinstance(image, dict):
                self._add_image(image.get("url"))
        return embed

    def _convert_card(self, raw: RawObject, where: str) -> NormalizedObject:
        """Return a card as an embed, without what cannot be shown (an unknown color, an invalid link)."""
        text = self._convert_blocks(raw, where) or _mrkdwn(raw.get("text"))
        embed: NormalizedObject = {
            "title": raw.get("title") or None,
            "url": parse_http_url(raw.get("title_link")),
            "color": _card_color(raw.get("color")),
            "author": raw.get("author_name") or None,
            "description": _mrkdwn(raw.get("pretext")),
            "fields": [
                {
                    "name": _value_text(item.get("title")),
                    "value": _mrkdwn(_value_text(item.get("value"))),
                    "inline": item.get("short") is True,
                }
                for item in _object_list(raw, "fields", _MAX_FIELDS, where)
                if item.get("title") or item.get("value") not in (None, "")
            ],
        }
        _append_line(embed, text)
        if not (embed["title"] or embed["description"] or embed["fields"]):
            _append_line(embed, _mrkdwn(raw.get("fallback")))
        _append_line(embed, buttons_to_markdown(raw.get("actions")))
        _append_line(embed, raw.get("footer"))
        self._add_image(raw.get("image_url") or raw.get("thumb_url"))
        return embed

    def _convert_blocks(self, source: RawObject, where: str = "") -> str:
        """Return the text of the blocks as Markdown; their images become attachments."""
        text, images = blocks_to_markdown(_object_list(source, "blocks", _MAX_BLOCKS, where))
        for image in images:
            self._add_image(image)
        return text

    def _add_image(self, url: object) -> None:
        normal_url = parse_http_url(url)
        if normal_url and len(self._images) < MAX_ATTACHMENTS:
            self._images.append({"url": normal_url})


def _object_list(source: RawObject, name: str, max_items: int, where: str = "") -> list[RawObject]:
    """Return a list of objects, empty if it is missing. Raises `Invalid` for anything else or too many."""
    items = source.get(name)
    if items is None:
        return []
    path = f"{where}.{name}" if where else name
    if not isinstance(items, list):
        raise _invalid(path, "should be a list")
    if len(items) > max_items:
        raise _invalid(path, f"should have at most {max_items} items")
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise _invalid(f"{path}.{position}", "should be an object")
    return items


def _invalid(path: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(path, message),))


def _without_empty(raw: RawObject) -> NormalizedObject:
    """Return the object without nulls and empty texts: many clients send every field they know."""
    return {name: value for name, value in raw.items() if value not in (None, "")}


def _append_line(embed: NormalizedObject, text: object) -> None:
    """Append a line to the description."""
    if isinstance(text, str) and text:
        description = embed.get("description")
        embed["description"] = f"{description}\n{text}" if description else text


def _value_text(value: object) -> Any:
    """Return a number as text and null as an empty text; anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return "" if value is None else value


def _mrkdwn(value: Any) -> Any:
    return mrkdwn_to_markdown(value) if isinstance(value, str) else value


def _card_color(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    digits = value.removeprefix("#").lower()
    if len(digits) == 6 and set(digits) <= set("0123456789abcdef"):
        return f"#{digits}"
    return _COLORS.get(value)
