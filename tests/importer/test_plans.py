"""What a plan selects, where it goes and what the report says of it; edits; and batches within bounds."""

import csv
import io
from collections.abc import Mapping
from html.parser import HTMLParser
from secrets import token_hex
from typing import Any, Final

from pymongo import MongoClient

from services.sync.model.mapping import Leg
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.person_link import PersonLink, person_link_id
from services.sync.store import mappings, people_links
from shared.contracts.history import MAX_BATCH, MAX_BATCH_BYTES
from shared.runtime.clock import utcnow
from tests.importer.archives import USERS, slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import imported, reached, ready
from tests.support.eventually import eventually
from tests.support.hub import Hub

TEAM: Final = "T00000201"
PARTS: Final = ("imported", "duplicate", "skipped", "failed")
AT: Final = 1_704_067_200


def export(days: Mapping[str, Any], team: str, **lists: Any) -> bytes:
    """Return an export of Slack's with these lists, of a workspace of Slack's."""
    files = slack_export(days, **lists)
    users = [{**user, "team_id": team} for user in files["users.json"]]
    return zipped(files | {"users.json": users}).getvalue()


def tried(hub: Hub, import_id: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Try an import with a plan, and return it."""
    path = f"/api/imports/{import_id}"
    hub.call("PUT", f"{path}/plan", plan)
    hub.call("POST", f"{path}/start", {"dry_run": True})
    return eventually(lambda: (got := reached(hub, import_id, "ready", "failed"))["dry_run"] and got)


def undone(hub: Hub, done: Mapping[str, Any]) -> None:
    hub.call("POST", f"/api/imports/{done['id']}/undo", {"messages": done["added"]})
    assert reached(hub, done["id"], "undone")["added"] == 0


def by_name(hub: Hub, import_id: str, what: str) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in hub.call("GET", f"/api/imports/{import_id}/{what}")["items"]}


# People, channels, times


def person(number: int, name: str, **profile: str) -> dict[str, Any]:
    return {"id": f"U{number:08}", "name": name, "profile": {"display_name": name, **profile}}


PEOPLE: Final = [
    person(1, "Ada", email="ada@example.com"),
    person(2, "Grace"),
    person(3, "Linus"),
    person(4, "Barbara"),
    person(5, "Edsger"),
    {**person(6, "Deploys"), "is_bot": True},
]
LISTS: Final[Mapping[str, Any]] = {
    "users": PEOPLE,
    "channels": [
        {"id": "C00000001", "name": "general"},
        {"id": "C00000002", "name": "old", "is_archived": True},
        {"id": "C00000003", "name": "random"},
        {"id": "C00000004", "name": "private-matters"},
    ],
    "dms": [{"id": "D00000001", "members": ["U00000001", "U00000002"]}],
}


def written(author: int, at: int, text: str, **fields: Any) -> dict[str, Any]:
    return slack_message(f"{AT + at}.000100", text, user=f"U{author:08}", **fields)


MARKED: Final[Mapping[str, Any]] = {
    "reactions": [{"name": "tada", "users": ["U00000001", "U00000002"], "count": 2}],
    "pinned_to": ["C00000001"],
}
CHOSEN: Final[Mapping[str, Any]] = {
    "general/2024-01-01": [
        written(1, 0, "by Ada"),
        written(2, 10, "by Grace"),
        written(3, 20, "by Linus", **MARKED),
        written(3, 25, "a reply", thread_ts=f"{AT + 20}.000100"),
        written(4, 30, "by Barbara"),
        written(5, 40, "by Edsger"),
        written(6, 50, "by a bot", subtype="bot_message", bot_id="B1"),
        written(1, 60, "<@U00000001> has joined the channel", subtype="channel_join"),
        written(1, 82_800, "late in the evening"),
    ],
    "old/2024-01-02": [written(1, 86_400, "archived")],
    "random/2024-01-03": [written(2, 172_800, "into another one")],
    "private-matters/2024-01-03": [written(2, 172_900, "nobody's business")],
    "D00000001/2024-01-03": [written(1, 173_000, "between us")],
}


def known_to_the_hub(hub: Hub) -> None:
    """Sync joins a channel of Slack's with one of the chat, and a person with a user."""
    now = utcnow()
    legs = (
        Leg(id="leg_1", provider="chat", account="", conversation="chn_mapped", name="the mapped one"),
        Leg(id="leg_2", provider="slack", account=TEAM, conversation="C00000001"),
    )
    mapping = SyncMapping(id="map_1", workspace=hub.workspace, legs=legs, created_at=now, changed_at=now)
    link = PersonLink(
        id=person_link_id(hub.workspace, "slack", TEAM, "U00000003"),
        workspace=hub.workspace,
        provider="slack",
        account=TEAM,
        person_id="U00000003",
        user_id="usr_linus",
        how="manual",
        created_at=now,
        changed_at=now,
    )
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as client:
        database = client.get_default_database("interlink")
        database[mappings.COLLECTION].insert_one(mapping.document())
        database[people_links.COLLECTION].insert_one(link.document())


def test_people_and_channels_become_what_the_plan_says(hub: Hub, chat: HistoryChat) -> None:
    known_to_the_hub(hub)
    chat.report_user("usr_ada", "A. Lovelace", "Ada@Example.com")
    for user_id, name in (("usr_grace", "grace"), ("usr_edsger", "Edsger"), ("usr_edsger_2", "Edsger")):
        chat.report_user(user_id, name)
    content = export(CHOSEN, TEAM, **LISTS)

    def matched() -> dict[str, tuple[str, str | None, str | None]] | None:
        """The hub knows the users of the chat."""
        found = by_name(hub, ready(hub, content)["id"], "people")
        shown = {
            name: (item["matched_by"], item["user_id"], item["proposed_user_id"])
            for name, item in found.items()
        }
        return shown if shown["Ada"][0] == "email" and shown["Grace"][2] else None

    # By a verified address or a link; a name is a proposal only, and none if two have it.
    assert eventually(matched) == {
        "Ada": ("email", "usr_ada", None),
        "Grace": ("guest", None, "usr_grace"),
        "Linus": ("link", "usr_linus", None),
        "Barbara": ("guest", None, None),
        "Edsger": ("guest", None, None),
        "Deploys": ("guest", None, None),
    }

    found = ready(hub, content)
    path = f"/api/imports/{found['id']}"
    mapped = by_name(hub, found["id"], "channels")["general"]["mapped"]
    assert mapped == {"channel_id": "chn_mapped", "name": "the mapped one", "mapping_id": "map_1"}

    # As it is, without direct messages.
    default = tried(hub, found["id"], hub.call("GET", f"{path}/plan"))
    assert default["dry_run"]["counts"]["messages"]["skipped"] == {"system_message": 1}
    assert default["dry_run"]["counts"]["channels"]["skipped"] == {"direct_messages": 1}
    assert default["dry_run"]["counts"]["reactions"] == {"found": 2, "selected": 2, "imported": 2}
    samples = by_name(hub, found["id"], "channels")["general"]["samples"]
    assert [item["text"] for item in samples if item.get("pinned")] == ["by Linus"]
    assert [item["text"] for item in samples if item.get("thread_id")] == ["a reply"]
    assert default["warnings"] == []
    places = {name: item["channel_id"] for name, item in by_name(hub, found["id"], "channels").items()}
    assert places["general"] == "chn_mapped"
    assert places["random"].startswith("chn_")

    # Changed as a person would: all that there is, in a time zone in which the evening is the next day.
    plan = hub.call("GET", f"{path}/plan") | {
        "channels": {
            "C00000003": {"into": "existing", "channel_id": "chn_known"},
            "C00000004": {"into": "leave_out"},
        },
        "people": {
            "U00000002": {"as": "user", "user_id": "usr_grace", "by": "name"},
            "U00000003": {"as": "guest"},
            "U00000004": {"as": "leave_out"},
            "U00000005": {"as": "user", "user_id": "usr_edsger_2"},
        },
        "direct_messages": True,
        "system_messages": True,
        "bots": False,
        "threads": False,
        "reactions": False,
        "pins": False,
        "archived_channels": False,
        "time_zone": "Asia/Tokyo",
        "since": "2024-01-01T00:00:20Z",
    }
    every = tried(hub, found["id"], plan)
    counts = every["dry_run"]["counts"]
    assert counts["channels"]["skipped"] == {"left_out": 1, "archived": 1}
    skipped = {"outside_time_range": 2, "bot": 1, "thread": 1, "person_left_out": 1}
    assert counts["messages"]["skipped"] == skipped
    assert counts["reactions"] == {"found": 2, "skipped": {"left_out": 2}}
    assert any("written for those people only" in warning for warning in every["warnings"])

    hub.call("POST", f"{path}/start", {})
    done = reached(hub, found["id"], "completed")
    assert done["counts"]["messages"] == counts["messages"]
    assert {kind: done["counts"][kind] for kind in counts} == counts
    by_text = {item["text"]: item for item in chat.messages.values()}
    authors = {text: item["author"].get("user_id") for text, item in by_text.items()}
    assert authors == {
        "by Linus": None,
        "by Edsger": "usr_edsger_2",
        "[@Ada](mention://user/usr_ada) has joined the channel": "usr_ada",
        "late in the evening": "usr_ada",
        "into another one": "usr_grace",
        "between us": "usr_ada",
    }
    assert not {"pinned", "reactions"} & by_text["by Linus"].keys()
    assert by_text["late in the evening"]["channel_id"] == "chn_mapped"
    assert by_text["into another one"]["channel_id"] == "chn_known"
    assert chat.channels["chn_known"]["existing"] is chat.channels["chn_mapped"]["existing"] is True
    assert chat.channels[by_text["between us"]["channel_id"]]["kind"] == "direct"
    report = hub.call("GET", f"{path}/report")
    days = {row["day"] for row in report["days"] if row["imported"] and row["name"] == "general"}
    assert days == {"2024-01-01", "2024-01-02"}
    assert report["people"] == {"email": 1, "name": 1, "guest": 2, "leave_out": 1, "manual": 1}
    undone(hub, done)

    # The same plan for another export, which lacks some of what it names.
    lists = {**LISTS, "users": PEOPLE[:3], "channels": LISTS["channels"][:1], "dms": []}
    other = ready(hub, export({"general/2024-01-01": [written(2, 30, "again")]}, "T00000202", **lists))
    reused = hub.call("GET", f"{path}/plan")
    assert reused["people"]["U00000002"] == plan["people"]["U00000002"]
    shown = hub.call("PUT", f"/api/imports/{other['id']}/plan", reused)
    assert [warning.partition(":")[0] for warning in shown["warnings"]] == [
        "the plan names channels that the export does not have",
        "the plan names people whom the export does not have",
    ]
    hub.call("POST", f"/api/imports/{other['id']}/start", {})
    reached(hub, other["id"], "completed")
    assert [item["author"].get("user_id") for item in chat.messages.values()] == ["usr_grace"]
    undone(hub, hub.call("GET", f"/api/imports/{other['id']}"))


def test_a_plan_that_cannot_be_is_refused(hub: Hub) -> None:
    found = ready(hub, export({"general/2024-01-01": [written(2, 0, "a")]}, "T00000203"))
    path = f"/api/imports/{found['id']}"
    for plan, fix in (
        ({"since": "2024-01-02T00:00:00Z", "until": "2024-01-02T00:00:00Z"}, "a later time than since"),
        ({"since": "2024-01-02T00:00:00"}, "since"),
        ({"time_zone": "Mars/Phobos"}, "the name of a time zone"),
        ({"channels": {"C00000001": {"into": "existing"}}}, "channel_id is required"),
        ({"people": {"U00000001": {"as": "user"}}}, "user_id is required"),
        ({"chanels": {}}, "no such field"),
    ):
        refusal = hub.call("PUT", f"{path}/plan", plan, expect=422)
        assert fix in str(refusal)
    hub.call("PUT", f"{path}/plan", {"channels": {"C00000001": {"into": "mapped"}}})
    hub.call("POST", f"{path}/start", {})
    failed = reached(hub, found["id"], "failed")
    assert "create the mapping, or choose another channel" in failed["error"]
    undone(hub, failed)


# The report


class Page(HTMLParser):
    """The tables of a page, its elements, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        assert not attributes or tag in {"html", "meta", "tr", "td", "table", "details"}, (tag, attributes)
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


IMAGE: Final = "<img src=x onerror=alert(1)>"
FORMULA: Final = '=HYPERLINK("http://evil.example","x")'


def test_a_report_says_the_same_in_each_format_and_runs_nothing(hub: Hub, chat: HistoryChat) -> None:
    """Of an export in which nearly everything is wrong: what can be read is imported all the same."""
    same = f"{AT + 5}.000100"
    times: list[Any] = [None, "-1", "Infinity", "NaN", "0", "1830000000000", "not a time", 7, {}]
    days = {
        f"{IMAGE}/2024-01-01": [
            slack_message(f"{AT}.000100", "a parent"),
            slack_message(f"{AT + 1}.000100", "its reply", thread_ts=f"{AT}.000100"),
            slack_message(f"{AT + 2}.000100", "without a parent", thread_ts=f"{AT - 500}.000100"),
            slack_message(f"{AT + 3}.000100", "by one who left", user="U09999999"),
            {
                "type": "message",
                "ts": f"{AT + 4}.000100",
                "bot_id": "B0404",
                "subtype": "bot_message",
                "text": "bot",
            },
            slack_message(same, "the same time"),
            slack_message(f"{AT + 5}.000200", "<@U0404040> and <#C0404040> and <!subteam^S1>"),
            slack_message(f"{AT + 6}.000100", "<script>alert(2)</script>"),
            *({**slack_message("0", f"<b>{number}"), "ts": ts} for number, ts in enumerate(times)),
        ],
        "plain/2024-01-02": [slack_message(f"{AT + 86_400}.000100", "of the next day"), "no object"],
        "plain/2024-01-03": [slack_message(same, "the same time elsewhere")],
    }
    lists = {
        "users": [*USERS, person(3, "<script>alert(1)</script>")],
        "channels": [
            {"id": "C00000001", "name": IMAGE, "topic": {"value": IMAGE}, "created": 1e300},
            {"id": "C00000002", "name": FORMULA},
            {"id": "C00000003", "name": "plain", "created": "never", "members": [7, None, "U1"]},
        ],
    }
    found = ready(hub, export(days, "T00000204", **lists))
    counts = tried(hub, found["id"], {})["dry_run"]["counts"]
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/start", {})
    done = reached(hub, found["id"], "completed", "failed")
    assert done["status"] == "completed", done["error"]
    messages = done["counts"]["messages"]
    assert {name: counts[name] for name in ("messages", "people", "channels")} == {
        name: done["counts"][name] for name in ("messages", "people", "channels")
    }
    assert messages["failed"] == len(times) + 1
    assert {"without a parent", "by one who left", "bot", "the same time", "of the next day"} <= set(
        chat.texts()
    )
    by_text = {item["text"]: item for item in chat.messages.values()}
    assert by_text["its reply"]["thread_id"] == by_text["a parent"]["message_id"]
    assert by_text["without a parent"]["thread_id"] not in chat.messages
    assert by_text["by one who left"]["author"]["id"] == "U09999999"

    report = hub.call("GET", f"{path}/report")
    assert any(
        note.startswith("1 replies answer messages that no import has") for note in report["not_determined"]
    )
    for rows in (report["days"], report["channels"]):
        assert all(row["found"] == sum(row[part] for part in PARTS) for row in rows)
        for name in ("found", "imported", "failed"):
            assert sum(row[name] for row in rows) == messages[name]

    with hub.client("importer") as client:
        answer = client.get(f"{path}/report", params={"format": "csv"})
        listed = list(csv.DictReader(io.StringIO(answer.text)))
        answer_html = client.get(f"{path}/report", params={"format": "html"})
    numbers = ("found", *PARTS)
    assert [[int(row[name]) for name in numbers] for row in listed] == [
        [row[name] for name in numbers] for row in report["days"]
    ]
    assert not [row for row in listed if row["name"].startswith("=")]
    assert "sandbox" in answer_html.headers["content-security-policy"]
    page = Page(answer_html.text)
    assert not page.elements & {"script", "img", "a", "iframe", "form", "link"}
    assert IMAGE in page.text
    tables = {tuple(row) for row in page.rows}
    for row in report["channels"]:
        assert (row["name"], str(row["days"]), *(str(row[name]) for name in (*numbers, "changed"))) in tables
    undone(hub, done)


# Edits


def test_edits_are_published_once_and_only_if_the_plan_says_so(hub: Hub, chat: HistoryChat) -> None:
    day, team = "general/2024-01-01", "T00000205"
    first, second, third = (written(2, at, f"message {at}") for at in (0, 10, 20))
    edited = {**second, "text": "edited", "edited": {"user": "U00000002", "ts": f"{AT + 500}.000000"}}
    older = export({day: [first, second, third]}, team)
    newer = export({day: [first, edited, written(2, 30, "a new one")]}, team)  # the third one is deleted
    done = imported(hub, older)
    again = imported(hub, newer)
    assert (again["added"], again["counts"]["messages"]["duplicate"]) == (1, 2)
    assert "changed" not in again["counts"]["messages"]
    assert chat.texts() == ["message 0", "message 10", "message 20", "a new one"]

    def changes(content: bytes) -> list[str]:
        """Import with edits, and return what came to the chat."""
        before = len(chat.batches)
        result = imported(hub, content, edits=True)
        sent = [item for batch in chat.batches[before:] for item in batch.get("messages", ())]
        assert all(item["changed"] for item in sent)
        counts = result["counts"]["messages"]
        assert (counts.get("changed", 0), counts["duplicate"]) == (len(sent), 3)
        assert result["added"] == 0
        rows = hub.call("GET", f"/api/imports/{result['id']}/report")["days"]
        assert sum(row["changed"] for row in rows) == len(sent)
        return [item["text"] for item in sent]

    assert changes(newer) == ["edited"]
    assert chat.texts() == ["message 0", "edited", "message 20", "a new one"]
    assert changes(newer) == []
    assert changes(older) == []  # it has nothing newer
    newest = {**edited, "text": "edited again", "edited": {"user": "U00000002", "ts": f"{AT + 900}.000000"}}
    assert changes(export({day: [first, newest, third]}, team)) == ["edited again"]
    for item in (again, done):
        undone(hub, item)
    assert chat.messages == {}


# Batches


def test_batches_are_within_their_bounds_and_in_the_order_of_time(hub: Hub, chat: HistoryChat) -> None:
    days: dict[str, Any] = {
        "general/2024-01-01": [written(2, at, f"{at}") for at in range(450)],
        "general/2024-01-02": [written(2, 86_400 + at, token_hex(19_000)) for at in range(20)],
        "old/2024-01-01": [written(2, at, f"{at}") for at in range(10)],
    }
    parent = f"{AT}.000100"
    for at in (3, 300, 449):
        days["general/2024-01-01"][at]["thread_ts"] = parent
    days["general/2024-01-02"][5]["thread_ts"] = parent
    days["general/2024-01-01"].reverse()
    start = len(chat.batches)
    chat.largest_bytes = 0
    done = imported(hub, export(days, "T00000206"))
    assert done["added"] == 480
    batches = [batch for batch in chat.batches[start:] if "messages" in batch]
    sizes = [len(batch["messages"]) for batch in batches]
    assert max(sizes) == MAX_BATCH
    assert len(batches) == 3 + 2  # a channel's short days are imported together
    assert MAX_BATCH_BYTES / 2 < chat.largest_bytes <= MAX_BATCH_BYTES
    numbers = [batch["number"] for batch in chat.batches[start:]]
    assert len(set(numbers)) == len(numbers)
    for channel_id in {batch["channel_id"] for batch in batches}:
        own = sorted(
            (batch for batch in batches if batch["channel_id"] == channel_id), key=lambda item: item["number"]
        )
        listed = [item for batch in own for item in batch["messages"]]
        times = [item["created_at"] for item in listed]
        assert times == sorted(times)
        seen: set[str] = set()
        for item in listed:
            assert item.get("thread_id") is None or item["thread_id"] in seen
            seen.add(item["message_id"])
    undone(hub, done)


def test_a_plan_is_changed_bit_by_bit_and_by_one_of_two(hub: Hub, chat: HistoryChat) -> None:
    found = ready(hub, export({"general/2024-01-01": [written(1, AT, "one")]}, "T00000290", **LISTS))
    path = f"/api/imports/{found['id']}"
    plan = {"C00000001": {"into": "leave_out"}, "C00000003": {"into": "existing", "channel_id": "ch-1"}}
    with hub.client("importer") as client:

        def changed(version: int | None, **fields: Any) -> Any:
            headers = {} if version is None else {"If-Match": f'"{version}"'}
            return client.patch(f"{path}/plan", json=fields, headers=headers)

        assert changed(1, channels=plan, bots=False).json()["plan_version"] == 2
        outdated = changed(1, bots=True)
        assert (outdated.status_code, "version 2" in outdated.json()["detail"]) == (412, True)
        one = {"C00000001": None, "C00000002": {"into": "new", "name": "older"}}
        assert changed(2, channels=one, bots=None, since="2024-01-01T00:00:00Z").status_code == 200
        stored = hub.call("GET", f"{path}/plan")
        assert sorted(stored["channels"]) == ["C00000002", "C00000003"]
        assert (stored["bots"], stored["since"]) == (True, "2024-01-01T00:00:00Z")
        refused = changed(None, until="2023-01-01T00:00:00Z")
        assert (refused.status_code, "later time" in refused.text) == (422, True)
        assert changed(None, channels=None).json()["plan_version"] == 4
        assert hub.call("GET", f"{path}/plan")["channels"] == {}
        assert client.patch(f"{path}/plan", json={}, headers={"If-Match": "x"}).status_code == 400


def test_channels_and_people_are_searched_and_the_report_has_pages(hub: Hub, chat: HistoryChat) -> None:
    channels = [{"id": f"C{number:08}", "name": f"room-{number}"} for number in range(600)]
    days = {f"room-{number}/2024-01-01": [written(1, AT, "text")] for number in (0, 599)}
    found = ready(hub, export(days, "T00000291", users=PEOPLE, channels=channels))
    path = f"/api/imports/{found['id']}"

    def listed(address: str, key: str = "name") -> list[Any]:
        items, cursor = [], ""
        while True:
            answer = hub.call("GET", f"{path}/{address}{cursor and '&cursor='}{cursor}")
            items += [item[key] for item in answer["items"]]
            if (cursor := answer["next_cursor"] or "") == "":
                return items

    assert listed("channels?query=ROOM-59&limit=4") == ["room-59", *(f"room-{n}" for n in range(590, 600))]
    assert listed("channels?query=C00000007") == ["room-7"]
    assert listed("channels?kind=direct") == []
    assert listed("people?query=R&matched_by=guest&limit=2") == ["Grace", "Barbara", "Edsger"]
    hub.call("POST", f"{path}/start", {"dry_run": True})
    eventually(lambda: reached(hub, found["id"], "ready")["dry_run"])
    assert listed("report/channels?limit=70") == [item["name"] for item in channels]
    assert listed("report/days?limit=1") == ["room-0", "room-599"]
    summary = hub.call("GET", f"{path}/report?rows=false")
    assert summary.keys() == {"import", "people", "files", "not_determined"}
    with hub.client("importer") as client:
        assert client.get(f"{path}/report/days?cursor=1").status_code == 400
