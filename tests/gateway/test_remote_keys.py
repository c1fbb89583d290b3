"""Keys that are fetched: what one workspace names holds up nobody else's."""

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from aiohttp import web

from services.gateway.ingest.endpoint import EventSelection, InboundEndpoint
from services.gateway.ingest.public_keys import CALLER, PublishedKeys
from services.gateway.ingest.rate_limit import TokenBucket
from services.gateway.ingest.verify import Verifier
from shared.contracts.errors import InterlinkError
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.registry import registry
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.logs import configure
from tests.support.dns_server import DnsServer, Reply
from tests.support.subscriber import Subscriber, WebhookRequest

_HOSTS = [f"{number}.slow.example" for number in range(10)]
_SCHEME = {
    "scheme": "rsa",
    "signature": {"header": "x-signature", "encoding": "hex"},
    "signed": "{body}",
    "keys": {"url": "https://{header:x-host}/{header:x-number}", "hosts": _HOSTS},
}


def _endpoint() -> InboundEndpoint:
    """One whose owner describes the sender: its keys are on hosts that he names."""
    generic = registry().providers["generic"]
    assert generic.manifest.webhook
    return InboundEndpoint(
        EndpointId("ep_1"),
        WorkspaceId("hostile"),
        generic,
        WebhookDefinition(apply_description(generic.manifest.webhook, {"verification": [_SCHEME]})),
        "https://hub.example/api/webhooks/generic/ep_1",
        "",
        enabled=True,
        keys=(),
        settings={},
        require_signature=True,
        networks=(),
        body_limit=None,
        dedupe_window_s=None,
        message_events=EventSelection(()),
        accepted=TokenBucket(100),
        recorded_rejections=TokenBucket(100),
    )


def test_slow_hosts_that_a_workspace_names_keep_no_other_key_waiting() -> None:
    replies = {
        "*.slow.example": Reply(["127.0.0.1"], delay_s=20),
        "platform.example": Reply(["127.0.0.1"], ttl=0),
    }
    own = _endpoint()
    log = configure("test", "error")

    async def forged(verifier: Verifier, number: int) -> None:
        """A request of a caller of its own, whose key is at an address of its own."""
        CALLER.set(f"192.0.2.{number}")
        host = _HOSTS[number % len(_HOSTS)].encode()
        headers = {b"x-signature": [b"00" * 256], b"x-host": [host], b"x-number": [b"%d" % number]}
        assert own.definition
        request = own.definition.request("POST", own.address, b"", headers, b"{}", {})
        with suppress(InterlinkError):
            await verifier.verify(own, own.definition, request, b"{}")

    async def test(server: DnsServer, url: str) -> float:
        client = EgressClient(
            "loopback",
            max_connections=20,
            max_per_workspace=5,
            resolver=DnsResolver([("127.0.0.1", server.port)]),
        )
        await client.start()
        keys = PublishedKeys(client, log)
        attacks: list[asyncio.Task[Any]] = []
        try:
            verifier = Verifier(keys)
            attacks = [asyncio.create_task(forged(verifier, number)) for number in range(40)]
            async with asyncio.timeout(60):
                while not server.in_progress:  # noqa: ASYNC110 -- the server is a thread
                    await asyncio.sleep(0.02)
            CALLER.set("198.51.100.1")
            started = monotonic()
            assert (await keys.get(url)).body == b"the key"
            return monotonic() - started
        finally:
            for attack in attacks:
                attack.cancel()
            await asyncio.gather(*attacks, return_exceptions=True)
            await client.stop()

    with DnsServer(replies) as server, Subscriber(lambda _got: web.Response(body=b"the key")) as platform:
        port = platform.url.rpartition(":")[2].partition("/")[0]
        assert asyncio.run(test(server, f"http://platform.example:{port}/key")) < 3


def test_a_document_that_is_too_long_does_not_replace_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.ingest.public_keys._REFETCH_INTERVAL_S", 0)
    answers = iter([b"the key", b"x" * 65_537, b"y" * 65_536])

    async def test(url: str) -> list[int]:
        client = EgressClient("loopback", max_connections=2)
        await client.start()
        keys = PublishedKeys(client, configure("test", "error"))
        try:
            return [len((await keys.get(url, refresh=True)).body) for _ in range(3)]
        finally:
            await client.stop()

    with Subscriber(lambda _got: web.Response(body=next(answers))) as provider:
        assert asyncio.run(test(provider.url)) == [7, 7, 65_536]


def test_a_key_is_requested_with_the_credentials_of_each_workspace() -> None:
    async def test(url: str) -> None:
        client = EgressClient("loopback", max_connections=2)
        await client.start()
        keys = PublishedKeys(client, configure("test", "error"))
        try:
            for _ in range(2):
                for body in (b'{"secret":"a"}', b'{"secret":"b"}'):
                    assert (await keys.get(url, body=body, workspace="w")).body == body
        finally:
            await client.stop()

    with Subscriber(lambda got: web.Response(body=got.body)) as provider:
        asyncio.run(test(provider.url))
        assert [one.body for one in provider.got] == [b'{"secret":"a"}', b'{"secret":"b"}']


def test_forged_requests_do_not_take_the_place_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """They name ever new keys, for which the provider has none."""
    monkeypatch.setattr("services.gateway.ingest.public_keys._FETCHES_PER_MINUTE", 1000)

    async def test(url: str) -> None:
        client = EgressClient("loopback", max_connections=2)
        await client.start()
        keys = PublishedKeys(client, configure("test", "error"))
        try:
            await keys.get(url, body=b"good", workspace="w")
            for number in range(50):
                with suppress(InterlinkError):
                    await keys.get(url, body=b"forged %d" % number, workspace="w")
            await keys.get(url, body=b"good", workspace="w")
        finally:
            await client.stop()

    def answer(got: WebhookRequest) -> web.Response:
        return web.Response(body=got.body, status=200 if got.body == b"good" else 404)

    with Subscriber(answer) as provider:
        asyncio.run(test(provider.url))
        assert [one.body for one in provider.got].count(b"good") == 1


def test_many_callers_do_not_use_up_the_credentials_of_a_workspace() -> None:
    async def test(url: str) -> None:
        client = EgressClient("loopback", max_connections=2)
        await client.start()
        keys = PublishedKeys(client, configure("test", "error"))
        try:
            for number in range(100):
                CALLER.set(f"192.0.2.{number}")
                with suppress(InterlinkError):
                    await keys.get(url, body=b"forged %d" % number, workspace="hostile")
            CALLER.set("198.51.100.1")
            await keys.get(url, body=b"good", workspace="another")
        finally:
            await client.stop()

    with Subscriber(lambda got: web.Response(body=got.body)) as provider:
        asyncio.run(test(provider.url))
        assert 50 <= len(provider.got) <= 70
