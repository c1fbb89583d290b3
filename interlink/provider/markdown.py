"""Markdown of the generated provider pages."""

import re
from collections.abc import Iterable
from typing import Final

_PARAGRAPH_BREAK: Final = "\n\n"
_SPECIAL: Final = re.compile(r"([\\*<\[\]])")
_CODE: Final = re.compile(r"(`[^`]*`)")


def first_paragraph(readme: str) -> str:
    """Return the first paragraph of a README, with the list that follows a colon."""
    body = readme.partition("\n")[2] if readme.startswith("# ") else readme
    first, _, rest = body.strip().partition("\n\n")
    return first if not first.endswith(":") else f"{first}\n\n{rest.strip().partition(_PARAGRAPH_BREAK)[0]}"


def code_list(names: Iterable[str]) -> str:
    """Return names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def sentence(text: str) -> str:
    """Return a text that ends with a full stop, a question mark or an exclamation mark."""
    text = escape_text(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def escape_text(text: str) -> str:
    """Return plain text of a manifest as Markdown on one line; text between backticks stays code."""
    # Odd pieces are the code between backticks.
    pieces = _CODE.split(" ".join(text.split()))
    return "".join(
        piece if position % 2 else _SPECIAL.sub(r"\\\1", piece) for position, piece in enumerate(pieces)
    )


def cell(text: str) -> str:
    """Return Markdown for the cell of a table. Bars are escaped, also in code, as GitHub needs it."""
    return " ".join(text.split()).replace("|", "\\|")
