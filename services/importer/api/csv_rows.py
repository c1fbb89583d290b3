"""Rows of CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from shared.wire.csv_cells import safe_cell


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV. No cell is a formula, whatever a name of the export begins with."""
    out = io.StringIO()
    csv.writer(out).writerows(
        [safe_cell(value) if isinstance(value, str) else value for value in row] for row in rows
    )
    return out.getvalue()
