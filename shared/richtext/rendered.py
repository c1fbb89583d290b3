"""What rendering a document gives."""

from dataclasses import dataclass

from shared.richtext.tree import Loss


@dataclass(frozen=True, slots=True)
class Rendered:
    """Text of a dialect, and what the dialect could not show."""

    text: str
    losses: tuple[Loss, ...] = ()
