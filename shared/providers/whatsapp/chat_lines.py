"""The lines of a chat that WhatsApp exported as text: where a message begins, its date, its author.

    [31/12/2024, 23:59:59] Ada: text        iOS, with marks of the direction of writing in many places
    12/31/24, 11:59 PM - Ada: text          Android
    31.12.24, 23:59 - Ada joined            a message of WhatsApp has no author

The form of the date, the clock and the words around them are those of the phone's language.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from shared.manifests.history_lines import lines
from shared.manifests.history_times import parse_written_time, plain_text

MAX_TEXT_BYTES: Final = 256 * 1024
"""The longest text of a message in bytes; what is behind it is cut off. WhatsApp's longest has 64 KB."""
_MAX_HEAD: Final = 64
_MAX_AUTHOR: Final = 100
_MAX_WORDS: Final = 8
_DIRECTION_MARKS: Final = "\u200e\u200f\u202a\u202b\u2066\u2067\u2068\ufeff"
_QUOTES: Final = frozenset('"“”„«»「」')


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a message: the three numbers of its date, its time of day, the form, and the rest.

    `form` is the same for all messages of a chat: another one is in the text of a message, such as a chat
    that somebody has quoted.
    """

    date: Sequence[str]
    clock: tuple[int, int, float]
    form: tuple[object, ...]
    separator: str
    rest: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message as its lines are: `author` is empty for one of WhatsApp. `number` is that of its line."""

    number: int
    head: Head
    author: str
    text: str
    size: int


def parse_head(line: str) -> Head | None:
    """Return how a message begins in this line; None if none does."""
    start = line[:8].lstrip(_DIRECTION_MARKS)[:1]
    if not (start == "[" or start.isdecimal()):
        return None
    is_bracketed = start == "["
    end = line.find("]" if is_bracketed else " - ", 0, _MAX_HEAD)
    size = 1 if is_bracketed else 3
    if end < 0 and "년" in line[:_MAX_HEAD]:  # Android in Korean has a comma there
        end, size = line.find(", ", 0, _MAX_HEAD), 2
    if end < 0:
        return None
    written = parse_written_time(line[:end].lstrip(_DIRECTION_MARKS).removeprefix("["))
    if written is None or written.clock is None:
        return None
    rest = line[end + size :].removeprefix(" ")
    return Head(written.date, written.clock, (is_bracketed, *written.form), written.separator, rest)


def parse_author(rest: str) -> tuple[str, str]:
    """Return the author and the text of what follows the head; no author for a message of WhatsApp."""
    author, colon, text = rest.partition(": ")
    if not colon and rest.endswith(":"):
        author, colon = rest[:-1], ":"
    name = plain_text(author)
    is_name = (
        colon and 0 < len(name) <= _MAX_AUTHOR and name.count(" ") < _MAX_WORDS and _QUOTES.isdisjoint(name)
    )
    return (name, text) if is_name else ("", rest)


def chat_messages(file: BinaryIO) -> Iterator[ChatMessage | int]:
    """Yield the messages of a chat; the number of each line that is too long to be read."""
    form: tuple[object, ...] | None = None
    current: tuple[int, Head] | None = None
    texts: list[str] = []
    size = 0
    for number, raw in enumerate(lines(file), 1):
        if raw is None:
            yield number
            continue
        line = raw.decode("utf-8", "replace").removesuffix("\r")
        head = parse_head(line)
        if head is not None and (form is None or head.form == form):
            if current:
                yield _message(*current, texts, size)
            form, current, texts, size = head.form, (number, head), [], len(raw)
        elif current and size < MAX_TEXT_BYTES:
            texts.append(line)
            size += len(raw) + 1
    if current:
        yield _message(*current, texts, size)


def _message(number: int, head: Head, texts: Sequence[str], size: int) -> ChatMessage:
    author, first = parse_author(head.rest)
    text = "\n".join((first, *texts)).rstrip("\n")
    return ChatMessage(number, head, author, text, size)
