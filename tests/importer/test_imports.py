"""An export becomes history of the chat: upload, plan, dry run, import, report, repetition and undo."""

import base64
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from shared.contracts.ids import provider_message_id_for
from tests.importer.archives import slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.roles import role_key

WORKSPACE: Final = "default"
DAYS: Final[Mapping[str, Any]] = {
    "general/2024-01-01": [
        slack_message("1704067200.000100", "first"),
        slack_message("1704067300.000100", "answer", thread_ts="1704067200.000100"),
        slack_message("1704067400.000100", "of a person", user="U00000002", reactions=[
            {"name": "tada", "users": ["U00000001"], "count": 1}
        ]),
    ],
    "general/2024-01-02": [slack_message("1704153600.000100", "the *second* day"), {"type": "message"}],
    "old/2023-05-05": [slack_message("1683244800.000100", "archived")],
}  # fmt: skip


def export(days: Mapping[str, Any] = DAYS, team: str = "T00000001") -> bytes:
    """Return an export of a workspace of Slack's."""
    files = slack_export(days)
    for user in (users := [dict(user) for user in files["users.json"]]):
        user["team_id"] = team
    return zipped(files | {"users.json": users}).getvalue()


def uploaded(hub: Hub, content: bytes, name: str = "export.zip") -> str:
    """Upload a file by tus in two requests, and return its id."""
    with hub.client("importer") as client:
        name64 = base64.b64encode(name.encode()).decode()
        headers = {"Upload-Length": str(len(content)), "Upload-Metadata": f"filename {name64}"}
        answer = client.post("/api/uploads", headers=headers).raise_for_status()
        location = urlsplit(answer.headers["location"]).path
        middle = len(content) // 2
        for start, part in ((0, content[:middle]), (middle, content[middle:])):
            assert patched(client, location, start, part).status_code == 204
    return location.rpartition("/")[2]


def patched(client: httpx.Client, location: str, start: int, part: bytes, **more: str) -> httpx.Response:
    headers = {"Upload-Offset": str(start), "Content-Type": "application/offset+octet-stream", **more}
    return client.patch(location, content=part, headers=headers)


def reached(hub: Hub, import_id: str, *states: str, within_s: float = 30) -> dict[str, Any]:
    """Wait until an import has one of these states."""

    def read() -> dict[str, Any] | None:
        found = hub.call("GET", f"/api/imports/{import_id}")
        return found if found["status"] in states else None

    result = eventually(read, within_s=within_s)
    assert result is not None
    return dict(result)


def ready(hub: Hub, content: bytes) -> dict[str, Any]:
    created = hub.call("POST", "/api/imports", {"upload_id": uploaded(hub, content)}, expect=201)
    found = reached(hub, created["id"], "ready", "failed")
    assert found["status"] == "ready", found["error"]
    return found


def imported(hub: Hub, content: bytes, **plan: Any) -> dict[str, Any]:
    found = ready(hub, content)
    hub.call("PUT", f"/api/imports/{found['id']}/plan", plan)
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    return reached(hub, found["id"], "completed", "failed")


def test_an_export_is_described_tried_imported_and_undone(hub: Hub, chat: HistoryChat) -> None:
    found = ready(hub, export())
    assert "Slack export of 2 channels, 2023-05 to 2024-01" in found["contents"]["description"]
    path = f"/api/imports/{found['id']}"
    assert "plan" not in found  # it may be large, and a list has many
    assert "plan" not in hub.call("GET", "/api/imports")["items"][0]
    assert hub.call("GET", f"{path}/plan")["other_channels"] == "mapped"
    channels = hub.call("GET", f"{path}/channels")["items"]
    assert [(item["name"], item["archived"]) for item in channels] == [("general", False), ("old", True)]
    assert {item["name"] for item in hub.call("GET", f"{path}/people")["items"]} == {"Ada", "Grace"}

    before = len(chat.batches)
    hub.call("POST", f"{path}/start", {"dry_run": True})
    tried = eventually(lambda: (got := reached(hub, found["id"], "ready"))["dry_run"] and got)
    assert tried["dry_run"]["counts"]["messages"] == {"found": 6, "selected": 5, "imported": 5, "failed": 1}
    sample = hub.call("GET", f"{path}/channels")["items"][0]["samples"][3]
    assert sample["text"] == "the **second** day"
    masked = hub.call("GET", f"{path}/channels", key=role_key(hub, "viewer"))["items"]
    assert [item["samples"] for item in masked] == [[], []]
    assert len(chat.batches) == before

    plan = {"people": {"U00000001": {"as": "user", "user_id": "usr_ada"}}}
    hub.call("PUT", f"{path}/plan", plan)
    hub.call("POST", f"{path}/start", {})
    done = reached(hub, found["id"], "completed")
    assert done["confirmed"] is True
    assert done["added"] == 5
    assert done["counts"]["messages"] == {"found": 6, "selected": 5, "imported": 5, "failed": 1}
    assert chat.texts("general") == ["first", "answer", "of a person", "the **second** day"]
    assert chat.texts("old") == ["archived"]
    first = provider_message_id_for("slack", "T00000001", "C00000001", "1704067200.000100")
    assert chat.messages[first]["author"]["user_id"] == "usr_ada"
    answer = next(data for data in chat.messages.values() if data["text"] == "answer")
    assert answer["thread_id"] == first

    issues = hub.call("GET", f"{path}/issues")["items"]
    assert [issue["place"] for issue in issues] == ["general/2024-01-02.json:2"] or len(issues) == 1
    assert issues[0]["record"]
    masked = hub.call("GET", f"{path}/issues", key=role_key(hub, "viewer"))["items"]
    assert masked == [issues[0] | {"record": ""}]
    report = hub.call("GET", f"{path}/report")
    days = {(row["name"], row["day"]): row for row in report["days"]}
    assert days["general", "2024-01-01"]["imported"] == 3
    for row in report["days"]:
        parts = ("imported", "duplicate", "skipped", "failed")
        assert row["found"] == sum(row[part] for part in parts)

    hub.call("POST", f"{path}/undo", {"messages": 4}, expect=409)
    hub.call("POST", f"{path}/undo", {"messages": 5})
    undone = reached(hub, found["id"], "undone")
    assert undone["added"] == 0
    # Of the two people, one is a user of the chat.
    removed = {"channels": {"removed": 2, "retained": []}, "people": {"removed": 1, "retained": []}}
    assert undone["undo"] == removed
    assert (chat.messages, chat.channels, chat.users) == ({}, {}, {})


def test_a_repeated_import_adds_what_is_new_and_its_undo_takes_only_that(hub: Hub, chat: HistoryChat) -> None:
    team = "T00000002"
    first = imported(hub, export(team=team))
    again = imported(hub, export(team=team))
    assert again["added"] == 0
    assert again["counts"]["messages"]["duplicate"] == 5
    more = {**DAYS, "general/2024-01-03": [slack_message("1704240000.000100", "a longer export")]}
    longer = imported(hub, export(more, team=team))
    assert longer["added"] == 1
    assert len(chat.texts()) == 6
    hub.call("POST", f"/api/imports/{longer['id']}/undo", {"messages": 1})
    reached(hub, longer["id"], "undone")
    assert len(chat.texts()) == 5
    path = f"/api/imports/{first['id']}/undo"
    assert hub.call("GET", path) == {"messages": 5, "shared": 5, "channels": 2, "people": 2}
    hub.call("POST", path, {"messages": 5})
    assert reached(hub, first["id"], "undone")["withdrawn"] == 5
    assert chat.texts() == []
    warnings = hub.call("GET", f"/api/imports/{again['id']}")["warnings"]
    assert any("has taken 5 messages away" in warning for warning in warnings)
    once_more = imported(hub, export(team=team))
    assert once_more["added"] == 5
    hub.call("POST", f"/api/imports/{once_more['id']}/undo", {"messages": 5})
    reached(hub, once_more["id"], "undone")


def test_an_undo_can_leave_what_a_later_import_has_found(hub: Hub, chat: HistoryChat) -> None:
    team = "T00000009"
    first = imported(hub, export(team=team))
    later = imported(hub, export(team=team))
    hub.call("POST", f"/api/imports/{first['id']}/undo", {"messages": 5, "keep_shared": True})
    undone = reached(hub, first["id"], "undone")
    assert (undone["withdrawn"], undone["left"], undone["added"]) == (0, 5, 0)
    assert len(chat.texts()) == 5
    assert hub.call("GET", f"/api/imports/{later['id']}")["added"] == 5
    hub.call("POST", f"/api/imports/{later['id']}/undo", {"messages": 5})
    reached(hub, later["id"], "undone")
    assert chat.texts() == []


def test_a_live_message_is_no_part_of_an_undo(hub: Hub, chat: HistoryChat) -> None:
    live = provider_message_id_for("slack", "T00000003", "C00000001", "1704067200.000100")
    chat.add(live, "live", "it came live")
    done = imported(hub, export(team="T00000003"))
    assert done["added"] == 4
    assert done["counts"]["messages"]["duplicate"] == 1
    hub.call("POST", f"/api/imports/{done['id']}/undo", {"messages": 4})
    reached(hub, done["id"], "undone")
    assert list(chat.messages) == [live]
    del chat.messages[live]


def test_what_the_chat_rejects_is_an_issue(hub: Hub, chat: HistoryChat) -> None:
    days = {"general/2024-01-01": [slack_message("1704067200.000100", "unacceptable")]}
    done = imported(hub, export(days, team="T00000004"))
    assert done["counts"]["messages"]["failed"] == 1
    issue = hub.call("GET", f"/api/imports/{done['id']}/issues")["items"][0]
    assert issue["reason"] == "the chat rejected it: unacceptable"


def test_the_plan_selects(hub: Hub, chat: HistoryChat) -> None:
    plan = {
        "channels": {
            "C00000002": {"into": "leave_out"},
            "C00000001": {"into": "existing", "channel_id": "known"},
        },
        "people": {"U00000002": {"as": "leave_out"}},
        "since": "2024-01-01T00:00:30Z",
    }
    done = imported(hub, export(team="T00000005"), **plan)
    assert done["counts"]["messages"]["skipped"] == {"outside_time_range": 1, "person_left_out": 1}
    assert {data["channel_id"] for data in chat.messages.values()} == {"known"}
    assert chat.channels["known"]["existing"] is True
    hub.call("POST", f"/api/imports/{done['id']}/undo", {"messages": done["added"]})
    reached(hub, done["id"], "undone")


def test_a_file_of_another_kind_fails_with_the_known_kinds(hub: Hub) -> None:
    created = hub.call("POST", "/api/imports", {"upload_id": uploaded(hub, b"nothing known")}, expect=201)
    failed = reached(hub, created["id"], "failed")
    assert "Slack" in failed["error"]


def test_a_question_of_an_export_is_answered_before_it_starts(hub: Hub, chat: HistoryChat) -> None:
    text = b"3/4/24, 10:00 - Ada: a\n3/4/24, 10:01 - Grace: b\n3/4/24, 10:02 - Alan: c\n"
    found = ready(hub, text)
    path = f"/api/imports/{found['id']}"
    asked = {item["id"]: item for item in found["contents"]["choices"]}
    assert [option["value"] for option in asked["date_order"]["options"]] == ["dmy", "mdy"]
    refusal = hub.call("POST", f"{path}/start", {}, expect=409)
    assert "date_order is not answered" in refusal["detail"]
    plan = {"answers": {"date_order": "mdy"}, "direct_messages": True}
    hub.call("PUT", f"{path}/plan", plan)
    eventually(lambda: hub.call("GET", path)["contents"]["first"] == "2024-03-04")
    reached(hub, found["id"], "ready")
    hub.call("POST", f"{path}/start", {})
    done = reached(hub, found["id"], "completed")
    assert (done["added"], chat.texts("Ada, Grace, Alan")) == (3, ["a", "b", "c"])
    hub.call("POST", f"{path}/undo", {"messages": 3})
    reached(hub, found["id"], "undone")


def test_an_import_can_be_paused_and_cancelled(hub: Hub, chat: HistoryChat) -> None:
    found = ready(hub, export(team="T00000006"))
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/pause", expect=409)
    chat.confirms = False
    try:
        hub.call("POST", f"{path}/start", {})
        assert hub.call("POST", f"{path}/pause")["status"] == "paused"
        hub.call("POST", f"{path}/start", {}, expect=409)
        hub.call("POST", f"{path}/resume")
        assert hub.call("POST", f"{path}/cancel")["status"] == "cancelled"
    finally:
        chat.confirms = True
    assert hub.call("POST", f"{path}/cancel", expect=409)["status"] == 409


def test_a_chat_that_confirms_nothing_gets_everything_all_the_same(hub: Hub, chat: HistoryChat) -> None:
    """Also one that confirms after all: what it had already is no part of an undo."""
    live = provider_message_id_for("slack", "T00000007", "C00000001", "1704067200.000100")
    chat.add(live, "live", "it came live")
    days = {**DAYS, "general/2024-01-04": [slack_message("1704326400.000100", "unacceptable")]}
    chat.confirms = False
    try:
        done = imported(hub, export(days, team="T00000007"))
    finally:
        chat.confirms = True
    assert done["confirmed"] is False
    assert done["added"] == 6
    path = f"/api/imports/{done['id']}"
    assert "not confirmed" in hub.call("GET", f"{path}/report")["not_determined"][0]

    chat.confirm_late()
    eventually(lambda: hub.call("GET", path)["added"] == 4)
    assert "2 messages that count as imported" in hub.call("GET", f"{path}/report")["not_determined"][1]
    assert hub.call("GET", f"{path}/undo")["messages"] == 4
    hub.call("POST", f"{path}/undo", {"messages": 4})
    assert reached(hub, done["id"], "undone")["withdrawn"] == 4
    withdrawn = [item for batch in chat.batches for item in batch.get("message_ids", ())]
    assert live not in withdrawn
    assert list(chat.messages) == [live]
    del chat.messages[live]


def test_another_workspace_sees_nothing(hub: Hub) -> None:
    found, other = ready(hub, export(team="T00000008")), hub.other_workspace()
    for path in ("", "/channels", "/people", "/issues", "/report", "/events"):
        hub.call("GET", f"/api/imports/{found['id']}{path}", key=other, expect=404)
    for action in ("pause", "resume", "cancel"):
        hub.call("POST", f"/api/imports/{found['id']}/{action}", key=other, expect=404)
    hub.call("GET", f"/api/uploads/{found['upload_id']}", key=other, expect=404)
    hub.call("POST", "/api/imports", {"upload_id": found["upload_id"]}, key=other, expect=404)


def test_a_killed_importer_is_replaced_and_nothing_doubles(tmp_path: Path, bus: Bus, store: Store) -> None:
    env = {"INTERLINK_UPLOAD_FOLDER": str(tmp_path / "uploads")}
    workspace = f"w-{token_hex(4)}"
    days = {
        f"general/2024-01-{day:02}": [
            slack_message(f"{1704067200 + 86400 * (day - 1) + number}.000100", f"{day} {number}")
            for number in range(300)
        ]
        for day in range(1, 11)
    }
    with (
        Hub(tmp_path, bus, store, services=("importer",), env=env, workspace=workspace) as hub,
        HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], workspace) as chat,
    ):
        found = ready(hub, export(days))
        path = f"/api/imports/{found['id']}"
        hub.call("POST", f"{path}/start", {})
        for messages in (300, 1500):
            assert eventually(lambda: len(chat.messages) >= messages)  # noqa: B023 -- asked at once
            hub.kill("importer")
            hub.start_service("importer")
            hub.wait_ready("importer")
        done = reached(hub, found["id"], "completed")
        assert done["added"] == 3000
        assert chat.texts() == [f"{day} {number}" for day in range(1, 11) for number in range(300)]
        assert not chat.errors
