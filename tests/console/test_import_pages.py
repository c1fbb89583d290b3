"""The steps of an import over a real hub, as a person without script goes through them."""

import os
import signal
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest

from tests.console.hostile import SCRIPTS
from tests.console.person import Answer, Person
from tests.console.test_hostile import check
from tests.importer.archives import slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import reached, uploaded
from tests.support.eventually import eventually
from tests.support.hub import Hub

NAMES = [text[:60] for text in SCRIPTS if text.isprintable()]
"""Of channels and people, as strangers name them."""


@pytest.fixture(scope="module")
def chat(hub: Hub) -> Iterator[HistoryChat]:
    with HistoryChat(hub.bus.env["KAFKA_BOOTSTRAP_SERVERS"], hub.workspace) as found:
        yield found
        assert not found.errors


@pytest.fixture(scope="module")
def other(hub: Hub) -> Iterator[Person]:
    """Somebody else who works on the same."""
    person = Person(hub.url("gateway"))
    person.sign_in(hub.admin_key)
    yield person
    person.close()


def export(channels: int = 3, **days: Any) -> bytes:
    """Return an export of Slack's whose names are hostile."""
    lists = [
        {"id": f"C{number:08}", "name": f"{NAMES[number % len(NAMES)]} {number}"}
        for number in range(channels)
    ]
    users = [
        {"id": f"U{number:08}", "team_id": f"T{token_hex(4)}", "name": name, "profile": {"real_name": name}}
        for number, name in enumerate(NAMES)
    ]
    at = 1_704_067_200
    messages = [
        slack_message(f"{at + number}.000100", text, user="U00000001") for number, text in enumerate(NAMES)
    ]
    broken = {"type": "message"}
    found = {
        f"{lists[0]['name']}/2024-01-01": [*messages, broken],
        f"{lists[1]['name']}/2024-01-02": messages[:1],
    }
    return zipped(slack_export(found, channels=lists, users=users)).getvalue()


def started(hub: Hub, person: Person, content: bytes) -> str:
    """Import an upload by the form, wait until it is read, and return its address."""
    upload = uploaded(hub, content, f"{NAMES[0]}.zip")
    page = person.open("/console/imports/new")
    form = next(item for item in page.forms if item.fields.get("upload_id") == upload)
    form.action = "/console/imports/new#own"
    path = person.send(page, "#own").path
    reached(hub, path.rpartition("/")[2], "ready")
    return path


def row_of(page: Answer, object_id: str, action: str) -> str:
    """Return the number of the row of a channel or person."""
    fields = page.form(action).fields
    return next(name[3:] for name, value in fields.items() if name.startswith("id-") and value == object_id)


def chosen(person: Person, page: Answer, what: str, do: str, **rows: tuple[str, str]) -> Answer:
    """Choose for rows, by id, and press a button."""
    values = {"do": do}
    for object_id, (option, detail) in rows.items():
        number = row_of(page, object_id, what)
        values |= {f"choice-{number}": option, f"detail-{number}": detail}
    return person.send(page, what, **values)


def test_an_import_goes_from_the_file_to_the_undo_without_script(
    hub: Hub, admin: Person, chat: HistoryChat
) -> None:
    path = started(hub, admin, export())
    shown = admin.open(path)
    check(shown)
    assert "Slack export of 3 channels" in shown.text
    assert "2024-01-01" in shown.text
    assert "Channels go into the channel that a mapping joins them with" in shown.text

    people = admin.open(f"{path}/people")
    check(people)
    assert f"{NAMES[1]}" in people.text
    stored = chosen(
        admin, people, "/people", "next", U00000001=("user", "usr_ada"), U00000002=("leave_out", "")
    )
    assert stored.path.startswith(f"{path}/channels")
    refused = chosen(admin, stored, "/channels", "save", C00000001=("existing", ""))
    assert (refused.status, "channel_id is required" in refused.text) == (422, True)
    os.kill(hub.pid("importer"), signal.SIGSTOP)
    try:
        late = chosen(
            admin, refused, "/channels", "save", C00000001=("leave_out", ""), C00000002=("new", "renamed")
        )
    finally:
        os.kill(hub.pid("importer"), signal.SIGCONT)
    assert (late.status, "The service importer does not answer" in late.text) == (503, True)
    done = admin.send(late, "/channels")
    assert "Your choices are stored" in done.text
    api = f"/api/imports/{path.rpartition('/')[2]}"
    plan = hub.call("GET", f"{api}/plan")
    assert plan["channels"] == {
        "C00000001": {"into": "leave_out", "channel_id": None, "name": None},
        "C00000002": {"into": "new", "channel_id": None, "name": "renamed"},
    }
    assert plan["people"]["U00000001"]["user_id"] == "usr_ada"

    options = admin.open(f"{path}/options")
    wrong = admin.send(options, "/options", mode="up_to")
    assert (wrong.status, "Largest file in bytes" in wrong.text) == (422, True)
    stored_options = admin.send(
        wrong, "/options", mode="none", since="2023-01-01T00:00", direct_messages="yes", bots=None
    )
    assert "The options are stored" in stored_options.text
    plan = hub.call("GET", f"{api}/plan")
    assert (plan["files"]["mode"], plan["since"], plan["bots"]) == ("none", "2023-01-01T00:00:00Z", False)
    assert (plan["direct_messages"], plan["threads"], len(plan["channels"])) == (True, True, 2)

    admin.send(stored_options, "/do/dry-run")
    eventually(lambda: reached(hub, path.rpartition("/")[2], "ready")["dry_run"])
    tried = admin.open(path)
    assert "Messages: " in tried.text.partition("The dry run")[2]
    assert "1 failed" in tried.text.partition("The dry run")[2]
    samples = admin.open(f"{path}/channels")
    check(samples)
    assert f"{len(NAMES[:10])} messages" in samples.text
    issues = admin.open(f"{path}/issues")
    check(issues)
    assert "Export it again" in issues.text or "only what is missing is added" in issues.text
    assert "left out by the plan" in admin.open(f"{path}/report").text
    assert "2024-01-01" in admin.open(f"{path}/days").text

    runs = admin.send(admin.open(f"{path}/do/start"), "/do/start")
    assert "It was started" in runs.text
    done_job = reached(hub, path.rpartition("/")[2], "completed")
    ended = admin.open(path)
    check(ended)
    assert f"{done_job['added']:,} imported" in ended.text
    assert "What the report cannot say" in ended.text
    closed = admin.open(f"{path}/channels")
    assert "nothing can be chosen now" in closed.text
    assert "left out: left out by the plan" in closed.text

    undo = admin.open(ended.link("/do/undo"))
    assert f"It takes {done_job['added']:,} messages away" in undo.text
    unsure = admin.send(undo, "/do/undo", messages=str(done_job["added"] + 1))
    assert (unsure.status, "confirm that number" in unsure.text) == (409, True)
    admin.send(unsure, "/do/undo", messages=str(done_job["added"]))
    reached(hub, path.rpartition("/")[2], "undone")
    undone = admin.open(path)
    assert f"{done_job['added']:,} messages were taken away" in undone.text
    assert "channels were taken away" in undone.text
    assert "guests were taken away" in undone.text


def test_two_people_who_plan_the_same_import_see_what_differs(hub: Hub, admin: Person, other: Person) -> None:
    path = started(hub, admin, export())
    api = f"/api/imports/{path.rpartition('/')[2]}/plan"
    mine, theirs = (person.open(f"{path}/channels") for person in (admin, other))
    chosen(other, theirs, "/channels", "save", C00000001=("new", "theirs"))
    both = chosen(admin, mine, "/channels", "save", C00000002=("new", "mine"))
    assert both.status == 200, "they have chosen for different channels"
    late = chosen(admin, mine, "/channels", "save", C00000001=("leave_out", ""))
    assert (late.status, "Stored is: new theirs" in late.text) == (409, True)
    assert hub.call("GET", api)["channels"]["C00000001"]["name"] == "theirs"
    chosen(admin, late, "/channels", "save")
    assert hub.call("GET", api)["channels"]["C00000001"]["into"] == "leave_out"

    mine, theirs = (person.open(f"{path}/options") for person in (admin, other))
    other.send(theirs, "/options", time_zone="Europe/Berlin", bots=None)
    late = admin.send(mine, "/options", reactions=None)
    assert late.status == 412
    assert "Time zone of the report's days UTC Europe/Berlin" in late.text
    assert hub.call("GET", api)["reactions"] is True
    assert admin.send(late, "/options").status == 200
    plan = hub.call("GET", api)
    assert (plan["time_zone"], plan["bots"], plan["reactions"]) == ("UTC", True, False)


def test_many_channels_are_searched_and_chosen_page_by_page(hub: Hub, admin: Person) -> None:
    path = started(hub, admin, export(channels=1_000))
    api = f"/api/imports/{path.rpartition('/')[2]}/plan"
    page = admin.open(f"{path}/channels")
    assert len(page.response.content) < 200_000
    assert page.response.text.count('name="choice-') == 30
    assert admin.open(page.link("cursor=")).response.text.count('name="choice-') == 30
    found = admin.open(f"{path}/channels?query=+999")
    assert found.response.text.count('name="choice-') == 1
    one = chosen(admin, found, "/channels", "save", C00000999=("leave_out", ""))
    assert one.path.startswith(f"{path}/channels?query=+999")
    admin.send(page, "/channels", do="page", for_all="leave_out")
    assert len(hub.call("GET", api)["channels"]) == 31
    admin.send(page, "/channels", do="none")
    plan = hub.call("GET", api)
    assert (plan["channels"], plan["other_channels"]) == ({}, "leave_out")
    admin.send(page, "/channels", do="all")
    assert hub.call("GET", api)["other_channels"] == "mapped"
    assert "left out by the plan" not in admin.open(f"{path}/people").text


def test_an_account_is_imported_only_if_there_is_one(admin: Person) -> None:
    page = admin.open("/console/imports/new")
    nothing = admin.open(page.link("/imports/account"))
    assert "Connect one for the use import" in nothing.text
