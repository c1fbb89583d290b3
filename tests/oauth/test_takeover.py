"""Two users and one account: each has an integration if tokens are per person; else one user has it.

Another user gets the integration only by a takeover, and does not learn who has the account.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError

from services.oauth.authorization.account_identity import AccountMatcher
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.manifests.accounts import AccountIdentity
from shared.manifests.registry import registry
from shared.runtime.clock import utcnow
from tests.oauth.test_integration_users import published
from tests.support.accounts import Accounts
from tests.support.backends import Bus, Store
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.fakes.slack import Slack
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer
from tests.support.second_process import second_process

ADA, BOB = "usr_ada", "usr_bob"


@pytest.fixture(scope="module")
def oauth_hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[OAuthHub]:
    with OAuthHub(tmp_path_factory.mktemp("stage"), bus, store, {}) as made:
        made.register("slack", settings={"user_scope": "search:read"})
        yield made
        assert made.platforms.faults == []


@pytest.fixture
def team(oauth_hub: OAuthHub) -> tuple[Slack, Callable[[int], None]]:
    """A team of Slack with two people, and how one of them logs in."""
    fake = oauth_hub.play("slack")
    assert isinstance(fake, Slack)
    ada = fake.accounts[0]
    people = [ada, replace(fake.account(oauth_hub.number()), places=ada.places)]

    def login(number: int) -> None:
        fake.accounts = [people[number]]

    return fake, login


Team = tuple[Slack, Callable[[int], None]]


def test_two_people_of_a_team_have_integrations_of_their_own(oauth_hub: OAuthHub, team: Team) -> None:
    _, login = team
    login(0)
    of_ada = oauth_hub.connect("slack", user=ADA)
    login(1)
    of_bob = oauth_hub.connect("slack", user=BOB)
    assert of_ada["id"] != of_bob["id"]
    assert of_ada["account"]["id"] == of_bob["account"]["id"], "by the team, events are routed"
    tokens = {oauth_hub.access(item["id"], "user").token for item in (of_ada, of_bob)}
    assert len(tokens) == 2
    assert oauth_hub.shown(of_ada["id"])["user"] == ADA
    for number, user, mine in ((0, ADA, of_ada), (1, BOB, of_bob), (0, None, of_ada)):
        login(number)
        with oauth_hub.person() as person:
            assert oauth_hub.shown(person.connected("slack", user=user))["id"] == mine["id"]
    login(1)
    with oauth_hub.person() as bob:
        page = bob.go(bob.reconnect(of_ada["id"])["authorization_url"])
    assert (page.status_code, "other_account" in page.text) == (400, True)
    assert oauth_hub.do(of_ada["id"], "refresh")["user"] == ADA


def test_a_person_is_found_among_a_thousand_of_a_team(oauth_hub: OAuthHub, team: Team) -> None:
    """Connecting the account again keeps its integration, however many colleagues have one."""
    _, login = team
    login(1)
    colleague = oauth_hub.connect("slack", user=BOB)["id"]
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"]) as mongo:
        integrations = mongo.get_default_database()["integrations"]
        stored = integrations.find_one({"_id": colleague})
        assert stored
        integrations.insert_many(
            [
                {
                    **stored,
                    "_id": f"int_0000_{number}",
                    "account": {**stored["account"], "person": f"U{number}"},
                    "identity": f"of {number}",
                }
                for number in range(1000)
            ]
        )
        try:
            login(0)
            of_ada = oauth_hub.connect("slack", user=ADA)
            with oauth_hub.person() as person:
                again = person.connect("slack", user=ADA)
                assert person.go(again["authorization_url"]).status_code == 200
            assert oauth_hub.shown(again["integration_id"])["id"] == of_ada["id"]
        finally:
            integrations.delete_many({"_id": {"$regex": "^int_0000_"}})


def test_one_person_of_a_team_does_not_end_what_another_connected(oauth_hub: OAuthHub, team: Team) -> None:
    """Slack ends the whole installation with a token: it is asked for the last one only."""
    fake, login = team
    login(0)
    of_ada = oauth_hub.connect("slack", user=ADA)
    login(1)
    of_bob = oauth_hub.connect("slack", user=BOB)
    revocations = fake.revocations
    oauth_hub.do(of_bob["id"], "disconnect")
    assert fake.revocations == revocations
    assert oauth_hub.do(of_ada["id"], "check")["last_error"] is None
    oauth_hub.do(of_ada["id"], "disconnect")
    assert fake.revocations > revocations


def as_earlier_versions_stored_it(oauth_hub: OAuthHub, integration: str) -> None:
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"]) as mongo:
        done = mongo.get_default_database()["integrations"].update_one(
            {"_id": integration},
            {"$unset": {"account.person": "", "identity": "", "holds_identity": "", "lease": ""}},
        )
    assert done.modified_count == 1


@pytest.mark.parametrize("users", [(ADA, BOB), (None, BOB)], ids=["named", "first-was-not-named"])
def test_documents_of_earlier_releases_work_and_are_found_by_their_user(
    oauth_hub: OAuthHub, team: Team, users: tuple[str | None, str]
) -> None:
    fake, login = team
    first, second = users
    login(0)
    of_first = oauth_hub.connect("slack", user=first)
    as_earlier_versions_stored_it(oauth_hub, of_first["id"])
    assert oauth_hub.do(of_first["id"], "refresh")["status"] == "connected"
    as_earlier_versions_stored_it(oauth_hub, of_first["id"])
    login(1)
    of_second = oauth_hub.connect("slack", user=second)
    assert of_second["id"] != of_first["id"]
    assert oauth_hub.shown(of_first["id"])["user"] == first
    login(0)
    with oauth_hub.person() as person:
        assert oauth_hub.shown(person.connected("slack", user=first))["id"] == of_first["id"]
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"]) as mongo:
        stored = mongo.get_default_database()["integrations"].find_one({"_id": of_first["id"]})
    assert stored
    assert (stored["account"]["person"], stored["holds_identity"]) == (fake.accounts[0].id, True)


@pytest.mark.parametrize(
    ("provider", "stored", "person"),
    [
        ("intercom", {"admin_id": "1", "region": "US"}, "1"),
        ("blackbaud", {"environment_id": "p-1", "user_id": "u-1"}, "u-1"),
        ("hubspot", {"portal_id": "7"}, None),
        ("slack", {"team_id": "T1", "user_id": "U1", "bot_id": "B1"}, None),
        ("github", {"login": "ada"}, ""),
    ],
)
def test_the_person_of_a_stored_account_is_read_from_its_values(
    provider: str, stored: dict[str, str], person: str | None
) -> None:
    document = {"provider": provider, "user": ADA, "account": {"id": "a", "label": "A", "kept": stored}}
    now, numbers = utcnow(), dict.fromkeys(("version", "fence", "settled_fence"), 0)
    times = {"created_at": now, "changed_at": now, "deleted_at": None}
    known = {"_id": "int_1", "workspace": "ws_1", "kind": "oauth2", "name": "", "status": "connected"}
    integration = Integration.from_document(document | times | numbers | known)
    integrations, tokens = cast("IntegrationRepository", None), cast("TokenSource", None)
    matcher = AccountMatcher(integrations, registry().connectors, tokens)
    same = matcher.is_same_account
    assert matcher.person_of(integration) == person
    named = person or ("p" if person is None else "")
    assert same(integration, AccountIdentity("a", "A", person=named), ADA)
    assert same(integration, AccountIdentity("a", "A", person=named), BOB) is (person is not None)
    assert not same(integration, AccountIdentity("b", "B", person=named), ADA)
    if person:
        assert not same(integration, AccountIdentity("a", "A", person="somebody else"), ADA)


# Of one account


def connected(shared_accounts: Accounts, rotating: RotatingServer, login: str, **fields: Any) -> str:
    rotating.login(login)
    with Person(shared_accounts.hub, login) as person:
        return str(shared_accounts.shown(person.connected("oidc", **fields))["id"])


def test_another_user_is_refused_and_does_not_learn_whose_account_it_is(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    name = "private-name-of-ada"
    integration = connected(shared_accounts, rotating, "shared-refused", user=ADA, name=name)
    with Person(shared_accounts.hub, "shared-refused") as bob:
        authorization = bob.connect("oidc", user=BOB)
        page = bob.go(authorization["authorization_url"])
        assert page.status_code == 409
        assert "account_in_use" in page.text
        assert "takeover" in page.text
        for secret in (ADA, name, integration):
            assert secret not in page.text
        refused = bob.reconnect(integration, user=BOB, expect=409)
        assert refused["errors"] == [{"field": "takeover", "message": "account_in_use"}]
        assert ADA not in str(refused)
    shown = shared_accounts.shown(integration)
    assert (shown["user"], shown["status"]) == (ADA, "connected")
    shared_accounts.call(integration, "refresh")
    assert len(rotating.grants_of("shared-refused")) == 1, "what is not kept was given back"
    assert shared_accounts.events(integration) == ["connected", "refreshed"]


def test_a_takeover_changes_the_user_and_is_published(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    integration = connected(shared_accounts, rotating, "shared-taken", user=ADA)
    [first] = rotating.grants_of("shared-taken")
    assert connected(shared_accounts, rotating, "shared-taken", user=BOB, takeover=True) == integration
    [second] = rotating.grants_of("shared-taken")
    assert second is not first, "the grant that was replaced is revoked"
    assert shared_accounts.shown(integration)["user"] == BOB
    shared_accounts.call(integration, "refresh")
    assert shared_accounts.events(integration) == ["connected", "connected", "taken_over", "refreshed"]
    taken = [data for data in published(shared_accounts, integration) if "previousUser" in data]
    assert [(data["user"], data["previousUser"]) for data in taken] == [(BOB, ADA)]


def test_a_takeover_revokes_nothing_if_a_revocation_ends_all_grants(oauth_hub: OAuthHub, team: Team) -> None:
    fake, login = team
    fake.lifetime_s = None  # installing again gives the same tokens
    login(0)
    first = oauth_hub.connect("slack", user=ADA)
    with oauth_hub.person() as bob:
        taken = oauth_hub.shown(bob.connected("slack", user=BOB, takeover=True))
    assert (taken["id"], taken["user"], fake.revocations) == (first["id"], BOB, 0)
    assert oauth_hub.do(first["id"], "check")["last_error"] is None


def test_a_disconnected_account_is_free_for_another_user(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    of_ada = connected(shared_accounts, rotating, "shared-ended", user=ADA)
    shared_accounts.call(of_ada, "disconnect")
    of_bob = connected(shared_accounts, rotating, "shared-ended", user=BOB)
    assert of_bob != of_ada
    with Person(shared_accounts.hub, "shared-ended") as ada:
        page = ada.go(ada.connect("oidc", user=ADA)["authorization_url"])
        assert (page.status_code, "account_in_use" in page.text) == (409, True)
    shared_accounts.call(of_bob, "disconnect")
    assert connected(shared_accounts, rotating, "shared-ended", user=ADA) == of_ada


def test_the_database_allows_one_integration_per_account(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    integration = connected(shared_accounts, rotating, "shared-index", user=ADA)
    other = {**shared_accounts.stored(integration), "_id": "int_other"}
    with pytest.raises(DuplicateKeyError):
        shared_accounts.database.integrations.insert_one(other)


def test_two_processes_connect_one_account_once_also_without_their_lock(
    shared_accounts: Accounts, rotating: RotatingServer, bus: Bus, store: Store, tmp_path: Path
) -> None:
    rotating.login("shared-processes")
    over = Event()

    def unlock() -> None:
        while not over.is_set():
            shared_accounts.database.oauth_states.delete_many({"sealed": {"$exists": False}})

    with second_process("oauth", shared_accounts.hub, tmp_path, bus, store) as second:
        unlocking = Thread(target=unlock)
        unlocking.start()
        try:
            people = [Person(shared_accounts.hub, "shared-processes") for _ in range(6)]
            came = [item.consent(item.connect("oidc", user=ADA)["authorization_url"]) for item in people]
            here, elsewhere = shared_accounts.hub.url("oauth"), second.url("oauth")
            urls = [url.replace(here, elsewhere) if number % 2 else url for number, url in enumerate(came)]
            with ThreadPoolExecutor(len(people)) as pool:
                answers = list(
                    pool.map(lambda item: item[0].client.get(item[1]), zip(people, urls, strict=True))
                )
        finally:
            over.set()
            unlocking.join()
            for person in people:
                person.client.close()
    assert {answer.status_code for answer in answers} <= {200, 303}, [item.text for item in answers]
    mine = {"account.id": "shared-processes", "status": "connected", "deleted_at": None}
    assert shared_accounts.database.integrations.count_documents(mine) == 1
