"""What waits for its confirmation is complete: several grants, several sites, OAuth 1.0a, shared grants."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import MongoClient

from shared.connections.refresh_outcome import NotConnected
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.oauth_hub import OAuthHub
from tests.support.tickets import USER, bring_back, confirm, start


@pytest.fixture(scope="module")
def oauth_hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[OAuthHub]:
    with OAuthHub(tmp_path_factory.mktemp("stage"), bus, store, {}) as made:
        made.register("slack", settings={"user_scope": "search:read"})
        yield made
        assert made.platforms.faults == []


def brought(oauth_hub: OAuthHub, provider: str, **fields: Any) -> dict[str, str]:
    """Somebody goes all the way with a ticket; what the chat's page gets."""
    named = {} if "reconnect" in fields else {"provider": provider}
    with oauth_hub.person() as ada:
        return bring_back(ada, start(oauth_hub.hub, **named, **fields))


def confirmed(oauth_hub: OAuthHub, came: dict[str, str], user: str = USER) -> dict[str, Any]:
    answer = confirm(oauth_hub.hub, came["confirmation_code"], user=user)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def let_expire(oauth_hub: OAuthHub) -> None:
    """Let the time of every unconfirmed grant be over, and wait for the end of all."""
    with MongoClient[dict[str, Any]](oauth_hub.hub.env["MONGODB_URI"]) as mongo:
        waiting = mongo.get_default_database()["oauth_confirmations"]
        waiting.update_many({}, {"$set": {"due_at": datetime.now(UTC)}})
        eventually(lambda: waiting.count_documents({}) == 0)


def test_every_grant_of_a_consent_is_confirmed(oauth_hub: OAuthHub) -> None:
    """Slack gives a bot's token and a person's."""
    oauth_hub.play("slack")
    came = brought(oauth_hub, "slack")
    with pytest.raises(NotConnected):
        oauth_hub.access(came["integration_id"])
    made = confirmed(oauth_hub, came)
    assert (made["id"], made["status"]) == (came["integration_id"], "connected")
    assert len({oauth_hub.access(made["id"], other).token for other in ("", "user")}) == 2
    assert oauth_hub.do(made["id"], "check")["last_error"] is None


def test_a_site_is_chosen_after_the_confirmation(oauth_hub: OAuthHub) -> None:
    fake = oauth_hub.play("jira")
    fake.accounts = [fake.account(oauth_hub.number(), places=2)]
    first, second = fake.accounts[0].places
    came = brought(oauth_hub, "jira", tags=["wiki"])
    oauth_hub.do(came["integration_id"], "choose", {"choice": second.id}, expect=422)
    made = confirmed(oauth_hub, came)
    assert (made["status"], made["reason"]) == ("pending", "choice_required")
    assert [item["id"] for item in made["choices"]] == [first.id, second.id]
    chosen = oauth_hub.do(made["id"], "choose", {"choice": second.id})
    assert (chosen["status"], chosen["tags"]) == ("connected", ["wiki"])
    assert oauth_hub.access(made["id"]).base.endswith(second.id)
    again = confirmed(oauth_hub, brought(oauth_hub, "jira"))
    assert oauth_hub.do(again["id"], "choose", {"choice": second.id})["id"] == made["id"]
    assert oauth_hub.do(made["id"], "refresh")["health"] == "ok"


def test_oauth1_goes_by_a_ticket_too(oauth_hub: OAuthHub) -> None:
    fake = oauth_hub.play("trello")
    made = confirmed(oauth_hub, brought(oauth_hub, "trello"))
    assert (made["status"], made["kind"]) == ("connected", "oauth1")
    assert made["account"]["id"] == fake.accounts[0].id
    assert oauth_hub.do(made["id"], "check")["last_error"] is None


@pytest.mark.parametrize("provider", ["slack", "google", "github", "microsoft", "shopify", "jira"])
def test_an_unconfirmed_grant_ends_and_the_others_stay(oauth_hub: OAuthHub, provider: str) -> None:
    """Also where one revocation ends everything of the account, or where a token is given twice."""
    fake = oauth_hub.play(provider)
    shop = {"params": {"shop": f"shop-{fake.accounts[0].place.id}"}} if provider == "shopify" else {}
    first = confirmed(oauth_hub, brought(oauth_hub, provider, **shop))
    brought(oauth_hub, provider, **shop)
    brought(oauth_hub, provider, reconnect=first["id"])
    let_expire(oauth_hub)
    assert oauth_hub.do(first["id"], "check")["last_error"] is None
    assert oauth_hub.shown(first["id"])["status"] == "connected"

    alone = fake.account(oauth_hub.number())
    if provider in {"google", "github"}:
        fake.accounts = [alone]
        brought(oauth_hub, provider)
        revocations = fake.revocations
        let_expire(oauth_hub)
        assert fake.revocations == revocations + 1
