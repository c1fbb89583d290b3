"""The page of the problems that the API answers, from the texts of the hub's own pages."""

from typing import Final

from docs.generator.markdown import table
from shared.runtime.web.problem_pages import PROBLEM_TEXTS
from shared.runtime.web.problems import phrase

_INTRODUCTION: Final = """\
# Problems

Generated from the pages that the hub serves. Every error is a problem detail (RFC 9457,
`application/problem+json`). Its `type` is the address of one of these pages, `/api/problems/<status>`,
relative to the hub; `detail` says what is wrong with this call.
"""


def problems_page() -> str:
    """Return the page: every status with its meaning and what to do."""
    rows = [
        (f"{status} {phrase(status)}", text.meaning, text.remedy)
        for status, text in sorted(PROBLEM_TEXTS.items())
    ]
    return f"{_INTRODUCTION}\n{table(('status', 'meaning', 'what to do'), rows)}"
