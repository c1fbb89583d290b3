"""The normal form of an incoming message while a format's module puts it together. Pure.

Modules of formats write what they find, without checking lengths, URLs or colors: `fitting` does that for all
formats. They read only lists of bounded length, and texts through `clip`.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import HttpUrl, TypeAdapter, ValidationError

from shared.richtext import fragments
from shared.webhooks.incoming_formats.formatted import Formatter

RawObject = Mapping[str, Any]
NormalObject = dict[str, Any]
Location = tuple[str | int, ...]
"""Path of a value in the normal form: `("embeds", 2, "title")`."""

MAX_EMBEDS: Final = 10
MAX_ATTACHMENTS: Final = 10
MAX_FIELDS: Final = 25

MAX_CLIPPED_CHARACTERS: Final = 8_000
"""Characters of a text that are converted: no text of a message has more than half of them afterwards."""
_MAX_WARNINGS: Final = 20


_HTTP_URL: Final = TypeAdapter(HttpUrl)


def parse_http_url(value: object) -> str | None:
    """Return an http or https URL in normal form; None for any other value."""
    try:
        return str(_HTTP_URL.validate_python(value))
    except ValidationError:
        return None


class NormalForm:
    """A message in normal form, with the path of each part in the body, for warnings."""

    def __init__(self, formatter: Formatter) -> None:
        """Make an empty message. `formatter` converts its texts."""
        self.formatter = formatter
        self.fields: NormalObject = {}
        """`text`, `username`, `icon_url` and `thread_id`."""
        self.embeds: list[NormalObject] = []
        self.files: list[NormalObject] = []
        self.images: list[NormalObject] = []
        self.notes: list[str] = []
        """Lines for the end of the text: what the message does not show."""
        self.warnings: list[tuple[str, str]] = []
        """Pairs of a path and what happened to the value there."""
        self._source_paths: dict[Location, str] = {}

    def set(self, name: str, value: object, path: str = "") -> None:
        """Set a field. `path` is where the value was in the body, if the name was another one."""
        self.fields[name] = value
        self._source_paths[(name,)] = path or name

    def add_embed(self, embed: NormalObject, path: str = "") -> None:
        """Append an embed, unless it shows nothing."""
        if any(embed.get(part) for part in ("title", "description", "fields", "author")):
            self._source_paths["embeds", len(self.embeds)] = path
            self.embeds.append(embed)

    def add_file(self, file: NormalObject, path: str) -> None:
        """Append a file."""
        self._source_paths["attachments", len(self.files)] = path
        self.files.append(file)

    def add_image(self, url: object) -> None:
        """Append an image. A value that is no web URL is left out: many senders have local ones."""
        normal_url = parse_http_url(url)
        if normal_url and len(self.images) < MAX_ATTACHMENTS:
            self.images.append({"url": normal_url})

    def warn(self, path: str, text: str) -> None:
        """Note what happened to a value of the body. `text` never repeats the value."""
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append((path, text))

    def note_cut(self, name: str, max_items: int) -> None:
        """Note for readers that a list of the body had more items."""
        note = f"… (cut: more than {max_items} {name})"
        if note not in self.notes:
            self.notes.append(note)

    def objects(self, source: RawObject, name: str, max_items: int, where: str = "") -> list[RawObject]:
        """Return the objects in a list of the body; empty if it is missing.

        What is no list, no object or behind `max_items` is left out with a warning.
        """
        items = source.get(name)
        if items is None:
            return []
        path = f"{where}.{name}" if where else name
        if not isinstance(items, list):
            self.warn(path, "should be a list: left out")
            return []
        if len(items) > max_items:
            self.warn(path, f"should have at most {max_items} items: the others are left out")
            self.note_cut(name, max_items)
        objects: list[RawObject] = []
        for position, item in enumerate(items[:max_items]):
            if isinstance(item, dict):
                objects.append(item)
            else:
                # An empty object in its place, so that the others have their positions.
                self.warn(f"{path}.{position}", "should be an object: left out")
                objects.append({})
        return objects

    def normal(self) -> NormalObject:
        """Return the message. Images follow the files, as far as there is room."""
        room = max(0, MAX_ATTACHMENTS - len(self.files))
        return {**self.fields, "embeds": self.embeds, "attachments": self.files + self.images[:room]}

    def html(self, value: object) -> str:
        """Return a text with HTML tags and Markdown as Markdown."""
        text = text_of(value)
        return self.formatter.html(text) if text else ""

    def path(self, location: Location) -> str:
        """Return the path of a value as the caller wrote it."""
        # The longest known path wins: an embed that was a card has its path below `attachments`.
        for length in (2, 1):
            source_path = self._source_paths.get(location[:length])
            if source_path:
                return ".".join((source_path, *map(str, location[length:])))
        return ".".join(map(str, location))


def clip(value: Any) -> Any:
    """Return a text that is short enough to convert; other values as they are."""
    if isinstance(value, str) and len(value) > MAX_CLIPPED_CHARACTERS:
        return value[:MAX_CLIPPED_CHARACTERS] + "…"
    return value


def text_of(value: object) -> str:
    """Return a text or number as one clipped text without blanks at its ends; empty for other values."""
    if isinstance(value, str):
        return str(clip(value.strip()))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def plain_to_markdown(value: object) -> str:
    """Return plain text as Markdown that shows it as it is. URLs in it become links."""
    return fragments.plain_to_markdown(text_of(value))


def bold(markdown: str) -> str:
    """Return a line of Markdown in bold type; empty for an empty line."""
    return f"**{markdown}**" if markdown else ""


def object_of(value: object) -> RawObject:
    """Return an object; an empty one for other values."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: object, max_items: int) -> list[Any]:
    """Return at most `max_items` items of a list; an empty list for other values."""
    return value[:max_items] if isinstance(value, list) else []


def field(name: object, value: object, *, inline: bool = True) -> NormalObject:
    """Return a field of an embed. Name and value are plain text."""
    return {"name": text_of(name), "value": plain_to_markdown(value), "inline": inline}


def filled_fields(*pairs: tuple[str, object]) -> list[NormalObject]:
    """Return a field for each name whose value is a text or number that is not empty."""
    return [field(name, value) for name, value in pairs if text_of(value)]


def append_line(embed: NormalObject, text: object) -> None:
    """Append a line to an embed's description."""
    if isinstance(text, str) and text:
        description = embed.get("description")
        embed["description"] = f"{description}\n{text}" if description else text
