"""Rows of CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV. No cell is a formula, whatever a name of the export begins with."""
    out = io.StringIO()
    csv.writer(out).writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
