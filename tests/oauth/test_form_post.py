"""Responses that a provider's page posts (`response_mode=form_post`): what comes of the form."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from tests.support.accounts import Accounts
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def hub(shared_accounts: Accounts, rotating: RotatingServer) -> Hub:
    assert rotating.url
    return shared_accounts.hub


@pytest.fixture
def person(hub: Hub, rotating: RotatingServer) -> Iterator[Person]:
    rotating.login("ada")
    with Person(hub, "ada") as made:
        yield made


def post(accounts: Accounts, content: str | bytes, content_type: str = FORM) -> httpx.Response:
    """Post as a page of the provider does: from another site, so without the cookie."""
    headers = {"content-type": content_type, "origin": "https://provider.example"}
    return httpx.post(accounts.redirect_uri, content=content, headers=headers, timeout=20)


def refused(answer: httpx.Response, code: str) -> None:
    assert answer.status_code == 400, answer.text
    assert f'<p class="code">{code}</p>' in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_a_form_becomes_a_callback_of_the_browser_that_started(
    shared_accounts: Accounts, person: Person
) -> None:
    started = person.connect("oidc")
    came = urlsplit(person.consent(started["authorization_url"])).query
    more = {"id_token": "a.b.c", "access_token": "x", "user": '{"name":"Ada"}'}
    answer = post(shared_accounts, f"{came}&{urlencode(more)}", f"{FORM}; charset=utf-8")
    assert (answer.status_code, answer.headers["cache-control"]) == (303, "no-store")
    address, _, query = answer.headers["location"].partition("?")
    assert address == shared_accounts.redirect_uri
    assert parse_qsl(query) == parse_qsl(came), "tokens and names do not belong into an address"
    with httpx.Client(timeout=20) as stranger:
        assert stranger.get(answer.headers["location"]).status_code == 403
    assert person.client.get(answer.headers["location"]).status_code == 303
    assert shared_accounts.shown(started["integration_id"])["status"] == "connected"


def test_a_refusal_can_be_posted_too(shared_accounts: Accounts, person: Person) -> None:
    started = person.connect("oidc")
    state = dict(parse_qsl(urlsplit(started["authorization_url"]).query))["state"]
    answer = post(shared_accounts, urlencode({"state": state, "error": "access_denied"}))
    assert "access was denied" in person.client.get(answer.headers["location"]).text.lower()


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        ('{"code":"x","state":"y"}', "application/json", "not_a_form"),
        ("code=x&state=y", "text/plain", "not_a_form"),
        ("code=x&state=y", "", "not_a_form"),
        (b"code=\xff&state=y", FORM, "not_a_form"),
        ("state=y&code=" + "x" * 9000, FORM, "not_a_form"),
        ("state=y&" + "&".join(f"p{number}=x" for number in range(200)), FORM, "not_a_form"),
        ("state=y&code=1&code=2", FORM, "doubled"),
        ("code=x", FORM, "no_state"),
        ("", FORM, "no_state"),
    ],
)
def test_what_is_no_response_is_refused(
    shared_accounts: Accounts, content: str | bytes, content_type: str, code: str
) -> None:
    refused(post(shared_accounts, content, content_type), code)
