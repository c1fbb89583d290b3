"""What the built-in entrance passes on, and what its documents cost."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import pytest

from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.raw_http import exchange


class Peer:
    """A service behind the entrance: remembers the headers that reach it, and has a large API document."""

    def __init__(self) -> None:
        peer = self
        self.seen: list[tuple[str, list[tuple[str, str]]]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                peer.seen.append((self.path, [(name.lower(), value) for name, value in self.headers.items()]))
                document: dict[str, Any] = {"paths": {}, "components": {"schemas": {}}}
                payload = json.dumps(document if self.path.startswith("/openapi/") else {}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    here = Peer()
    yield here
    here.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, peer: Peer) -> Iterator[Hub]:
    folder: Path = tmp_path_factory.mktemp("hub")
    env = {"INTERLINK_PEERS": json.dumps({"delivery": peer.url})}
    with Hub(folder, bus, store, services=("gateway",), workspace="entrance", env=env) as started:
        yield started


LIES = [
    ("X-Forwarded-For", "198.51.100.7"),
    ("X-Forwarded-For", "198.51.100.8"),
    ("Forwarded", "for=198.51.100.7"),
    ("X-Real-IP", "198.51.100.7"),
    ("True-Client-IP", "198.51.100.7"),
    ("X-Forwarded-Host", "elsewhere.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "1"),
]


@pytest.mark.parametrize(
    ("source", "client"),
    [("127.0.0.9", "127.0.0.9"), ("127.0.0.1", "198.51.100.8")],
    ids=["stranger", "proxy"],
)
def test_peers_get_the_address_of_the_caller(hub: Hub, peer: Peer, source: str, client: str) -> None:
    """A stranger by the address that he has; a trusted proxy's caller by the one that the proxy saw."""
    peer.seen.clear()
    headers = [*LIES, ("X-Other", "kept")]
    assert exchange(hub.ports["gateway"], "/api/deliveries", headers, method="GET", source=source)[0] == 200
    [(_, seen)] = peer.seen
    claims = [(name, value) for name, value in seen if "forwarded" in name or name.endswith("-ip")]
    assert claims == [("x-forwarded-for", client)]
    assert ("x-other", "kept") in seen


@pytest.mark.parametrize(
    "path", ["/api/webhooks/generic/..%2fx", "/api/webhooks//ep_1", "/api/webhooks/generic"]
)
def test_no_answer_below_the_webhook_paths_is_a_page(hub: Hub, path: str) -> None:
    """Neither one that is refused before it is routed."""
    request = f"GET {path} HTTP/1.1\r\nhost: hub.example\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hub.ports["gateway"]), timeout=20) as connection:
        connection.sendall(request.encode())
        response = HTTPResponse(connection)
        response.begin()
        assert response.status in (400, 404)
        assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_documents_are_made_once(hub: Hub, peer: Peer) -> None:
    """Anybody may ask for them: an answer that is ready costs far less than the first."""
    base = hub.url("gateway")
    with httpx.Client(base_url=base, timeout=30) as client:
        started = perf_counter()
        first = client.get("/api/openapi.json")
        elapsed = perf_counter() - started
        peer.seen.clear()
        best = elapsed
        for _ in range(20):
            started = perf_counter()
            assert client.get("/api/openapi.json").content == first.content
            best = min(best, perf_counter() - started)
        assert peer.seen == [], "the peers are asked once"
        assert best < elapsed / 2
        for path in ("/api/asyncapi.json", "/openapi/gateway.json"):
            assert client.get(path).content == client.get(path).content
            assert client.get(path).headers["content-type"] == "application/json"
