"""Write lists as CSV that is safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from services.console.pages.kinds import Column, Json
from services.console.pages.rendering import visible
from shared.wire.csv_cells import safe_cell


def csv_of(columns: Sequence[Column], items: Sequence[Json]) -> str:
    """Return a header row, and a row for each item."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow([column.title for column in columns])
    for item in items:
        rows.writerow([cell(column.value(item)) for column in columns])
    return text.getvalue()


def cell(value: Any) -> str:
    """Return the text of a cell. No spreadsheet evaluates it, unless it is a number."""
    text = visible(value)
    return text if isinstance(value, int | float) else safe_cell(text)
