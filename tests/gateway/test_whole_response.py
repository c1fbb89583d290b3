"""The response to an accepted webhook, which does not go through uvicorn, is what uvicorn would send."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.support.backends import Bus, Store
from tests.support.github import signed
from tests.support.hub import Hub

BODY = b'{"zen":"x"}'


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder: Path = tmp_path_factory.mktemp("hub")
    with Hub(folder, bus, store, services=("gateway",)) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(hub: Hub) -> dict[str, Any]:
    return hub.github_endpoint()


def request(endpoint: dict[str, Any], *, version: str = "1.1", **headers: str) -> bytes:
    """A webhook as bytes."""
    fields = {
        "host": "hub.example",
        "content-length": str(len(BODY)),
        **signed(endpoint["secret"], "ping", BODY, delivery=token_hex(8)),
        **headers,
    }
    lines = [f"POST /api/webhooks/github/{endpoint['id']} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + BODY


def read(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Read one response; return status, headers and JSON body."""
    response = HTTPResponse(connection, method="POST")
    response.begin()
    names = {name.lower(): value for name, value in response.getheaders()}
    assert len(names) == len(response.getheaders())
    return response.status, names, json.loads(response.read())


def test_it_has_the_headers_of_a_response_of_uvicorn(hub: Hub, endpoint: dict[str, Any]) -> None:
    """uvicorn answers what is not usual: here, a caller that wants the connection closed."""
    with socket.create_connection(("127.0.0.1", hub.ports["gateway"]), timeout=20) as connection:
        connection.sendall(request(endpoint))
        status, headers, body = read(connection)
        connection.sendall(request(endpoint, connection="close"))
        status_at_end, headers_at_end, body_at_end = read(connection)
        assert connection.recv(1) == b""
    assert status == status_at_end == 202
    assert headers_at_end.pop("connection") == "close"
    assert (
        headers.keys()
        == headers_at_end.keys()
        == {
            "date",
            "content-type",
            "content-security-policy",
            "x-content-type-options",
            "content-length",
        }
    )
    assert {**headers, "date": ""} == {**headers_at_end, "date": ""}
    assert body.keys() == body_at_end.keys() == {"accepted", "event_id"}


def test_requests_sent_without_waiting_are_answered_in_order(hub: Hub, endpoint: dict[str, Any]) -> None:
    sent = [request(endpoint) for _ in range(3)]
    with socket.create_connection(("127.0.0.1", hub.ports["gateway"]), timeout=20) as connection:
        connection.sendall(sent[0] + sent[1] + sent[0] + sent[2])
        # `HTTPResponse` reads ahead, so all responses are read first.
        received = b""
        while received.count(b"event_id") < 4:
            received += connection.recv(65536)
    bodies = [json.loads(part[: part.index(b"}") + 1]) for part in received.split(b"\r\n\r\n")[1:]]
    assert [body.get("duplicate", False) for body in bodies] == [False, False, True, False]
    assert bodies[0]["event_id"] == bodies[2]["event_id"]
    assert len({body["event_id"] for body in bodies}) == 3


def test_a_caller_that_waits_with_its_body_gets_a_continue(hub: Hub, endpoint: dict[str, Any]) -> None:
    whole = request(endpoint, expect="100-continue")
    with socket.create_connection(("127.0.0.1", hub.ports["gateway"]), timeout=20) as connection:
        connection.sendall(whole[: -len(BODY)])
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read(connection)[0] == 202


def test_an_old_client_gets_its_connection_closed(hub: Hub, endpoint: dict[str, Any]) -> None:
    with socket.create_connection(("127.0.0.1", hub.ports["gateway"]), timeout=20) as connection:
        connection.sendall(request(endpoint, version="1.0"))
        assert read(connection)[0] == 202
        assert connection.recv(1) == b""
