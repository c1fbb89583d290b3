"""Which requests carry a secret to the hub, and which responses may show one: the rules of the search.

A secret that a response may show is recorded, and removed from the response before that is captured, so that
every other place that shows it is a finding.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.manifests.registry import registry
from tests.support.recorded_secrets import record_secret

CALLBACK = "/api/auth/oauth/callback"
_ENDPOINT, _WEBHOOK = "a secret of an endpoint", "a secret of an outgoing webhook"


@dataclass(frozen=True)
class SecretInResponse:
    """A response that shows a secret in a field of its JSON, or in a header.

    In `path`, `{}` stands for one part. `kind` names the secret; empty: the field repeats, in a
    sentence, what another one shows. `param`: the field or header is an address, and the secret is this
    parameter.
    """

    method: str
    path: str
    kind: str
    field: str = ""
    header: str = ""
    param: str = ""


SECRETS_IN_RESPONSES = (
    SecretInResponse("POST", "/api/inbound-endpoints", _ENDPOINT, "secret"),
    SecretInResponse("POST", "/api/inbound-endpoints", "", "setup_steps"),
    SecretInResponse("POST", "/api/endpoint-templates/{}", _ENDPOINT, "secret"),
    SecretInResponse("POST", "/api/endpoint-templates/{}", "", "setup_steps"),
    SecretInResponse("POST", "/api/inbound-endpoints/{}/rotate-secret", _ENDPOINT, "secret"),
    SecretInResponse("POST", "/api/inbound-endpoints/{}/rotate-secret", "", "setup_steps"),
    SecretInResponse("POST", "/api/inbound-endpoints/{}/handed-over-secret", _ENDPOINT, "secret"),
    SecretInResponse("POST", "/api/outgoing-webhooks", _WEBHOOK, "secret"),
    SecretInResponse("POST", "/api/outgoing-webhooks/{}/rotate-secret", _WEBHOOK, "secret"),
    SecretInResponse("POST", "/api/api-keys", "an API key", "key"),
    SecretInResponse("POST", "/api/members", "an API key", "key"),
    SecretInResponse("POST", "/api/members/{}/rotate-key", "an API key", "key"),
    SecretInResponse("POST", "/api/workspaces", "an API key", "key"),
    SecretInResponse("POST", "/api/workspaces/{}/api-keys", "an API key", "key"),
    SecretInResponse("POST", "/api/incoming-webhooks", "a token of an incoming webhook", "token"),
    SecretInResponse("POST", "/api/incoming-webhooks", "", "url"),
    SecretInResponse(
        "POST", "/api/incoming-webhooks/{}/rotate-token", "a token of an incoming webhook", "token"
    ),
    SecretInResponse("POST", "/api/incoming-webhooks/{}/rotate-token", "", "url"),
    SecretInResponse("POST", "/api/portal-sessions", "a code of a session", "url", param="code"),
    SecretInResponse("POST", "/api/connect-sessions", "a code of a session", "session"),
    SecretInResponse("POST", "/api/auth/oauth/connect", "a state", "authorization_url", param="state"),
    SecretInResponse("POST", "/api/auth/oauth/connect", "a ticket", "connect_url", param="ticket"),
    SecretInResponse("POST", "/api/auth/oauth/connect", "", header="set-cookie"),
    # What a real browser got is captured as the answer to a GET.
    *(
        SecretInResponse(method, "/api/auth/oauth/start", "a state", header="location", param="state")
        for method in ("GET", "POST")
    ),
    SecretInResponse("GET", CALLBACK, "a confirmation code", header="location", param="confirmation_code"),
    SecretInResponse("POST", "/api/integrations/{}/reconnect", "a state", "authorization_url", param="state"),
    SecretInResponse("POST", "/api/integrations/{}/reconnect", "a ticket", "connect_url", param="ticket"),
    SecretInResponse("POST", "/api/integrations/{}/reconnect", "", header="set-cookie"),
    SecretInResponse("POST", "/api/integrations/{}/token", "an access token", "access_token"),
    SecretInResponse("POST", "/api/integrations/{}/token/refused", "an access token", "access_token"),
    # A posted response of a provider goes back to the same browser, as the query of the callback.
    SecretInResponse("POST", CALLBACK, "", header="location"),
    # Asana's handshake wants to see its own secret again.
    SecretInResponse("POST", "/api/webhooks/asana/{}", "", header="x-hook-secret"),
)


@dataclass(frozen=True)
class SecretInRequest:
    """A request with a secret in a field of its JSON; `x.*`: in each field of x whose name `only` accepts."""

    method: str
    path: str
    kind: str
    field: str
    only: Callable[[str], bool] = lambda _name: True


@cache
def _secret_field_names() -> frozenset[str]:
    """The fields and settings that are secret in every manifest that has them, and not in some only."""
    found: dict[str, set[bool]] = {}
    for connector in registry().connectors.values():
        for settings in (
            connector.settings,
            *(kind.fields for kind in connector.manual_credentials.values()),
        ):
            for name, setting in settings.items():
                found.setdefault(name, set()).add(setting.secret)
    for provider in registry().providers.values():
        for name, setting in (
            provider.manifest.webhook.settings if provider.manifest.webhook else {}
        ).items():
            found.setdefault(name, set()).add(setting.secret)
    return frozenset(name for name, secret in found.items() if secret == {True})


def _is_secret_field(name: str) -> bool:
    return name in _secret_field_names()


def _is_auth(name: str) -> bool:
    return name in {"password", "token", "value", "private_key"}


SECRETS_IN_REQUESTS = (
    *(
        SecretInRequest("POST", path, _ENDPOINT, "secret")
        for path in ("/api/inbound-endpoints", "/api/inbound-endpoints/{}/rotate-secret")
    ),
    SecretInRequest("POST", "/api/inbound-endpoints", "a secret setting", "settings.*", _is_secret_field),
    SecretInRequest("PATCH", "/api/inbound-endpoints/{}", "a secret setting", "settings.*", _is_secret_field),
    *(
        SecretInRequest("POST", path, _WEBHOOK, "secret")
        for path in ("/api/outgoing-webhooks", "/api/outgoing-webhooks/{}/rotate-secret")
    ),
    *(
        SecretInRequest(method, path, "a credential of an outgoing webhook", field, only)
        for method, path in (("POST", "/api/outgoing-webhooks"), ("PATCH", "/api/outgoing-webhooks/{}"))
        for field, only in (("headers.*", lambda _name: True), ("auth.*", _is_auth))
    ),
    SecretInRequest("POST", "/api/auth/oauth/confirm", "a confirmation code", "confirmation_code"),
    SecretInRequest("PUT", "/api/platform-credentials/{}", "a client secret", "client_secret"),
    SecretInRequest("PUT", "/api/platform-credentials/{}", "a signing secret", "signing_secret"),
    SecretInRequest(
        "PUT", "/api/platform-credentials/{}", "a secret setting", "settings.*", _is_secret_field
    ),
    SecretInRequest("POST", "/api/integrations", "a secret that was entered", "fields.*", _is_secret_field),
    SecretInRequest(
        "POST", "/api/integrations", "an imported token", "tokens.*", lambda name: name.endswith("_token")
    ),
    SecretInRequest(
        "POST", "/api/integrations/{}/fields", "a secret that was entered", "fields.*", _is_secret_field
    ),
)
_ONCE_ON_PAGES = {
    "a secret on a page": "(?:New s|S)ecret",
    "an API key": "(?:API k|K)ey",
    "the address of an incoming webhook": "Address with token",
}
"""The labels of what the console shows once, by what it is."""
_IN_QUERY = {"code": "a code", "state": "a state", "oauth_verifier": "a verifier"}
"""Parameters of the callback that are secret."""


def record_request_secrets(method: str, target: str, authorization: str, body: Any) -> None:
    """Record the secrets of a request to the hub; `body` is its JSON, `target` its path with the query."""
    path, _, query = target.partition("?")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() == "bearer":
        record_secret("an API key", key.strip())
    if path == CALLBACK:
        for name, value in parse_qsl(query):
            if name in _IN_QUERY:
                record_secret(_IN_QUERY[name], value)
    if not isinstance(body, dict):
        return
    for rule in SECRETS_IN_REQUESTS:
        if rule.method == method and _is(rule.path, path):
            record_secret(rule.kind, *_values(body, rule))


def _values(body: Mapping[str, Any], rule: SecretInRequest) -> Iterator[str]:
    name, _, each = rule.field.partition(".")
    value = body.get(name)
    if each and isinstance(value, dict):
        yield from (text for key, text in value.items() if rule.only(key) and isinstance(text, str))
    elif not each and isinstance(value, str):
        yield value


def remove_response_secrets(
    method: str, path: str, headers: list[tuple[str, str]], body: Any
) -> tuple[list[tuple[str, str]], Any]:
    """Record the secrets that a response may show; return its headers and body without them."""
    for rule in SECRETS_IN_RESPONSES:
        if rule.method != method or not _is(rule.path, path):
            continue
        if rule.header and rule.param:
            headers = [
                (name, _without(value, rule) if name.lower() == rule.header else value)
                for name, value in headers
            ]
        elif rule.header:
            headers = [(name, value) for name, value in headers if name.lower() != rule.header]
        elif isinstance(body, dict) and body.get(rule.field):
            value, body = body[rule.field], {**body, rule.field: None}
            if rule.param:
                value = dict(parse_qsl(urlsplit(value).query)).get(rule.param, "")
            if rule.kind:
                record_secret(rule.kind, value)
    return headers, body


def remove_page_secrets(method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """Record what pages of the console may show once, and the id of a session; return the page without it."""
    if method == "GET" and _is("/console/connect/{}/done", path):  # it hands the code over
        for code in re.findall(rb"confirmationCode&#34;: &#34;([^&]+)", body):
            record_secret("a confirmation code", code.decode())
            body = body.replace(code, b"")
        return body
    if method != "POST" or not path.startswith("/console/"):
        return body
    for name, value in headers:
        if name.lower() == "set-cookie":
            record_secret("a session of the console", value.partition("=")[2].partition(";")[0])
    for state in re.findall(rb"[?&;]state=([^&\"]+)", body):  # of a link to a provider
        record_secret("a state", unquote(state.decode()))
        body = body.replace(state, b"")
    for kind, label in _ONCE_ON_PAGES.items():
        for found in re.findall(rf"<dt>{label}</dt><dd><code>([^<]+)</code>".encode(), body):
            record_secret(kind, html.unescape(found.decode()).rpartition("/")[2])
            body = body.replace(found, b"")
    return body


def _without(address: str, rule: SecretInResponse) -> str:
    """Return an address without the parameter of a rule, which is recorded."""
    value = dict(parse_qsl(urlsplit(address).query)).get(rule.param, "")
    if not value:
        return address
    record_secret(rule.kind, value)
    return address.replace(value, "")


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{\}", "[^/]+"))


def _is(pattern: str, path: str) -> bool:
    return _pattern(pattern).fullmatch(path) is not None
