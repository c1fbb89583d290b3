"""A connected workspace of Slack becomes history of the chat, page by page, beside live messages."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

import pytest

from tests.importer.archives import zipped
from tests.importer.slack_account import SlackAccount, slack_account
from tests.importer.test_imports import imported as imported_export
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.slack_faults import OUTSIDE_MARKETPLACE, TIER_3
from tests.support.recorded_secrets import record_secret

_SECONDS: Final = 1704067200  # 2024-01-01


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[SlackAccount]:
    with slack_account(tmp_path_factory.mktemp("account"), bus, store) as found:
        yield found


def message(at: int, user: str, text: str, **more: Any) -> dict[str, Any]:
    """Return a message of so many seconds after the start of 2024."""
    return {"ts": f"{_SECONDS + at}.000100", "user": user, "text": text, **more}


def test_an_import_by_api_equals_the_import_of_an_export(account: SlackAccount) -> None:
    ada, grace = account.team.person("Ada Example"), account.team.person("Grace Example")
    channel = account.channel(
        "plans",
        message(0, ada.user_id, "the *first* one"),
        message(10, grace.user_id, "a reply", thread_ts=f"{_SECONDS}.000100"),
        message(11, ada.user_id, "shown in both", thread_ts=f"{_SECONDS}.000100", subtype="thread_broadcast"),
        message(86_500, grace.user_id, "<@" + ada.user_id + "> look", reactions=[
            {"name": "tada", "users": [ada.user_id, grace.user_id], "count": 2}
        ]),
        message(86_600, grace.user_id, "", subtype="channel_join"),
        message(86_700, ada.user_id, "edited", edited={"user": ada.user_id, "ts": f"{_SECONDS + 90_000}.0"}),
    )  # fmt: skip
    members = [user.shown() for user in account.team.users.values()]
    shown = [dict(one) for one in channel.messages.values()]
    days = {"2024-01-01": shown[:3], "2024-01-02": shown[3:]}
    export = {
        "users.json": members,
        "channels.json": [{**channel.shown(""), "members": channel.members}],
        **{f"plans/{day}.json": found for day, found in days.items()},
    }

    by_api = account.imported(account.connect())
    assert by_api["status"] == "completed", by_api
    assert by_api["counts"]["messages"]["imported"] == 5
    assert by_api["upload_id"] is None
    first = messages_of(account)
    account.hub.call("POST", f"/api/imports/{by_api['id']}/undo", {"messages": 5})
    account.reached(by_api["id"], "undone")
    assert account.chat.messages == {}

    by_export = imported_export(account.hub, zipped(export).getvalue())
    assert by_export["counts"]["messages"] == by_api["counts"]["messages"]
    assert messages_of(account) == first
    assert next(data["text"] for data in first.values()) == "the **first** one"
    account.hub.call("POST", f"/api/imports/{by_export['id']}/undo", {"messages": 5})
    account.reached(by_export["id"], "undone")


def messages_of(account: SlackAccount) -> dict[str, Any]:
    """Return what the chat has, but for what only an account knows or what differs from import to import."""
    found = {}
    for message_id, data in sorted(account.chat.messages.items(), key=lambda item: item[1]["created_at"]):
        compared = {name: value for name, value in data.items() if name != "import_id"}
        compared["origin"] = {name: value for name, value in data["origin"].items() if name != "permalink"}
        found[message_id] = compared
    return found


def test_a_repeated_import_reads_what_is_new_and_a_daily_one_is_due_tomorrow(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    now = int(time())
    channel = account.channel("repeated", message_at(now - 900_000, ada.user_id, "long ago"))
    integration = account.connect()
    only = {"channels": {channel.id: {"into": "new"}}, "other_channels": "leave_out"}
    assert account.imported(integration, **only)["added"] == 1
    account.add(channel, message_at(int(time()), ada.user_id, "since then"))

    before = len(account.slack.called("conversations.history"))
    ready = account.begin(integration, plan=only, repeat="daily")
    account.hub.call("POST", f"/api/imports/{ready['id']}/start", {})
    again = account.reached(ready["id"], "completed")
    assert again["added"] == 1
    assert again["counts"]["messages"] == {"found": 1, "selected": 1, "imported": 1}
    (call,) = account.slack.called("conversations.history")[before:]
    assert now - 38 * 86_400 < float(call["oldest"]) <= now - 36 * 86_400

    following = account.hub.call("GET", "/api/imports")["items"][0]
    assert (following["repeat"], following["status"]) == ("daily", "reading")
    due = datetime.fromisoformat(following["starts_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < due <= timedelta(hours=24)
    plans = [account.hub.call("GET", f"/api/imports/{item['id']}/plan") for item in (again, following)]
    assert plans[0] == plans[1]
    assert list(plans[0]["channels"]) == [channel.id]
    account.hub.call("POST", f"/api/imports/{following['id']}/cancel")

    everything = account.imported(integration, **only, bots=False)
    assert everything["counts"]["messages"]["duplicate"] == 2  # another plan may select other messages
    account.hub.call("POST", f"/api/imports/{again['id']}/undo", {"messages": 1})
    account.reached(again["id"], "undone")
    assert account.imported(integration, **only)["counts"]["messages"]["found"] == 2


def test_a_repeated_import_finds_late_replies_and_says_which_it_does_not(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    now = int(time())
    days = {"recent": 3, "old": 20, "ancient": 60}
    roots = {name: message_at(now - age * 86_400, ada.user_id, name) for name, age in days.items()}
    channel = account.channel("late", *sorted(roots.values(), key=lambda root: root["ts"]))
    integration = account.connect()
    only = {"channels": {channel.id: {"into": "new"}}, "other_channels": "leave_out"}
    assert account.imported(integration, **only)["added"] == 3
    for number, (name, root) in enumerate(roots.items()):
        reply = message_at(now + number, ada.user_id, f"late reply to {name}")
        account.add(channel, reply | {"thread_ts": root["ts"]})
    calls = len(account.slack.called("conversations.replies"))
    again = account.imported(integration, **only)
    assert again["added"] == 2
    assert len(account.slack.called("conversations.replies")) - calls == 2
    texts = set(account.chat.texts("late"))
    assert texts == {*roots, "late reply to recent", "late reply to old"}
    report = account.hub.call("GET", f"/api/imports/{again['id']}/report")
    notes = " ".join(report["not_determined"])
    assert "later replies only to threads that began in the 30 days before" in notes
    assert "the newest messages first" in notes
    assert "in the export" not in notes


def test_a_refused_token_pauses_and_resume_goes_on_where_it_was(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    threads = [message(number * 100, ada.user_id, f"thread {number}") for number in range(4)]
    channel = account.channel("refused", *threads)
    for thread in threads:
        reply = {**thread, "ts": thread["ts"].replace(".0001", ".0002"), "thread_ts": thread["ts"]}
        account.add(channel, reply | {"text": f"a reply in {thread['text']}"})
    integration = account.connect()
    only = {"channels": {channel.id: {"into": "new"}}, "other_channels": "leave_out"}
    ready = account.begin(integration, plan=only)
    path = f"/api/imports/{ready['id']}"
    replies = len(account.slack.called("conversations.replies"))
    account.hub.call("POST", f"{path}/start", {})
    eventually(lambda: len(account.slack.called("conversations.replies")) > replies, 60)
    account.app.live = False
    paused = account.reached(ready["id"], "paused")
    assert "resume the import" in paused["waiting_for"]
    assert "connect" in paused["waiting_for"] or "token" in paused["waiting_for"]
    pages = len(account.slack.called("conversations.history"))

    account.app.live = True
    account.app.token = f"xoxb-{token_hex(24)}"
    record_secret("a token of a Slack app", account.app.token)
    account.connect()
    account.hub.call("POST", f"{path}/resume")
    done = account.reached(ready["id"], "completed")
    assert done["counts"]["messages"] == {"found": 8, "selected": 8, "imported": 8}
    assert len(account.slack.called("conversations.history")) == pages
    assert sorted(account.chat.texts("refused"))[:2] == ["a reply in thread 0", "a reply in thread 1"]


def test_the_limit_outside_the_marketplace_is_found_obeyed_and_estimated(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    year = 31_536_000
    now = int(time())
    written = [message_at(now - year + number * 3_600, ada.user_id, str(number)) for number in range(40)]
    channel = account.channel("limited", *written)
    channel.created = now - year - 1_000
    # The newest messages are of today, as far as the estimate is concerned.
    for one in range(20):
        account.add(channel, message_at(now - one * 86_400, ada.user_id, f"today {one}"))
    account.slack.faults.history_limit = OUTSIDE_MARKETPLACE
    try:
        integration = account.connect()
        only = {"channels": {channel.id: {"into": "new"}}, "other_channels": "leave_out"}
        ready = account.begin(integration, plan=only)
        path = f"/api/imports/{ready['id']}"
        before = len(account.slack.called("conversations.history"))
        account.hub.call("POST", f"{path}/start", {})

        def estimated() -> dict[str, Any] | None:
            found = account.hub.call("GET", path)
            return found if found["estimated_s"] else None

        found = eventually(estimated, 60)
        assert found is not None
        # 15 messages are 14 of 365 days, and a page takes 2 minutes: half of what is allowed.
        assert found["estimated_s"] == pytest.approx((365.01 / 14 - 1) * 120, rel=0.05)
        assert found["estimate"] == "about 50 minutes"
        assert found["status"] == "running"
        assert len(account.slack.called("conversations.history")) == before + 1
        began = monotonic()
        account.hub.call("POST", f"{path}/cancel")
        account.reached(ready["id"], "cancelled")
        assert monotonic() - began < 60, "a page takes two minutes"
    finally:
        account.slack.faults.history_limit = TIER_3


def test_missing_scopes_and_channels_without_the_app_are_named(account: SlackAccount) -> None:
    outside = account.team.add_channel("outside", "channel", account.team.person("Ada Example"))
    app = account.team.add_app("Reader", "channels:read channels:history")
    integration = account.connect(app.token)
    ready = account.begin(integration)
    assert ready["contents"]["missing"] == ["private channels", "group messages", "direct messages"]
    assert "groups:history" in ready["contents"]["notes"][0]
    assert "with the purpose import" in ready["contents"]["notes"][0]
    listed = account.hub.call("GET", f"/api/imports/{ready['id']}/channels", params={"limit": "200"})["items"]
    problem = next(item["problem"] for item in listed if item["conversation"] == outside.id)
    assert "/invite" in problem
    account.hub.call("POST", f"/api/imports/{ready['id']}/cancel")

    app.scopes = {"team:read"}
    created = account.hub.call("POST", f"/api/integrations/{integration}/import", {}, expect=201)
    paused = account.reached(created["id"], "paused")
    assert "Missing: channels:read, channels:history" in paused["waiting_for"]


def test_what_cannot_be_imported_is_refused_with_the_fix(account: SlackAccount) -> None:
    account.hub.call("POST", "/api/integrations/int_unknown/import", {}, expect=404)
    other = account.hub.other_workspace()
    path = f"/api/integrations/{account.connect()}/import"
    account.hub.call("POST", path, {}, key=other, expect=404)
    account.hub.call("POST", path, {"repeat": "hourly"}, expect=422)


def test_imports_use_at_most_half_of_the_rate(account: SlackAccount) -> None:
    """After all other tests of this file: of each method, between two calls of one import."""
    ada = account.team.person("Ada Example")
    channels = [account.channel(f"paced-{number}", message(0, ada.user_id, "x")) for number in range(3)]
    plan = {"channels": {channel.id: {"into": "new"} for channel in channels}, "other_channels": "leave_out"}
    before = len(account.slack.times)
    account.imported(account.connect(), **plan)
    times = [at for method, at in account.slack.times[before:] if method == "conversations.history"]
    assert len(times) == 3
    # At the whole rate, the last call follows the first one after 2.4 s, at half of it after 4.8 s.
    assert times[-1] - times[0] > 3.6


def message_at(at: int, user: str, text: str) -> dict[str, Any]:
    """Return a message of a Unix time."""
    return {"ts": f"{at}.000100", "user": user, "text": text}


def test_killed_processes_change_nothing_and_each_page_is_asked_for_about_once(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    channels = []
    for number in range(3):
        root = message(number * 1_000, ada.user_id, f"root {number}")
        channel = account.channel(f"killed-{number}", root)
        reply = message(number * 1_000 + 1, ada.user_id, f"reply {number}", thread_ts=root["ts"])
        account.add(channel, reply)
        channels.append(channel)
    plan = {"channels": {channel.id: {"into": "new"} for channel in channels}, "other_channels": "leave_out"}
    ready = account.begin(account.connect(), plan=plan)
    before = len(account.slack.called("conversations.history"))
    account.hub.call("POST", f"/api/imports/{ready['id']}/start", {})
    for pages in (1, 2):
        wanted = before + pages
        eventually(lambda: len(account.slack.called("conversations.history")) >= wanted, 60)  # noqa: B023
        account.hub.kill("importer")
        account.start("importer")
    done = account.reached(ready["id"], "completed")
    assert done["counts"]["messages"] == {"found": 6, "selected": 6, "imported": 6}
    assert len(account.slack.called("conversations.history")) <= before + 3 + 2
    texts = {text for number in range(3) for text in account.chat.texts(f"killed-{number}")}
    assert texts == {f"{kind} {number}" for kind in ("root", "reply") for number in range(3)}
    report = account.hub.call("GET", f"/api/imports/{ready['id']}/report")
    rows = [row for row in report["days"] if row["name"].startswith("killed-")]
    assert sum(row["found"] for row in rows) == 6
    assert all(row["imported"] == row["found"] for row in rows)


def test_a_dry_run_reads_first_pages_and_publishes_nothing(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    written = [message(number * 10, ada.user_id, str(number)) for number in range(205)]
    channel = account.channel("tried", *written)
    only = {"channels": {channel.id: {"into": "new"}}, "other_channels": "leave_out"}
    ready = account.begin(account.connect(), plan=only)
    batches = len(account.chat.batches)
    path = f"/api/imports/{ready['id']}"
    account.hub.call("POST", f"{path}/start", {"dry_run": True})

    def result() -> Any:
        """Return the import when its dry run has ended."""
        found = account.hub.call("GET", path)
        return found["dry_run"] and found["status"] == "ready" and found

    tried = eventually(result, 60)
    counts = tried["dry_run"]["counts"]["messages"]
    assert (counts["found"], counts["imported"]) == (200, 200)
    listed = account.hub.call("GET", f"{path}/channels", params={"limit": "200"})["items"]
    samples = next(item["samples"] for item in listed if item["conversation"] == channel.id)
    assert len(samples) == 10
    assert len(account.chat.batches) == batches
    account.hub.call("POST", f"{path}/start", {})
    done = account.reached(ready["id"], "completed")
    assert done["counts"]["messages"]["imported"] == 205
