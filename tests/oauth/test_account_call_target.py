"""The URL and the headers of a call with an account, without a network."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from services.oauth.calls.target import build_headers, build_url, check_query, hub_addresses, returned_headers
from shared.connections.tokens import Access
from shared.contracts.errors import Conflict, Forbidden, Malformed
from shared.manifests.connector import Connector
from shared.manifests.registry import registry
from shared.runtime.egress.errors import BadUrl
from shared.runtime.egress.urls import parse_url

TOKEN = "token-of-the-account"
CONNECTORS = registry().connectors
WITHOUT_API = {"email", "oidc"}
"""Mail servers have no API, and a server of any company's own has an unknown one."""
HOSTILE = ("evil.example", "evil.example/", "evil.example?", "evil.example#", "a@evil.example", "a:1", "")


def access(provider: str, kind: str = "oauth2", **values: str) -> Access:
    """Return the access to an account; `__` in the names of values stands for a colon."""
    named = {name.replace("__", ":"): value for name, value in values.items()}
    return Access(
        integration="int_1",
        connector=CONNECTORS[provider],
        workspace="w",
        version=1,
        values={"access_token": TOKEN, "client_id": "app", **named},
        ends_at=None,
        kind=kind,
    )


def kinds(connector: Connector) -> list[str]:
    flows = ["oauth2"] if connector.oauth2 or connector.oauth1 else []
    return [*flows, *connector.manual_credentials]


@pytest.mark.parametrize("provider", sorted(CONNECTORS))
def test_every_provider_with_accounts_has_an_api(provider: str) -> None:
    connector = CONNECTORS[provider]
    for kind in kinds(connector):
        base = connector.api_for(kind).base
        assert bool(base) is (provider not in WITHOUT_API), kind
        assert base.startswith(("https://", "{setting:base_url}", "{field:base_url}")) or not base


@pytest.mark.parametrize(
    ("provider", "kind", "values", "url"),
    [
        ("github", "oauth2", {}, "https://api.github.com/a/b?x=%2F"),
        ("slack", "oauth2", {}, "https://slack.com/api/a/b?x=%2F"),
        ("gmail", "oauth2", {}, "https://gmail.googleapis.com/a/b?x=%2F"),
        ("google-sheets", "oauth2", {}, "https://sheets.googleapis.com/a/b?x=%2F"),
        ("google-docs", "oauth2", {}, "https://docs.googleapis.com/a/b?x=%2F"),
        ("google-drive", "oauth2", {}, "https://www.googleapis.com/a/b?x=%2F"),
        ("jira", "oauth2", {"account__cloud_id": "c-1"}, "https://api.atlassian.com/ex/jira/c-1/a/b?x=%2F"),
        ("jira", "api_token", {"field__site": "ours"}, "https://ours.atlassian.net/a/b?x=%2F"),
        (
            "shopify",
            "oauth2",
            {"account__domain": "ours.myshopify.com"},
            "https://ours.myshopify.com/admin/api/2026-10/a/b?x=%2F",
        ),
        ("zendesk", "api_token", {"field__subdomain": "ours"}, "https://ours.zendesk.com/api/v2/a/b?x=%2F"),
        ("mailchimp", "oauth2", {"account__dc": "us1"}, "https://us1.api.mailchimp.com/3.0/a/b?x=%2F"),
        ("telegram", "bot_token", {}, f"https://api.telegram.org/bot{TOKEN}/a/b?x=%2F"),
    ],
)
def test_the_host_is_that_of_the_account(
    provider: str, kind: str, values: Mapping[str, str], url: str
) -> None:
    assert build_url(access(provider, kind, **values), b"a/b", b"x=%2F") == url


@pytest.mark.parametrize(
    ("provider", "kind", "name", "suffix"),
    [
        ("jira", "oauth2", "account__cloud_id", "api.atlassian.com"),
        ("jira", "api_token", "field__site", ".atlassian.net"),
        ("zendesk", "api_token", "field__subdomain", ".zendesk.com"),
        ("mailchimp", "oauth2", "account__dc", ".api.mailchimp.com"),
    ],
)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_of_the_account_does_not_choose_the_host(
    provider: str, kind: str, name: str, suffix: str, value: str
) -> None:
    try:
        url = build_url(access(provider, kind, **{name: value}), b"x", b"")
        host = parse_url(url).raw_host
    except (BadUrl, Conflict, ValueError):
        return
    assert host is not None
    assert host.endswith(suffix)


def test_a_missing_value_is_a_clear_problem() -> None:
    with pytest.raises(Conflict, match="connect the account again"):
        build_url(access("jira"), b"x", b"")
    with pytest.raises(Conflict, match="does not know the address of the API of oidc"):
        build_url(access("oidc"), b"x", b"")


@pytest.mark.parametrize(
    "path", [b"..", b"a/..", b"%2e%2e/a", b"a%2fb", b"a%252fb", b"a//b", b"/a", b"a\\b", b"%5c"]
)
def test_an_ambiguous_path_is_malformed(path: bytes) -> None:
    with pytest.raises(Malformed):
        build_url(access("github"), path, b"")


def test_bytes_that_are_not_encoded_are_malformed() -> None:
    for path, query in ((b"\xc3\xa4", b""), (b"a", b"\xff")):
        with pytest.raises(Malformed):
            build_url(access("github"), path, query)


def test_a_caller_replaces_constants_but_no_credentials() -> None:
    own = [
        (b"accept", b"text/x"),
        (b"authorization", b"Bearer mine"),
        (b"x-shopify-access-token", b"mine"),
        (b"bb-api-subscription-key", b"mine"),
    ]
    github = build_headers(own, access("github"))
    assert github.getall("Accept") == ["text/x"]
    assert github["X-GitHub-Api-Version"] == "2022-11-28"
    assert github.getall("Authorization") == [f"Bearer {TOKEN}"]
    shopify = build_headers(own, access("shopify"))
    assert shopify.getall("X-Shopify-Access-Token") == [TOKEN]
    assert "Authorization" not in shopify
    blackbaud = build_headers(own, access("blackbaud", setting__subscription_key="key"))
    assert blackbaud.getall("Bb-Api-Subscription-Key") == ["key"]


def test_a_header_that_is_not_text_is_malformed() -> None:
    with pytest.raises(Malformed, match="x-a"):
        build_headers([(b"x-a", b"\xff")], access("github"))


@pytest.mark.parametrize(
    "query", [b"method=x", b"a&_method=x", b"METHOD=x", b"%6Dethod=1", b"X-HTTP-Method-Override=1"]
)
def test_a_parameter_that_replaces_the_method_is_forbidden(query: bytes) -> None:
    with pytest.raises(Forbidden):
        check_query(query)


def test_other_parameters_are_allowed() -> None:
    check_query(b"")
    check_query(b"methods=x&a=method&my_method=1")


class TestLocation:
    @pytest.mark.parametrize(
        ("location", "expected"),
        [
            (b"https://files.example/x?sig=1", "https://files.example/x?sig=1"),
            (b"/b", "https://api.github.com/b"),
            (b"b", "https://api.github.com/a/b"),
            (b"//files.example/x", "https://files.example/x"),
            (b"https://hub.example/api", None),
            (b"https://HUB.example:443/api", None),
            (b"https://hub.example./api", None),
            (b"http://hub.example/api", None),
            (b"//hub.example/api", None),
            (b"http://gateway:8080/api", None),
            (b"https://a@hub.example/api", None),
            (b"https://hub.example\\@files.example/", None),
            (b"javascript:alert(1)", None),
            (b"data:text/html,x", None),
            (b"https://[", None),
            (b"\xff", None),
        ],
    )
    def test_is_absolute_and_leads_not_to_the_hub(self, location: bytes, expected: str | None) -> None:
        hub = hub_addresses("https://hub.example", "gateway:8080") | hub_addresses("https://x", "hub.example")
        headers = returned_headers(
            [(b"Location", location)], url="https://api.github.com/a/x", hub=hub, access=access("github")
        )
        assert dict(headers).get(b"location", b"").decode() == (expected or "")

    def test_does_not_show_the_token(self) -> None:
        telegram = access("telegram", "bot_token")
        url = build_url(telegram, b"getMe", b"")
        for location, shown in ((b"x", False), (b"/file", True)):
            headers = returned_headers([(b"Location", location)], url=url, hub=(), access=telegram)
            assert (b"location" in dict(headers)) is shown

    @pytest.mark.parametrize("host", ["", "[", "hub:x", "hub:99999", "a b"])
    def test_a_strange_host_header_breaks_nothing(self, host: str) -> None:
        assert "hub.example:443" in hub_addresses("https://hub.example", host)


def test_the_base_is_where_its_slash_says() -> None:
    assert urlsplit(build_url(access("github"), b"", b"")).path == "/"
