"""Conversations and people as the providers list them, and who of them is which user of the chat."""

from secrets import token_hex
from typing import Any

from tests.support.fakes.slack_people import Person
from tests.sync.three_legs import World

Json = dict[str, Any]
CONVERSATIONS = "/api/sync/conversations"
PEOPLE = "/api/sync/people"
LINKS = "/api/people-links"


def everything(world: World, path: str, **query: str) -> list[Json]:
    """All items of a list, page by page."""
    found: list[Json] = []
    while True:
        page = world.hub.call("GET", path, params=query)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def colleague(world: World, **fields: str) -> Person:
    """Somebody in the Slack workspace whom no other test knows."""
    return world.team.person(f"Colleague {token_hex(4)}", **fields)


def test_conversations_are_searched_at_the_provider(world: World) -> None:
    legs = world.legs()
    world.team.add_channel(f"outside-{token_hex(3)}", "channel", colleague(world))
    named = everything(world, CONVERSATIONS, provider="slack", query=f"#{legs.slack.channel.name}")
    found = next(item for item in named if item["id"] == legs.slack.channel.id)
    assert (found["name"], found["kind"], found["problem"]) == (legs.slack.channel.name, "channel", None)
    outside = everything(world, CONVERSATIONS, integration_id=world.slack_integration, query="outside-")
    assert {item["problem"] for item in outside} == {
        "The app is not in this channel: invite it with /invite in Slack."
    }


def test_a_list_has_pages(world: World) -> None:
    names = {f"many-{number}" for number in range(230)}
    for name in names:
        world.team.add_channel(name, "channel", world.app)
    first = world.hub.call("GET", CONVERSATIONS, params={"provider": "slack"})
    assert first["next_cursor"]
    listed = everything(world, CONVERSATIONS, provider="slack", query="many-")
    assert {item["name"] for item in listed} == names


def test_what_a_provider_does_not_list_is_looked_up_by_id(world: World) -> None:
    legs = world.legs()
    refused = world.hub.call("GET", CONVERSATIONS, params={"provider": "telegram"}, expect=422)
    assert "enter the id of the chat" in refused["detail"]
    refused = world.hub.call("GET", PEOPLE, params={"provider": "telegram"}, expect=422)
    assert "cannot list people" in refused["detail"]
    query = {"provider": "telegram", "conversation": str(legs.telegram.chat.id)}
    [found] = world.hub.call("GET", CONVERSATIONS, params=query)["items"]
    assert (found["id"], found["name"]) == (str(legs.telegram.chat.id), legs.telegram.chat.title)
    world.hub.call("GET", CONVERSATIONS, params=query | {"conversation": "-100404"}, expect=404)
    world.hub.call("GET", CONVERSATIONS, params=query | {"query": "x"}, expect=422)


def test_only_accounts_of_the_workspace_are_asked(world: World) -> None:
    foreign = world.hub.other_workspace()
    for path in (CONVERSATIONS, PEOPLE):
        for query in ({"integration_id": world.slack_integration}, {"provider": "slack"}):
            world.hub.call("GET", path, params=query, key=foreign, expect=404)
        world.hub.call("GET", path, expect=422)
        world.hub.call("GET", path, params={"provider": "github"}, expect=422)


def test_people_are_searched_by_name_and_address(world: World) -> None:
    name = f"colleague-{token_hex(4)}"
    person = colleague(world, name=name, email="colleague@example.com")
    [found] = everything(world, PEOPLE, provider="slack", query=name.upper())
    assert (found["id"], found["email"]) == (person.user_id, "colleague@example.com")
    assert found in everything(world, PEOPLE, provider="slack", query="colleague@")


def test_a_person_is_linked_by_hand_by_address_or_as_a_guest(world: World) -> None:
    person = colleague(world, email=f"{token_hex(4)}@example.com")
    body = {"provider": "slack", "person_id": person.user_id, "user_id": "usr_1"}
    linked = world.hub.call("PUT", LINKS, body)
    assert (linked["account"], linked["user_id"], linked["how"]) == (world.team.id, "usr_1", "manual")
    again = world.hub.call("PUT", LINKS, body | {"user_id": "usr_2"})
    assert (again["id"], again["user_id"]) == (linked["id"], "usr_2")
    by_address = body | {"how": "email", "email": person.user.email.upper()}
    assert world.hub.call("PUT", LINKS, by_address)["email"] == person.user.email
    other = world.hub.call("PUT", LINKS, by_address | {"email": "other@example.com"}, expect=422)
    assert other["errors"][0]["field"] == "email"
    assert "verified another address" in other["detail"]
    person.user.email_confirmed = False
    unverified = world.hub.call("PUT", LINKS, by_address, expect=422)
    assert "no verified address" in unverified["detail"]
    guest = {"provider": "slack", "person_id": person.user_id, "how": "guest"}
    assert world.hub.call("PUT", LINKS, guest)["user_id"] is None
    world.hub.call("PUT", LINKS, guest | {"user_id": "usr_1"}, expect=422)
    world.hub.call("PUT", LINKS, body | {"how": "email"}, expect=422)
    world.hub.call("PUT", LINKS, by_address | {"person_id": "U0NOBODY"}, expect=404)


def test_links_are_listed_and_deleted(world: World) -> None:
    hub, user = world.hub, f"usr_{token_hex(4)}"
    people = [colleague(world).user_id for _ in range(3)]
    bodies = [{"provider": "slack", "person_id": person, "user_id": user} for person in people]
    links = [hub.call("PUT", LINKS, body) for body in bodies]
    assert everything(world, LINKS, user_id=user, limit="2") == links[::-1]
    assert everything(world, LINKS, person_id=people[1], provider="slack") == [links[1]]
    foreign = hub.other_workspace()
    assert hub.call("GET", LINKS, key=foreign)["items"] == []
    hub.call("DELETE", f"{LINKS}/{links[0]['id']}", key=foreign, expect=404)
    hub.call("PUT", LINKS, bodies[0], key=foreign, expect=404)
    hub.call("DELETE", f"{LINKS}/{links[0]['id']}", expect=204)
    assert everything(world, LINKS, user_id=user) == [links[2], links[1]]
