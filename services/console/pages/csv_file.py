"""Write lists as CSV that is safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

from services.console.pages.kinds import Column, Json
from services.console.pages.rendering import visible

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of cells that spreadsheets evaluate. Some treat full-width characters like ASCII."""


def csv_of(columns: Sequence[Column], items: Sequence[Json]) -> str:
    """Return a header row, and a row for each item."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow([column.title for column in columns])
    for item in items:
        rows.writerow([cell(column.value(item)) for column in columns])
    return text.getvalue()


def cell(value: Any) -> str:
    """Return the text of a cell, after an apostrophe if a spreadsheet would evaluate it."""
    text = visible(value)
    is_number = isinstance(value, int | float)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) and not is_number else text
