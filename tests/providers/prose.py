"""What a sentence in the chat must not have, whatever the payload left out."""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from shared.manifests.message_templates import RenderedMessage

_TARGET = re.compile(r"\]\([^)\s]*\)")
_BOLD = re.compile(r"\*\*(?! )((?:[^*]|(?<=\\)\*)+)(?<! )\*\*")
_FLAWS = re.compile(
    r"\b(?:None|Undefined|nil|null|True|False)\b"  # a value that was not there
    r"|  |\t| \n|\n\n"  # gaps of the layout
    r"|\(\s*\)|“\s*”|\*\*\s*\*\*|(?<!\\)\[\s*\]"  # something around nothing
    r"| [,.]|:\s*$|\s-\s*$|#(?!\d)"  # punctuation that waits for a word
    r"|[{}]"  # Liquid, or the text of an object
)


def flaws(message: RenderedMessage) -> list[str]:
    """What is wrong with the wording; link targets are not looked at."""
    text = _BOLD.sub(r"\1", _TARGET.sub("]", message.text))
    found = [f"{match[0]!r} in {text!r}" for match in _FLAWS.finditer(text.replace("\\#", "#"))]
    if not text:
        found.append("no text")
    return found


def without_each(payload: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Copies of the payload with one of its fields null, and the path of that field."""
    for path in paths(payload, depth):
        yield ".".join(map(str, path)), without(payload, path)


def without(payload: Any, path: Sequence[Any]) -> Any:
    """Return a copy of the payload with the field of this path null."""
    changed = copy.deepcopy(payload)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = None
    return changed


def paths(value: Any, depth: int = 3, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each field down to this depth; of a list, those of its first item."""
    if len(path) == depth:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths(inner, depth, (*path, key))
    elif isinstance(value, list) and value:
        yield from paths(value[0], depth, (*path, 0))
