"""Attacks on the built-in entrance: paths that it and the services behind it could read differently."""

import json
from collections.abc import Sequence

from tests.attacks.attack import Attack, Setup
from tests.support.hub import Hub
from tests.support.raw_http import exchange

_UP = Setup(services=("gateway", "delivery", "oauth"), entrance=True)
_INSIDE = ("metrics", "healthz", "readyz", "openapi/delivery.json")
_PREFIXES = ("/api/deliveries", "/api/outgoing-webhooks/x", "/api/integrations", "/api/auth/oauth")
_UPWARDS = (
    "/../..",
    "/%2e%2e/%2E%2E",
    "/.%2e/%2e.",
    "/..%2f..",
    "/..%2F..",
    "/..\\..",
    "/..%5c..",
    "/..%5C..",
    "/%252e%252e/%252e%252e",
    "/..%252f..",
    "/..%255c..",
    "/%25252e%25252e/%25252e%25252e",
    "//../..",
    "/./../..",
    "/x/../../..",
)


_AUTHORIZATIONS = (
    b"",
    b" ",
    b"Bearer",
    b"Bearer ",
    b"Bearer  \t",
    b"Bearer \x01",
    b"Bearer \xff\xfe",
    b"Bearer ils_",
    b"Bearer ils_\xff",
    b"Bearer ils_e30=",
    b"Bearer ils_bnVsbA==",
    b"Bearer ils_W10=",
    b"Bearer ils_" + b"A" * 40_000,
    b"Bearer " + b"a" * 40_000,
    b"Basic \x7f",
    b"Basic Og==",
    b"\x0b",
)


def _climb_out(hub: Hub) -> None:
    port = hub.ports["gateway"]
    for prefix in _PREFIXES:
        for upwards in _UPWARDS:
            for page in _INSIDE:
                for path in (f"{prefix}{upwards}/{page}", f"{prefix}{upwards}/../{page}"):
                    for key in ((), (("authorization", f"Bearer {hub.admin_key}"),)):
                        status, body = exchange(port, path, key, method="GET")
                        assert status == 400, (path, status, body[:200])
                        assert json.loads(body)["status"] == 400


def _reach_what_another_reads_differently(hub: Hub) -> None:
    """The same paths at the services themselves, behind a proxy that passes them on as they are."""
    for service in ("gateway", "delivery", "oauth"):
        for path in (
            "//metrics",
            "/./metrics",
            "/metrics/.",
            "/api//deliveries",
            "/api/deliveries/a%2fb",
            "/api/deliveries/a%252Fb",
            "/api/deliveries/a\\b",
            "/api/deliveries/a%5Cb",
            "/api/webhooks/github/../incoming/x",
            "/api/webhooks//github",
        ):
            for method in ("GET", "POST", "HEAD", "DELETE"):
                status, _ = exchange(hub.ports[service], path, method=method)
                assert status == 400, (service, method, path, status)


def _ask_for_inner_pages(hub: Hub) -> None:
    """Health and metrics are each service's own: the entrance answers for itself and asks nobody."""
    port = hub.ports["gateway"]
    for path in (
        "/api/metrics",
        "/api/deliveries/metrics",
        "/api/integrations/healthz",
        "/openapi/delivery.json",
    ):
        status, body = exchange(port, path, method="GET")
        assert status in (401, 404), (path, status)
        assert b"interlink_" not in body


def _send_headers_that_cannot_be_passed_on(hub: Hub) -> None:
    """What a client library would not send is a refusal of the caller, never an outage of the peer."""
    port = hub.ports["gateway"]
    for value in _AUTHORIZATIONS:
        status, _ = exchange(port, "/api/deliveries", [("authorization", value)], method="GET")
        assert status in (400, 401), (value, status)


ATTACKS: Sequence[Attack] = (
    Attack("a path that climbs out of its prefix", _climb_out, _UP),
    Attack("a path that two programs read differently", _reach_what_another_reads_differently, _UP),
    Attack("inner pages of a peer through the entrance", _ask_for_inner_pages, _UP),
    Attack("headers that cannot be passed on", _send_headers_that_cannot_be_passed_on, _UP),
)
