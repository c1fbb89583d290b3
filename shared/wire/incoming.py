"""What an incoming webhook's caller sends: our own body, and shapes that the world's scripts already send.

One normal form comes out. The other shapes are told by their fields, not by who sends them: *cards*
(`attachments[]` with `fallback`, `title_link`, `color` names, `fields[].short`), *blocks* (`blocks[]` of
sections, headers, context, images) and *numbered embeds* (`embeds[]` with `color` as an integer, `author`
as an object, `footer`, `image`). Pure: nothing is fetched, and every list has a limit before it is read.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, HttpUrl, ValidationError

from shared.contracts.errors import FieldError, Invalid
from shared.contracts.messages import Attachment, Embed, Payload, Text256, Text4000
from shared.wire.addresses import is_internal_host
from shared.wire.bodies import FORM, form_field, media_type, parse_object
from shared.wire.markup import from_blocks, from_buttons, from_mrkdwn, web_address
from shared.wire.mentions import defuse_mentions

INCOMING: Final = "incoming"
"""What stands for a provider's id in events and routes of incoming webhooks."""
MASS_MENTIONS: Final = "mass_mentions"
"""The attribute of an event whose incoming webhook may call everybody."""

MOST_EMBEDS: Final = 10
MOST_ATTACHMENTS: Final = 10
_MOST_BLOCKS: Final = 50
_MOST_FIELDS: Final = 25
_MOST_ERRORS: Final = 20

_CARD: Final = frozenset(
    {"fallback", "text", "title", "title_link", "pretext", "color", "fields", "blocks", "author_name"}
    | {"image_url", "thumb_url", "footer"}
)
_COLORS: Final = {"good": "#2eb886", "warning": "#daa038", "danger": "#a30200"}

Given = Mapping[str, Any]
Normal = dict[str, Any]


def _public_icon(url: HttpUrl) -> HttpUrl:
    """Accept an https address on the internet, judged by what is written: nothing is looked up."""
    if url.scheme != "https" or url.username is not None or url.password is not None:
        raise ValueError("should be an https address without a user name")
    if is_internal_host(url.host or ""):
        raise ValueError("should not be an internal address")
    return url


class IncomingMessage(Payload):
    """A message as an incoming webhook takes it, in normal form: `text` and descriptions are Markdown."""

    text: Text4000 = ""
    username: Text256 | None = None
    icon_url: Annotated[HttpUrl, AfterValidator(_public_icon)] | None = None
    thread_id: Text256 | None = None
    attachments: list[Attachment] = Field(default_factory=list, max_length=MOST_ATTACHMENTS)
    embeds: list[Embed] = Field(default_factory=list, max_length=MOST_EMBEDS)


def read_incoming(content_type: str, body: bytes, *, mass_mentions: bool = False) -> IncomingMessage:
    """The message in a request's body: JSON, or a form with the JSON in its field `payload`.

    Unless `mass_mentions` are allowed, mentions of everybody (`<!here>`, `@everyone`) become plain text.
    Raises `Malformed` when it is no JSON object, `Invalid` with the path of every wrong field, as the caller
    wrote it, or when there is nothing to show. Neither repeats what was sent.
    """
    reading = _Reading(_object(content_type, body))
    if not mass_mentions:
        _defuse(reading.normal)
    try:
        message = IncomingMessage.model_validate(reading.normal)
    except ValidationError as error:
        raise Invalid("some fields are not acceptable", errors=reading.faults(error)) from None
    if not (message.text.strip() or message.embeds or message.attachments):
        fault = FieldError("text", "send text (or content), embeds or attachments")
        raise Invalid("the message has nothing to show", errors=(fault,))
    return message


def _object(content_type: str, body: bytes) -> Given:
    """The body's JSON object; a form that holds bare JSON (curl's default type) is read as JSON."""
    form = media_type(content_type) == FORM and not body.lstrip().startswith(b"{")
    return parse_object(form_field(body, "payload") if form else body)


def _defuse(message: Normal) -> None:
    """Make the mass mentions in everything that a message shows plain text."""
    embeds = message["embeds"]
    shown: list[tuple[Normal, tuple[str, ...]]] = [(message, ("text", "username"))]
    shown += [(embed, ("title", "description", "author")) for embed in embeds]
    shown += [(field, ("name", "value")) for embed in embeds for field in embed["fields"]]
    shown += [(file, ("filename",)) for file in message["attachments"] if isinstance(file, dict)]
    for part, names in shown:
        for name in names:
            if isinstance(part.get(name), str):
                part[name] = defuse_mentions(part[name])


class _Reading:
    """One body on its way to the normal form; remembers where each part was written."""

    def __init__(self, given: Given) -> None:
        self._written: dict[tuple[str | int, ...], str] = {}
        self._images: list[Normal] = []
        self.normal: Normal = {}
        for name, others in (
            ("username", ()),
            ("icon_url", ("avatar_url",)),
            ("thread_id", ("thread_ts",)),
            ("text", ("content",)),
        ):
            self._take(given, name, *others)
        self._text(given)
        embeds, files = self._attachments(given)
        for position, raw in enumerate(_objects(given, "embeds", MOST_EMBEDS)):
            self._add(embeds, self._embed(raw, f"embeds.{position}"), f"embeds.{position}")
        self.normal["embeds"] = embeds
        self.normal["attachments"] = files + self._images[: max(0, MOST_ATTACHMENTS - len(files))]

    def faults(self, error: ValidationError) -> tuple[FieldError, ...]:
        """The validation's faults under the names that the caller used."""
        found = error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_ERRORS]
        return tuple(FieldError(self._path(fault["loc"]), fault["msg"]) for fault in found)

    def _path(self, loc: tuple[str | int, ...]) -> str:
        for length in (2, 1):
            written = self._written.get(loc[:length])
            if written:
                return ".".join((written, *map(str, loc[length:])))
        return ".".join(map(str, loc))

    def _take(self, given: Given, *names: str) -> None:
        """The first of `names` that has a value, under the first name."""
        for name in names:
            if given.get(name) not in (None, ""):
                self.normal[names[0]] = given[name]
                self._written[names[0],] = name
                return

    def _text(self, given: Given) -> None:
        """Blocks are the message when there are any that say something; the text is then a summary."""
        said = self._blocks(given)
        if said:
            self.normal["text"] = said
            self._written["text",] = "blocks"
        elif isinstance(self.normal.get("text"), str):
            self.normal["text"] = from_mrkdwn(self.normal["text"], emphasis=False)

    def _attachments(self, given: Given) -> tuple[list[Normal], list[Any]]:
        """Cards become embeds, the rest are files."""
        cards: list[Normal] = []
        files: list[Any] = []
        for position, raw in enumerate(_objects(given, "attachments", MOST_ATTACHMENTS + MOST_EMBEDS)):
            where = f"attachments.{position}"
            if "url" not in raw and _CARD & raw.keys():
                self._add(cards, self._card(raw, where), where)
            else:
                self._written["attachments", len(files)] = where
                files.append(_present(raw))
        return cards, files

    def _add(self, embeds: list[Normal], embed: Normal, where: str) -> None:
        """Keep an embed that shows something."""
        if any(embed.get(part) for part in ("title", "description", "fields", "author")):
            self._written["embeds", len(embeds)] = where
            embeds.append(embed)

    def _embed(self, raw: Given, where: str) -> Normal:
        embed = _present(raw)
        author = embed.get("author")
        if isinstance(author, dict):
            embed["author"] = author.get("name") or None
        color = embed.get("color")
        if type(color) is int and 0 <= color <= 0xFFFFFF:
            embed["color"] = f"#{color:06x}"
        embed["fields"] = [
            _present({**item, "name": _word(item.get("name")), "value": _word(item.get("value"))})
            for item in _objects(raw, "fields", _MOST_FIELDS, where)
        ]
        footer = embed.get("footer")
        if isinstance(footer, dict):
            _append(embed, footer.get("text"))
        for name in ("image", "thumbnail"):
            image = embed.get(name)
            if isinstance(image, dict):
                self._image(image.get("url"))
        return embed

    def _card(self, raw: Given, where: str) -> Normal:
        """A card as an embed. What cannot be shown (a colour's name, a link to nowhere) is left out."""
        said = self._blocks(raw, where) or _mrkdwn(raw.get("text"))
        embed: Normal = {
            "title": raw.get("title") or None,
            "url": web_address(raw.get("title_link")),
            "color": _card_color(raw.get("color")),
            "author": raw.get("author_name") or None,
            "description": _mrkdwn(raw.get("pretext")),
            "fields": [
                {
                    "name": _word(item.get("title")),
                    "value": _mrkdwn(_word(item.get("value"))),
                    "inline": item.get("short") is True,
                }
                for item in _objects(raw, "fields", _MOST_FIELDS, where)
                if item.get("title") or item.get("value") not in (None, "")
            ],
        }
        _append(embed, said)
        if not (embed["title"] or embed["description"] or embed["fields"]):
            _append(embed, _mrkdwn(raw.get("fallback")))
        _append(embed, from_buttons(raw.get("actions")))
        _append(embed, raw.get("footer"))
        self._image(raw.get("image_url") or raw.get("thumb_url"))
        return embed

    def _blocks(self, given: Given, where: str = "") -> str:
        said, pictures = from_blocks(_objects(given, "blocks", _MOST_BLOCKS, where))
        for picture in pictures:
            self._image(picture)
        return said

    def _image(self, url: object) -> None:
        address = web_address(url)
        if address and len(self._images) < MOST_ATTACHMENTS:
            self._images.append({"url": address})


def _objects(given: Given, name: str, most: int, where: str = "") -> list[Given]:
    """A list of objects, [] when it is absent. Raises `Invalid` for another thing or more than `most`."""
    found = given.get(name)
    if found is None:
        return []
    path = f"{where}.{name}" if where else name
    if not isinstance(found, list):
        raise _invalid(path, "should be a list")
    if len(found) > most:
        raise _invalid(path, f"should have at most {most} items")
    for position, item in enumerate(found):
        if not isinstance(item, dict):
            raise _invalid(f"{path}.{position}", "should be an object")
    return found


def _invalid(path: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(path, message),))


def _present(raw: Given) -> Normal:
    """Without what is null or an empty text: many clients send every field they know."""
    return {name: value for name, value in raw.items() if value not in (None, "")}


def _append(embed: Normal, text: object) -> None:
    """One more line of the description."""
    if isinstance(text, str) and text:
        before = embed.get("description")
        embed["description"] = f"{before}\n{text}" if before else text


def _word(value: object) -> Any:
    """A number as text; everything else as it is, null as nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return "" if value is None else value


def _mrkdwn(value: Any) -> Any:
    return from_mrkdwn(value) if isinstance(value, str) else value


def _card_color(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    digits = value.removeprefix("#").lower()
    if len(digits) == 6 and set(digits) <= set("0123456789abcdef"):
        return f"#{digits}"
    return _COLORS.get(value)
