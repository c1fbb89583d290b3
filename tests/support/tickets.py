"""Accounts that are connected with a ticket: the chat's server asks for it, and any browser opens it."""

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl

import httpx

from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.recorded_secrets import record_secret

RETURN_TO = "https://chat.example.com/back"
"""A page of the chat's. Nothing answers there: the tests look at the address."""
USER = "usr_ada"


@dataclass(frozen=True)
class Started:
    """What the chat's server got. `cookies` are those of the start call, which no browser has."""

    integration: str
    connect_url: str
    authorization_url: str
    cookies: httpx.Cookies

    @classmethod
    def of(cls, answer: httpx.Response) -> Self:
        found = answer.json()
        return cls(
            found["integration_id"],
            found["connect_url"],
            found["authorization_url"],
            httpx.Cookies(answer.cookies),
        )


def start(
    hub: Hub, *, key: str | None = None, reconnect: str = "", service: str = "oauth", **fields: Any
) -> Started:
    """Have the chat's server start an authorization for a user."""
    body = {"user": USER, "return_to": RETURN_TO, **fields}
    path = f"/api/integrations/{reconnect}/reconnect" if reconnect else "/api/auth/oauth/connect"
    answer = httpx.post(
        hub.url(service) + path,
        json=body if reconnect else {"provider": "oidc", **body},
        headers={"authorization": f"Bearer {key or hub.admin_key}"},
        timeout=30,
    )
    assert answer.is_success, answer.text
    return Started.of(answer)


def press(person: Person, url: str) -> httpx.Response:
    """Open the address, and press the button of the page."""
    page = person.client.get(url)
    assert page.status_code == 200, page.text
    return person.client.post(url)


def bring_back(person: Person, started: Started) -> dict[str, str]:
    """Go all the way in a person's browser; the parameters that the chat's page gets."""
    onward = press(person, started.connect_url)
    assert onward.status_code == 303, onward.text
    return returned(person.client.get(person.consent(onward.headers["location"])))


def returned(answer: httpx.Response) -> dict[str, str]:
    """The parameters of the address of the chat that a browser is sent to."""
    assert answer.status_code == 303, answer.text
    address, _, query = answer.headers["location"].partition("?")
    assert address == RETURN_TO, address
    found = dict(parse_qsl(query))
    record_secret("a confirmation code", found.get("confirmation_code", ""))
    return found


def confirm(
    hub: Hub, code: str, *, user: str = USER, key: str | None = None, service: str = "oauth"
) -> httpx.Response:
    """Have the chat's server confirm what a browser of this user brought."""
    return httpx.post(
        hub.url(service) + "/api/auth/oauth/confirm",
        json={"confirmation_code": code, "user": user},
        headers={"authorization": f"Bearer {key or hub.admin_key}"},
        timeout=30,
    )
