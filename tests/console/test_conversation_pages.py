"""Conversations of a Slack workspace are found, mapped, changed by two, and imported, without script."""

from collections.abc import Iterator
from secrets import token_hex

import pytest

from tests.console.person import Answer, Person
from tests.console.test_hostile import check
from tests.importer.slack_account import SlackAccount, slack_account
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.slack_setting import SCOPES

SERVICES = ("gateway", "oauth", "importer", "sync", "console")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[SlackAccount]:
    folder = tmp_path_factory.mktemp("slack")
    with slack_account(folder, bus, store, services=SERVICES, scopes=SCOPES, public_url="") as found:
        yield found


@pytest.fixture(scope="module")
def hub(setting: SlackAccount) -> Hub:
    return setting.hub


@pytest.fixture(scope="module")
def account(setting: SlackAccount) -> str:
    return setting.connect()


@pytest.fixture(scope="module")
def other(hub: Hub) -> Iterator[Person]:
    """Somebody else who works on the same."""
    person = Person(hub.url("gateway"))
    person.sign_in(hub.admin_key)
    yield person
    person.close()


@pytest.fixture(scope="module")
def mapping(setting: SlackAccount, account: str, admin: Person) -> Answer:
    """A mapping of a found conversation."""
    channel = setting.channel(f"news-{token_hex(3)}")
    search = admin.open(admin.open("/console/mappings").link("/mappings/find"))
    assert 'name="place"' in search.response.text
    place = f"slack%7C{setting.team.id}"
    nothing = admin.open(f"/console/mappings/find?place={place}&query=no-such-channel")
    assert "No conversation fits" in nothing.text
    found = admin.open(f"/console/mappings/find?place={place}&query={channel.name}")
    form = admin.open(found.link("/do/create"))
    missing = admin.send(form, "/do/create")
    assert (missing.status, "Conversation 1: choose where it is, and enter its id" in missing.text) == (
        422,
        True,
    )
    named = {"name": "<b>news</b>", "conversation-0": "general", "direction-1": "in"}
    tried = admin.send(missing, "/do/create", **named, do="preview")
    assert "It can be stored." in tried.text
    assert f"slack {channel.name} sends only" in tried.text
    assert hub_mappings(setting.hub) == []
    made = admin.send(tried, "/do/create")
    assert made.path.startswith("/console/mappings/map_"), made.text
    return made


def hub_mappings(hub: Hub) -> list[object]:
    return list(hub.call("GET", "/api/mappings")["items"])


def test_a_mapping_shows_each_conversation_with_its_direction_and_state(
    admin: Person, mapping: Answer
) -> None:
    check(mapping)
    assert "sends only" in mapping.text
    assert "sends and receives" in mapping.text
    assert "<b>news</b>" in mapping.text
    path = mapping.path.partition("?")[0]
    warning = admin.open(mapping.link("/do/pause"))
    assert "What is written until it is resumed is not forwarded" in warning.text
    assert "It is paused" in admin.send(warning, "/do/pause").text
    assert "New messages are forwarded again" in admin.send(admin.open(path), "/do/resume").text


def test_the_second_of_two_people_sees_what_differs_and_chooses(
    hub: Hub, admin: Person, other: Person, mapping: Answer
) -> None:
    path = f"{mapping.path.partition('?')[0]}/do/edit"
    mine, theirs = admin.open(path), other.open(path)
    stored = other.send(theirs, "/do/edit", name="theirs", exclude_words="secret", reactions=None)
    assert "The mapping is changed" in stored.text
    late = admin.send(mine, "/do/edit", name="mine", files=None)
    assert late.status == 412
    assert "Name mine theirs" in late.text
    assert "No messages with one of these words secret" in late.text
    assert "Forward files no yes" in late.text
    settings = hub.call("GET", f"/api/mappings/{path.split('/')[3]}")
    assert (settings["name"], settings["options"]["files"]) == ("theirs", True)
    assert admin.open(late.path).form("/do/edit").fields["name"] == "theirs", "what is stored can be taken"
    admin.send(late, "/do/edit")
    settings = hub.call("GET", f"/api/mappings/{path.split('/')[3]}")
    assert (settings["name"], settings["options"]["files"], settings["options"]["reactions"]) == (
        "mine",
        False,
        True,
    )
    assert [leg["direction"] for leg in settings["legs"]] == ["both", "in"]


def test_an_id_of_the_provider_leads_to_its_account_and_message(
    hub: Hub, setting: SlackAccount, account: str, admin: Person, mapping: Answer
) -> None:
    accounts = admin.open(f"/console/find?id={setting.team.id}")
    assert accounts.link("/console/integrations/int_") == f"/console/integrations/{account}"
    message = f"m-{token_hex(8)}"
    author = {"id": "u", "name": "U"}
    data = {"message_id": message, "channel_id": "general", "text": "found by its own id", "author": author}
    event = {"specversion": "1.0", "id": f"e-{token_hex(8)}", "source": "/chat", "type": "message.created"}
    hub.call("POST", "/api/events", [event | {"subject": "general", "data": data}], expect=202)

    eventually(lambda: "found by its own id" in admin.open(f"/console/find?id={message}").text)
    page = admin.open(f"/console/find?id={message}")
    assert page.path == f"/console/paths/{message}"
    assert page.link("/console/messages/syn_")


def test_an_account_is_imported_with_its_estimate(setting: SlackAccount, account: str, admin: Person) -> None:
    setting.channel("history", {"ts": "1704067200.000100", "user": "U00000001", "text": "<i>first</i>"})
    form = admin.open(admin.open("/console/imports/new").link("/imports/account"))
    assert "with at most half of what the provider allows" in form.text
    first_page = admin.send(form, "/imports/account")
    assert first_page.path.startswith("/console/imports/imp_"), first_page.text
    import_id = first_page.path.rpartition("/")[2]
    setting.reached(import_id, "ready")
    ready = admin.open(first_page.path)
    admin.send(ready, "/do/dry-run")
    eventually(lambda: setting.reached(import_id, "ready")["dry_run"])
    tried = admin.open(first_page.path)
    assert "At half of what the provider allows, the import takes about" in tried.text
    check(admin.open(f"{first_page.path}/channels"))
    admin.send(admin.open(f"{first_page.path}/do/start"), "/do/start")
    done = setting.reached(import_id, "completed")
    assert f"{done['added']} imported" in admin.open(first_page.path).text
