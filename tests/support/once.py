"""Where the hub's API shows a secret, and where it is told one: all that the search for secrets knows of it.

Each answer that shows a secret is the only place for it: the secret is noted, and taken out of the answer
before that is kept. Whatever shows it anywhere else is found.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from shared.manifests.registry import registry
from tests.support.given import note

CALLBACK = "/api/auth/oauth/callback"
_ENDPOINT, _WEBHOOK = "a secret of an endpoint", "a secret of an outgoing webhook"


@dataclass(frozen=True)
class Shown:
    """Answers to these requests show a secret in this field of their JSON, or in this header.

    In `path`, `{}` stands for one part. `kind` is what is noted; empty: the field repeats in a sentence what
    another one shows. `param`: the field is an address, and the secret is this parameter of it.
    """

    method: str
    path: str
    kind: str
    field: str = ""
    header: str = ""
    param: str = ""


SHOWN = (
    Shown("POST", "/api/inbound-endpoints", _ENDPOINT, "secret"),
    Shown("POST", "/api/inbound-endpoints", "", "setup_steps"),
    Shown("POST", "/api/endpoint-templates/{}", _ENDPOINT, "secret"),
    Shown("POST", "/api/endpoint-templates/{}", "", "setup_steps"),
    Shown("POST", "/api/inbound-endpoints/{}/rotate-secret", _ENDPOINT, "secret"),
    Shown("POST", "/api/inbound-endpoints/{}/rotate-secret", "", "setup_steps"),
    Shown("POST", "/api/inbound-endpoints/{}/handed-over-secret", _ENDPOINT, "secret"),
    Shown("POST", "/api/outgoing-webhooks", _WEBHOOK, "secret"),
    Shown("POST", "/api/outgoing-webhooks/{}/rotate-secret", _WEBHOOK, "secret"),
    Shown("POST", "/api/api-keys", "an API key", "key"),
    Shown("POST", "/api/incoming-webhooks", "a token of an incoming webhook", "token"),
    Shown("POST", "/api/incoming-webhooks", "", "url"),
    Shown("POST", "/api/auth/oauth/connect", "a state", "authorization_url", param="state"),
    Shown("POST", "/api/auth/oauth/connect", "", header="set-cookie"),
    Shown("POST", "/api/integrations/{}/reconnect", "a state", "authorization_url", param="state"),
    Shown("POST", "/api/integrations/{}/reconnect", "", header="set-cookie"),
    # Asana's handshake wants to see its own secret again.
    Shown("POST", "/api/webhooks/asana/{}", "", header="x-hook-secret"),
)


@dataclass(frozen=True)
class Told:
    """Requests that tell the hub a secret: in a field of their JSON; `x.*`: in each of x that `only` says."""

    method: str
    path: str
    kind: str
    field: str
    only: Callable[[str], bool] = lambda _name: True


@cache
def _entered() -> frozenset[str]:
    """The fields and settings that are secret in every manifest that has them, and not in some only."""
    found: dict[str, set[bool]] = {}
    for connector in registry().connectors.values():
        for settings in (connector.settings, *(way.fields for way in connector.manual_credentials.values())):
            for name, setting in settings.items():
                found.setdefault(name, set()).add(setting.secret)
    for provider in registry().providers.values():
        for name, setting in (
            provider.manifest.webhook.settings if provider.manifest.webhook else {}
        ).items():
            found.setdefault(name, set()).add(setting.secret)
    return frozenset(name for name, secret in found.items() if secret == {True})


def _is_entered(name: str) -> bool:
    return name in _entered()


def _is_auth(name: str) -> bool:
    return name in {"password", "token", "value", "private_key"}


TOLD = (
    *(
        Told("POST", path, _ENDPOINT, "secret")
        for path in ("/api/inbound-endpoints", "/api/inbound-endpoints/{}/rotate-secret")
    ),
    Told("POST", "/api/inbound-endpoints", "a secret setting", "settings.*", _is_entered),
    Told("PATCH", "/api/inbound-endpoints/{}", "a secret setting", "settings.*", _is_entered),
    *(
        Told("POST", path, _WEBHOOK, "secret")
        for path in ("/api/outgoing-webhooks", "/api/outgoing-webhooks/{}/rotate-secret")
    ),
    *(
        Told(method, path, "a credential of an outgoing webhook", field, only)
        for method, path in (("POST", "/api/outgoing-webhooks"), ("PATCH", "/api/outgoing-webhooks/{}"))
        for field, only in (("headers.*", lambda _name: True), ("auth.*", _is_auth))
    ),
    Told("PUT", "/api/platform-credentials/{}", "a client secret", "client_secret"),
    Told("PUT", "/api/platform-credentials/{}", "a signing secret", "signing_secret"),
    Told("PUT", "/api/platform-credentials/{}", "a secret setting", "settings.*", _is_entered),
    Told("POST", "/api/integrations", "a secret that was entered", "fields.*", _is_entered),
    Told("POST", "/api/integrations/{}/fields", "a secret that was entered", "fields.*", _is_entered),
)
_IN_QUERY = {"code": "a code", "state": "a state", "oauth_verifier": "a verifier"}
"""Of the callback: what the platform has sent the browser back with."""


def note_told(method: str, target: str, authorization: str, body: Any) -> None:
    """Note what a request to the hub tells it; `body` is its JSON, `target` its path with the query."""
    path, _, query = target.partition("?")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() == "bearer":
        note("an API key", key.strip())
    if path == CALLBACK:
        for name, value in parse_qsl(query):
            if name in _IN_QUERY:
                note(_IN_QUERY[name], value)
    if not isinstance(body, dict):
        return
    for rule in TOLD:
        if rule.method == method and _is(rule.path, path):
            note(rule.kind, *_values(body, rule))


def _values(body: Mapping[str, Any], rule: Told) -> Iterator[str]:
    name, _, each = rule.field.partition(".")
    value = body.get(name)
    if each and isinstance(value, dict):
        yield from (text for key, text in value.items() if rule.only(key) and isinstance(text, str))
    elif not each and isinstance(value, str):
        yield value


def without_shown(
    method: str, path: str, headers: list[tuple[str, str]], body: Any
) -> tuple[list[tuple[str, str]], Any]:
    """An answer without the secrets that it may show, which are noted."""
    for rule in SHOWN:
        if rule.method != method or not _is(rule.path, path):
            continue
        if rule.header:
            headers = [(name, value) for name, value in headers if name.lower() != rule.header]
        elif isinstance(body, dict) and body.get(rule.field):
            value, body = body[rule.field], {**body, rule.field: None}
            if rule.param:
                value = dict(parse_qsl(urlsplit(value).query)).get(rule.param, "")
            if rule.kind:
                note(rule.kind, value)
    return headers, body


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{\}", "[^/]+"))


def _is(pattern: str, path: str) -> bool:
    return _pattern(pattern).fullmatch(path) is not None
