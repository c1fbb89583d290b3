"""OAuth 1.0a: the three legs against a strict fake Trello with its own signature check."""

import time
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.manifests.registry import registry
from shared.wire.oauth import ClientCredentials, sign_oauth1
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from tests.support.fakes.trello import Trello, base_string, header_of, hmac_sha1
from tests.support.provider_hosts import HostRequest, Reply

CONNECTOR = registry().connectors["trello"]
VALUES = {
    "client_id": "the-key",
    "client_secret": "the secret & its %-signs",
    "redirect_uri": "https://hub.example.com/api/auth/oauth/callback",
    "setting:name": "The hub",
}
STATE = "s" * 43


def new_trello() -> Trello:
    return Trello(VALUES["client_id"], VALUES["client_secret"], VALUES["redirect_uri"])


def flow() -> OAuth1Flow:
    assert CONNECTOR.oauth1
    return OAuth1Flow(CONNECTOR.oauth1)


def asked_by(call: ProviderRequest) -> HostRequest:
    url = urlsplit(call.url)
    headers = {name.lower(): value for name, value in call.headers.items()}
    query = parse_qs(url.query, keep_blank_values=True)
    return HostRequest(call.method, url.netloc, url.path, query, headers, call.body)


def reply(fake: Trello, call: ProviderRequest) -> Reply:
    """What the fake's handler answers, without a network between."""
    asked = asked_by(call)
    return fake.hosts[asked.host](asked)


def answered(fake: Trello, call: ProviderRequest) -> ProviderResponse:
    made = reply(fake, call)
    return ProviderResponse(made.status, {name.lower(): value for name, value in made.fields}, made.body)


def requested(fake: Trello) -> RequestToken:
    return flow().parse_request_token(answered(fake, flow().request_token_request(VALUES, state=STATE)))


def allowed(fake: Trello, request: RequestToken) -> dict[str, str]:
    """The parameters with which the person comes back."""
    page = flow().authorize(VALUES, request.token, CONNECTOR.scopes)
    back = dict(reply(fake, ProviderRequest("GET", page)).fields)["location"]
    assert back.startswith(VALUES["redirect_uri"])
    return dict(parse_qsl(urlsplit(back).query, strict_parsing=True))


def test_an_account_is_connected_and_revoked() -> None:
    fake = new_trello()
    request = requested(fake)
    back = allowed(fake, request)
    assert back["state"] == STATE
    answer = answered(fake, flow().access_token_request(VALUES, request, flow().verifier(back, request)))
    granted = flow().parse_token_response(answer)
    assert granted.tokens
    token = granted.tokens.access_token
    assert granted.tokens.expires_in is None, "asked for with expiration=never"
    secret = granted.others["signing"].access_token
    assert {token, secret, request.secret, back["oauth_verifier"]} <= fake.tokens_seen
    [grant] = fake.grants_of(fake.accounts[0].id)
    assert set(grant.scopes) == {"read", "write", "account"}
    assert grant.query["name"] == "The hub"

    values = {**VALUES, "access_token": token}
    account = CONNECTOR.account
    assert account
    assert account.call
    account_id = CONNECTOR.parse_account(
        account, CONNECTOR.parse_api_response(answered(fake, CONNECTOR.request(account.call, values)))
    )
    assert (account_id.id, account_id.label, account_id.attributes) == (
        fake.accounts[0].id,
        "Ada Example",
        {"username": "ada"},
    )
    revoking = CONNECTOR.revoke_request(values)
    assert revoking
    assert CONNECTOR.revocation_error(answered(fake, revoking)) == ""
    assert fake.revocations == 1
    assert CONNECTOR.is_token_rejected(answered(fake, CONNECTOR.request(account.call, values)))
    assert (fake.exchanges, fake.refused) == (1, [])


def test_a_request_token_is_exchanged_once_and_with_its_own_verifier_and_secret() -> None:
    fake = new_trello()
    request, other = requested(fake), requested(fake)
    with pytest.raises(GrantRevoked):
        flow().parse_token_response(
            answered(fake, flow().access_token_request(VALUES, request, "verifier"))
        )  # nobody allowed it
    verifier, others = allowed(fake, request)["oauth_verifier"], allowed(fake, other)["oauth_verifier"]
    for token, secret, given in (
        (request.token, request.secret, others),
        (request.token, other.secret, verifier),
        ("no-such-token", request.secret, verifier),
    ):
        with pytest.raises(GrantRevoked):
            flow().parse_token_response(
                answered(fake, flow().access_token_request(VALUES, RequestToken(token, secret), given))
            )
    third = answered(fake, flow().access_token_request(VALUES, request, verifier))
    assert flow().parse_token_response(third).tokens
    with pytest.raises(GrantRevoked):
        flow().parse_token_response(answered(fake, flow().access_token_request(VALUES, request, verifier)))
    late = requested(fake)
    given = allowed(fake, late)["oauth_verifier"]
    fake.code_lifetime_s, fake.now = 0, lambda: time.time() + 250
    later = requested(fake)
    with pytest.raises(AssertionError, match="too old"):
        allowed(fake, later)
    assert (
        flow().parse_token_response(answered(fake, flow().access_token_request(VALUES, late, given))).tokens
    )
    assert fake.refused == ["code", "verifier", "secret", "secret", "used code"]


def test_an_app_with_a_wrong_key_or_secret_is_rejected_at_once() -> None:
    fake = new_trello()
    for change in ({"client_id": "another"}, {"client_secret": "another"}):
        with pytest.raises(InvalidClient):
            flow().parse_request_token(
                answered(fake, flow().request_token_request({**VALUES, **change}, state=STATE))
            )
    request = requested(fake)
    verifier = allowed(fake, request)["oauth_verifier"]
    third = flow().access_token_request({**VALUES, "client_id": "another"}, request, verifier)
    with pytest.raises(InvalidClient):
        flow().parse_token_response(answered(fake, third))
    assert fake.refused == ["client", "secret", "client"]


def test_a_denied_authorization_has_no_verifier() -> None:
    fake = new_trello()
    fake.denies = True
    request = requested(fake)
    with pytest.raises(ProviderRejected, match="access_denied"):
        flow().verifier(allowed(fake, request), request)


def test_a_callback_must_name_its_request_token() -> None:
    """Else somebody could have an account of his own connected in another person's name."""
    fake = new_trello()
    request, other = requested(fake), requested(fake)
    back = allowed(fake, other)
    assert flow().verifier(back, other)
    with pytest.raises(ProviderRejected, match="wrong_answer"):
        flow().verifier(back, request)
    with pytest.raises(ProviderRejected, match="wrong_answer"):
        flow().verifier({"oauth_verifier": back["oauth_verifier"]}, request)


def test_a_provider_that_is_unavailable_can_be_retried() -> None:
    for status in (429, 500, 503):
        answer = ProviderResponse(status, {}, b"oops")
        with pytest.raises(ProviderUnavailable):
            flow().parse_request_token(answer)
        with pytest.raises(ProviderUnavailable):
            flow().parse_token_response(answer)


def test_a_response_without_token_or_confirmation_is_an_error() -> None:
    with pytest.raises(ProviderRejected, match="no_callback"):
        flow().parse_request_token(ProviderResponse(200, {}, b"oauth_token=a&oauth_token_secret=b"))
    for body in (b"", b"oauth_token=a", b"<html>", b"\xff\xfe"):
        with pytest.raises(ProviderRejected, match="no_token"):
            flow().parse_token_response(ProviderResponse(200, {}, body))


# That the fake is as strict as it says


def test_a_request_is_good_once_and_only_as_it_was_signed() -> None:
    fake = new_trello()
    first = flow().request_token_request(VALUES, state=STATE)
    assert reply(fake, first).status == 200
    with pytest.raises(AssertionError, match="nonce was used"):
        reply(fake, first)
    another = flow().request_token_request(VALUES, state=STATE)
    changed = another.headers["Authorization"].replace(STATE, "t" * 43)
    assert reply(fake, ProviderRequest("POST", another.url, {"Authorization": changed})).status == 401
    with pytest.raises(AssertionError, match="has a query"):
        reply(fake, ProviderRequest("POST", another.url + "?a=b", another.headers))
    without = sign_oauth1(ClientCredentials(VALUES["client_id"], VALUES["client_secret"]), "POST", first.url)
    with pytest.raises(AssertionError, match="lacks oauth_callback"):
        reply(fake, without)
    with pytest.raises(AssertionError, match="the oauth_callback is https://evil"):
        reply(
            fake,
            flow().request_token_request({**VALUES, "redirect_uri": "https://evil.example.com"}, state=STATE),
        )
    fake.now = lambda: time.time() + 400
    with pytest.raises(AssertionError, match="the time is not now"):
        reply(fake, flow().request_token_request(VALUES, state=STATE))


def test_a_request_token_is_decided_about_once() -> None:
    fake = new_trello()
    request = requested(fake)
    allowed(fake, request)
    with pytest.raises(AssertionError, match="was decided"):
        allowed(fake, request)
    with pytest.raises(AssertionError, match="nobody asked"):
        allowed(fake, RequestToken("no-such-token", ""))


def test_a_person_decides_on_a_page() -> None:
    fake = new_trello()
    fake.asks = True
    request = requested(fake)
    page = flow().authorize(VALUES, request.token, CONNECTOR.scopes)
    assert b'id="allow"' in reply(fake, ProviderRequest("GET", page)).body
    back = reply(fake, ProviderRequest("GET", f"https://trello.com/consent/{request.token}/allow"))
    assert "oauth_verifier=" in dict(back.fields)["location"]


def test_only_the_own_token_is_deleted() -> None:
    fake = new_trello()
    fake.accounts = [Trello.account(1), Trello.account(2)]
    tokens = []
    for _ in range(2):
        request = requested(fake)
        third = flow().access_token_request(VALUES, request, allowed(fake, request)["oauth_verifier"])
        granted = flow().parse_token_response(answered(fake, third))
        assert granted.tokens
        tokens.append(granted.tokens.access_token)
    named = {**VALUES, "access_token": tokens[0]}
    call = CONNECTOR.revoke_request(named)
    assert call
    assert (
        reply(fake, ProviderRequest("DELETE", call.url.replace(tokens[0], tokens[1]), call.headers)).status
        == 404
    )
    assert reply(fake, ProviderRequest("DELETE", call.url, {})).status == 401
    assert reply(fake, call).status == 200
    assert (fake.revocations, len(fake.grants_of(fake.accounts[0].id))) == (1, 1)


# RFC 5849's own examples, of the client's signatures and of the fake's


def test_the_base_string_is_as_rfc_5849_has_it() -> None:
    """Section 3.4.1.1."""
    sent = {
        "oauth_consumer_key": "9djdj82h48djs9d2",
        "oauth_token": "kkk9d7dh3k39sjv7",
        "oauth_signature_method": "HMAC-SHA1",
        "oauth_timestamp": "137131201",
        "oauth_nonce": "7d8f3e4a",
    }
    query = parse_qsl("b5=%3D%253D&a3=a&c%40=&a2=r%20b", keep_blank_values=True)
    body = parse_qsl("c2&a3=2+q", keep_blank_values=True)
    assert base_string("post", "http://example.com/request", [*query, *sent.items(), *body]) == (
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540"
        "%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3D"
        "HMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
    )


EXAMPLES = {
    "initiate": (
        "POST",
        "https://photos.example.net/initiate",
        {
            "oauth_timestamp": "137131200",
            "oauth_nonce": "wIjqoS",
            "oauth_callback": "http://printer.example.com/ready",
        },
        "",
        "74KNZJeDHnMBp0EMJ9ZHt/XKycU=",
    ),
    "token": (
        "POST",
        "https://photos.example.net/token",
        {
            "oauth_token": "hh5s93j4hdidpola",
            "oauth_timestamp": "137131201",
            "oauth_nonce": "walatlh",
            "oauth_verifier": "hfdp7dh39dks9884",
        },
        "hdhd0244k9j7ao03",
        "gKgrFCywp7rO0OXSjdot/IHF7IU=",
    ),
    "photos": (
        "GET",
        "http://photos.example.net/photos",
        {
            "oauth_token": "nnch734d00sl2jdk",
            "oauth_timestamp": "137131202",
            "oauth_nonce": "chapoH",
            "file": "vacation.jpg",
            "size": "original",
        },
        "pfkkdhi9sl3r4s00",
        "MdpQcU8iPSUjWoN/UDMsK2sui9I=",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_signatures_are_as_rfc_5849_has_them(name: str) -> None:
    """Section 1.2."""
    method, url, sent, token_secret, signature = EXAMPLES[name]
    sent = {**sent, "oauth_consumer_key": "dpf43f3p2l4k3l03", "oauth_signature_method": "HMAC-SHA1"}
    text = base_string(method, url, sent.items())
    assert hmac_sha1(text, "kd94hf93k423kf44", token_secret) == signature


@pytest.mark.parametrize("secrets", [("plain", "plain"), ("a&b %/ü", "c=d+e~"), ("x", "")])
def test_the_client_signs_as_the_fake_does(secrets: tuple[str, str]) -> None:
    client_secret, token_secret = secrets
    call = sign_oauth1(
        ClientCredentials("key & more", client_secret),
        "POST",
        "https://trello.com/1/OAuthGetAccessToken",
        token="tök/en",
        token_secret=token_secret,
        verifier="a=b&c",
    )
    sent = header_of(asked_by(call))
    signature = sent.pop("oauth_signature")
    assert sent["oauth_token"] == "tök/en"
    assert signature == hmac_sha1(
        base_string(call.method, call.url, sent.items()), client_secret, token_secret
    )
