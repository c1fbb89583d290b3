"""Parse and render plain text. Pure."""

import re
from typing import Final

from shared.richtext.build import canonical, clean, cut_text, text_nodes, visible_text
from shared.richtext.degrade import degrade
from shared.richtext.rendered import Rendered
from shared.richtext.tree import Document, Emoji, LineBreak, Paragraph, Text

SUPPORTED: Final = frozenset({Text, LineBreak, Emoji, Paragraph})

_PARAGRAPH_END: Final = re.compile(r"\n(?:[ \t]*+\n)+")


def parse_plain(text: str) -> Document:
    """Return a text's paragraphs, which blank lines divide. A text over 40,000 characters is cut."""
    parts = _PARAGRAPH_END.split(clean(cut_text(text)).strip("\n"))
    return canonical(Document(tuple(Paragraph(text_nodes(part)) for part in parts)))


def render_plain(document: Document) -> Rendered:
    """Return a document as text without marks, with a blank line between paragraphs."""
    degraded, losses = degrade(document, SUPPORTED)
    paragraphs = (visible_text(block.children) for block in degraded.blocks if isinstance(block, Paragraph))
    return Rendered("\n\n".join(paragraphs), losses)
