"""A part of an export that is damaged is a loss that counts, in the counts, the issues and the report."""

import json
from collections.abc import Iterator
from secrets import token_hex

import pytest

from tests.importer.archives import CHANNELS, slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import imported
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

_DAY_S = 86_400
_START = 1704067200  # 2024-01-01


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("damage")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads")}
    workspace = f"w-{token_hex(4)}"
    with Hub(folder, bus, store, services=("importer",), env=env, workspace=workspace) as started:
        yield started


def test_damaged_days_of_slack_are_counted_as_losses(hub: Hub, chat: HistoryChat) -> None:
    def day(number: int, *texts: str) -> str:
        at = _START + number * _DAY_S
        return json.dumps([slack_message(f"{at + index}.000100", text) for index, text in enumerate(texts)])

    changed = "a text that is changed on the disk"
    long = day(3, *["x" * 1000 for _ in range(20_000)])
    days = {
        "general/2024-01-01": day(0, "whole"),
        "general/2024-01-02": day(1, "cut off")[:-10],
        "general/2024-01-03": day(2, changed),
        # Larger than what is parsed at once: what comes before the damage is imported.
        "general/2024-01-04": long[: len(long) // 2],
    }
    entries = slack_export({}, channels=CHANNELS) | {f"{name}.json": text for name, text in days.items()}
    archive = zipped(entries, stored=True).getvalue()
    archive = archive.replace(changed.encode(), changed.upper().encode())
    done = imported(hub, archive)
    assert done["status"] == "completed"
    counts = done["counts"]["messages"]
    whole = counts["imported"] - 1
    assert 9_000 < whole < 11_000
    assert (counts["found"], counts["failed"]) == (1 + whole + 3, 3)
    issues = hub.call("GET", f"/api/imports/{done['id']}/issues")["items"]
    assert [issue["place"] for issue in issues] == [f"general/2024-01-0{number}.json" for number in (2, 3, 4)]
    assert all("export it again" in issue["reason"] for issue in issues)
    assert "is damaged" in issues[1]["reason"]
    report = hub.call("GET", f"/api/imports/{done['id']}/report")
    found = {row["day"]: (row["found"], row["imported"], row["failed"]) for row in report["days"]}
    assert found == {
        "2024-01-01": (1, 1, 0),
        "2024-01-02": (1, 0, 1),
        "2024-01-03": (1, 0, 1),
        "2024-01-04": (whole + 1, whole, 1),
    }
    assert len(chat.messages) == 1 + whole
