"""The part `quiet` of the bench: how it judges what it measured."""

from typing import Any

import pytest

from bench.quiet import summary
from bench.table import table


@pytest.mark.parametrize(("slowest_ms", "judgement"), [(60.0, "met"), (60.5, "missed")])
def test_the_slowest_of_few_webhooks_counts(slowest_ms: float, judgement: str) -> None:
    result: dict[str, Any] = summary(600.0, [*[20.0] * 19, slowest_ms])
    assert result["p50_ms"] == 20.0
    assert result["p99_ms"] == result["max_ms"] == slowest_ms
    columns = table({"quiet": result}).columns
    [row] = zip(*(column.cells for column in columns), strict=True)
    assert row[:4] == (
        "first webhook after 600 s of quiet, p99",
        "<= 60 ms",
        f"{slowest_ms:.1f} ms",
        judgement,
    )
