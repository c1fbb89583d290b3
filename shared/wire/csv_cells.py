"""Cells of CSV that no spreadsheet evaluates."""

import re
from typing import Final

_OPERATORS: Final = "=+\\-@\uff1d\uff0b\uff0d\uff20"
"""Beginnings of formulas. Some programs treat full-width characters like ASCII."""
_FORMULA: Final = re.compile(rf"^(?= *[{_OPERATORS}\t\r\n])|(?<=[;\t\r\n])(?= *[{_OPERATORS}])")
"""Where a formula can begin: at the start, and where a program may split the cell."""


def safe_cell(text: str) -> str:
    """Return a text with an apostrophe where a spreadsheet would begin to evaluate it.

    That is also behind a semicolon: with some languages, a spreadsheet splits CSV there, whatever it quotes.
    """
    return _FORMULA.sub("'", text)
