"""The hosts that stand for third parties: called by the hub's own client, strict, and rude on request."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.resolver import DnsResolver
from tests.support.browser import CHROMIUM, browser
from tests.support.eventually import until
from tests.support.provider_hosts import (
    FORM,
    NAMES,
    Forward,
    Handler,
    HostRequest,
    ProviderHosts,
    Reply,
    know,
)

HOST = "api.example.com"
AT = f"https://{HOST}"


def answer(asked: HostRequest) -> Reply:
    """What the hosts of these tests do: one thing per path."""
    match asked.path:
        case "/form":
            return Reply.json(asked.form(), x_seen="yes")
        case "/json":
            return Reply.form({"got": json.dumps(asked.json())})
        case "/params":
            return Reply.json(asked.params())
        case "/gone":
            return Reply.gone()
        case "/slow":
            time.sleep(0.5)
            return Reply(204)
        case "/away":
            return Reply.redirect(f"https://shop.shops.example.com/page?from={asked.host}")
        case "/page":
            return Reply.html(f"<p id=here>{asked.host}</p>")
        case "/lookup":
            return Reply.json(asked.headers["x-lookup"])
    raise AssertionError("there is no such path")


@pytest.fixture
def platforms() -> Iterator[ProviderHosts]:
    hosts: dict[str, Handler] = {HOST: answer, "*.shops.example.com": answer, "127.0.0.1:1": answer}
    with ProviderHosts(hosts) as running:
        yield running


@pytest.fixture
async def client(
    platforms: ProviderHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EgressClient]:
    """The hub's client, in an environment as a service would have it."""
    env = platforms.env(tmp_path, {"internal.example.com": "10.0.0.1"})
    monkeypatch.setattr(DnsResolver, "lookup", DnsResolver.lookup)  # put back afterwards
    know(json.loads(env[NAMES]))
    made = EgressClient(
        "none",
        max_connections=10,
        proxy=env["INTERLINK_EGRESS_PROXY"],
        ca_file=env["INTERLINK_EGRESS_CA_FILE"],
    )
    await made.start()
    yield made
    await made.stop()


async def test_requests_are_received_unchanged_over_one_connection(
    client: EgressClient, platforms: ProviderHosts
) -> None:
    form = await client.post(f"{AT}/form", {"content-type": FORM}, b"a=%C3%BC+b&c=", timeout_s=5)
    assert (form.status, json.loads(form.body), form.headers["x-seen"]) == (200, {"a": "ü b", "c": ""}, "yes")
    sent = await client.post(f"{AT}/json", {"content-type": "application/json"}, b'{"n": 1}', timeout_s=5)
    assert sent.body == b"got=%7B%22n%22%3A+1%7D"
    params = await client.get(f"{AT}/params?x=%26&y=", timeout_s=5)
    assert json.loads(params.body) == {"x": "&", "y": ""}
    any_shop = await client.get("https://shop.shops.example.com/page", timeout_s=5)
    assert any_shop.body == b"<p id=here>shop.shops.example.com</p>"
    assert platforms.connected == [HOST, "shop.shops.example.com"]
    assert [one.method for one in platforms.requests(HOST)] == ["POST", "POST", "GET"]
    assert platforms.requests(HOST, "/form")[0].headers["content-type"] == FORM
    assert platforms.faults == []


@pytest.mark.parametrize(
    ("path", "kind", "body", "fault"),
    [
        (
            "/form",
            "application/json",
            b"{}",
            "POST api.example.com/form: the body is application/json, not a",
        ),
        ("/form", FORM, b"a=1&a=2", "POST api.example.com/form: the form has a name twice"),
        ("/json", FORM, b"a=1", "POST api.example.com/json: the body is application/x-www-form-urlencoded,"),
        ("/json", "application/json", b'{"a":1,"a":2}', "POST api.example.com/json: an object has a name"),
        ("/params?a=1&a=2", FORM, b"", "POST api.example.com/params: the query has ['a'] more than once"),
        ("/params?a", FORM, b"", "POST api.example.com: ValueError"),
        ("/none", FORM, b"", "POST api.example.com/none: there is no such path"),
        (
            "/lookup",
            FORM,
            b"",
            "POST api.example.com/lookup: KeyError('x-lookup') at test_provider_hosts.py:",
        ),
    ],
)
async def test_what_is_wrong_is_a_fault_and_a_500(
    client: EgressClient, platforms: ProviderHosts, path: str, kind: str, body: bytes, fault: str
) -> None:
    got = await client.post(AT + path, {"content-type": kind}, body, timeout_s=5)
    assert got.status == 500
    assert len(platforms.faults) == 1
    assert platforms.faults[0].startswith(fault)


async def test_a_host_is_down_slow_or_says_nothing(client: EgressClient, platforms: ProviderHosts) -> None:
    assert (await client.post(f"{AT}/gone", {}, b"", timeout_s=5)).failure == "closed_mid_response"
    assert (await client.post(f"{AT}/slow", {}, b"", timeout_s=0.1)).failure == "timeout"
    assert (await client.post(f"{AT}/slow", {}, b"", timeout_s=5)).status == 204
    await asyncio.to_thread(platforms.take_down, HOST)
    refused = await client.post(f"{AT}/page", {}, b"", timeout_s=5)
    if refused.failure == "connection":  # the one that was open, and ended with the host
        refused = await client.post(f"{AT}/page", {}, b"", timeout_s=5)
    assert (refused.failure, refused.detail) == ("proxy", "the egress proxy answered 502")
    platforms.bring_up()
    assert (await client.get(f"{AT}/page", timeout_s=5)).status == 200
    assert platforms.faults == []


async def test_only_these_hosts_are_there(client: EgressClient, platforms: ProviderHosts) -> None:
    plain = await client.get("http://8.8.8.8/page", timeout_s=5)
    assert plain.status == 403
    deeper = await client.get("https://8.8.4.4/page", timeout_s=5)
    assert deeper.failure == "proxy"
    assert (await client.get("https://internal.example.com/", timeout_s=5)).failure == "address_refused"
    assert (await client.get("https://a.b.shops.example.com/", timeout_s=5)).failure == "dns"
    # Each fault is recorded beside the response to it.
    await until(lambda: len(platforms.faults) == 2)
    assert sorted(platforms.faults) == [
        "ValueError('the proxy was asked for CONNECT 8.8.4.4')",
        "ValueError('the proxy was asked for GET http://8.8.8.8/page')",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
async def test_a_browser_goes_there_too(platforms: ProviderHosts) -> None:
    with ProviderHosts({}) as empty:
        port = int(empty.proxy.rpartition(":")[2])
        assert (
            Forward(port)(HostRequest("GET", HOST, "/")).status == 403
        )  # straight at a server of this machine
    assert Forward(port)(HostRequest("GET", HOST, "/")).status == 502
    async with browser(proxy=platforms.proxy) as chromium, chromium.user() as tab:
        await tab.goto(f"{AT}/away")
        assert await tab.see("#here") == "shop.shops.example.com"
        assert await tab.at("page.from=") == f"https://shop.shops.example.com/page?from={HOST}"
    assert platforms.faults == []
