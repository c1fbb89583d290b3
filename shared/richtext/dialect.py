"""What a provider offers for a dialect of formatted text: the functions of its `dialect.py`. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shared.richtext.tree import Document, Inline


class Dialect(NamedTuple):
    """A provider's dialect. Each function takes at most 20 ms for any text, and refuses none."""

    parse: Callable[[str], Document]
    """Returns the canonical tree of a text."""
    reference: Callable[[str], tuple[Inline, ...] | None] | None = None
    """Returns what the text between `<` and `>` means; None if it means nothing."""
    parse_body: Callable[[Mapping[str, Any]], Document] | None = None
    """Returns the canonical tree of a message that has blocks."""
    filter: str = ""
    """The name of the filter for this dialect in message templates; '' for none."""
