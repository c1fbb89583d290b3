"""The resolver at a real DNS server: shared queries, limits per workspace, cache, malformed answers."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import dns.rcode
import pytest
import uvloop

from shared.runtime.egress import resolver as resolver_module
from shared.runtime.egress.resolver import DnsResolver, NotResolved
from shared.runtime.egress.system_config import parse_hosts
from tests.support.dns_server import DnsServer, Reply
from tests.support.ports import free_port

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


def names(server: DnsServer, **settings: Any) -> DnsResolver:
    return DnsResolver([("127.0.0.1", server.port)], **settings)


def test_addresses_of_both_families(run: Run, server: DnsServer) -> None:
    server.replies["both.example"] = Reply(["2001:db8::1", "192.0.2.1", "192.0.2.2"])
    server.replies["six.example"] = Reply(["2001:db8::1"])
    server.replies["alias.example"] = Reply(["192.0.2.3"], alias="edge.example.net")
    resolver = names(server)
    first, second, last = run(resolver.lookup("both.example", "ws"))
    assert ({first, second}, last) == ({"192.0.2.1", "192.0.2.2"}, "2001:db8::1")
    assert run(resolver.lookup("six.example", "ws")) == ("2001:db8::1",)
    assert run(resolver.lookup("ALIAS.example.", "ws")) == ("192.0.2.3",)
    assert set(server.asked) == {
        (name, kind) for name in ("both.example", "six.example", "alias.example") for kind in ("A", "AAAA")
    }


def test_local_names_are_not_queried(run: Run, server: DnsServer) -> None:
    resolver = names(server)
    assert run(resolver.lookup("localhost", "ws"))[0] == "127.0.0.1"
    assert run(resolver.lookup("Sub.LocalHost.", "ws")) == ("127.0.0.1", "::1")
    assert server.asked == []


def test_a_hosts_file() -> None:
    text = "# text\n::1 localhost ip6\n127.0.0.1 localhost # this\n\nnonsense x\n10.0.0.1 Files.Example files"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "ip6": ("::1",),
        "files.example": ("10.0.0.1",),
        "files": ("10.0.0.1",),
    }


def test_search_domains_are_not_used(run: Run, server: DnsServer) -> None:
    server.replies["intranet"] = Reply(["192.0.2.9"])
    resolver = names(server)
    assert run(resolver.lookup("intranet", "ws")) == ("192.0.2.9",)
    with pytest.raises(NotResolved, match=r"^the name does not resolve$") as caught:
        run(resolver.lookup("kafka", "ws"))
    assert caught.value.permanent
    assert {name for name, _ in server.asked} == {"intranet", "kafka"}


@pytest.mark.parametrize("name", ["a..b", "a b", "", "a" * 64 + ".example", "x\0.example", "*.example"])
def test_invalid_names_are_not_queried(run: Run, server: DnsServer, name: str) -> None:
    with pytest.raises(NotResolved, match="does not resolve"):
        run(names(server).lookup(name, "ws"))
    assert server.asked == []


def test_concurrent_lookups_of_one_name_share_one_query(run: Run, server: DnsServer) -> None:
    server.replies["one.example"] = Reply(["192.0.2.1"], ttl=0, delay_s=0.2)
    resolver = names(server)

    async def test() -> None:
        results = await asyncio.gather(*(resolver.lookup("one.example", f"ws{n % 3}") for n in range(60)))
        assert set(results) == {("192.0.2.1",)}
        assert server.count("one.example") == 1
        # Who goes away does not take the answer from the others.
        first, second = (asyncio.create_task(resolver.lookup("one.example", "ws")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await second == ("192.0.2.1",)
        assert server.count("one.example") == 2

    run(test())


def test_an_answer_is_cached_for_the_lifetime_of_its_record(run: Run, server: DnsServer) -> None:
    server.replies["now.example"] = Reply([["192.0.2.1"], ["192.0.2.2"]], ttl=0)
    server.replies["soon.example"] = Reply([["192.0.2.1"], ["192.0.2.2"]], ttl=1)
    resolver = names(server)

    async def test() -> None:
        assert [await resolver.lookup("now.example", "ws") for _ in range(2)] == [
            ("192.0.2.1",),
            ("192.0.2.2",),
        ]
        assert [await resolver.lookup("soon.example", "ws") for _ in range(2)] == [("192.0.2.1",)] * 2
        await asyncio.sleep(1.1)
        assert await resolver.lookup("soon.example", "ws") == ("192.0.2.2",)

    run(test())


def test_a_failure_is_cached(run: Run, server: DnsServer) -> None:
    server.replies["broken.example"] = Reply(rcode=dns.rcode.SERVFAIL)
    resolver = names(server)
    for name, text, permanent in (
        ("missing.example", "the name does not resolve", True),
        ("broken.example", "the DNS servers could not resolve the name", False),
    ):
        for _ in range(3):
            with pytest.raises(NotResolved) as caught:
                run(resolver.lookup(name, "ws"))
            assert (str(caught.value), caught.value.permanent) == (text, permanent)
    assert server.count("missing.example") == 1
    assert server.count("broken.example") == 3, "each try of the one lookup"


def test_slow_names_of_one_workspace_do_not_delay_others(run: Run, server: DnsServer) -> None:
    server.replies["*.slow.example"] = Reply(["192.0.2.1"], delay_s=20)
    server.replies["quick.example"] = Reply(["192.0.2.2"], ttl=0)
    resolver = names(server, timeout_s=4)

    async def test() -> None:
        slow = [asyncio.create_task(resolver.lookup(f"{n}.slow.example", "hostile")) for n in range(40)]
        await asyncio.sleep(0.2)
        assert server.max_concurrent <= 16
        began = monotonic()
        for _ in range(20):
            assert await resolver.lookup("quick.example", "other") == ("192.0.2.2",)
        assert monotonic() - began < 3.5, "less than any slow name takes"
        failures = await asyncio.gather(*slow, return_exceptions=True)
        assert {str(failure) for failure in failures} == {
            "the name was not resolved in time",
            "too many lookups of this workspace are under way",
        }
        assert server.max_concurrent <= 16 + 1
        # Nobody else's result depends on how many lookups this workspace had.
        server.replies["*.slow.example"] = Reply(["192.0.2.1"])
        assert await resolver.lookup("39.slow.example", "other") == ("192.0.2.1",)

    run(test())


def test_a_name_that_was_too_slow_is_queried_in_the_background(
    run: Run, server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "_FAILURE_TTL_S", 1.0)
    server.replies["slow.example"] = Reply(["192.0.2.1"], delay_s=2.5)
    resolver = names(server, timeout_s=0.9)

    async def failed_after() -> float:
        began = monotonic()
        with pytest.raises(NotResolved, match="not resolved in time"):
            await resolver.lookup("slow.example", "ws")
        return monotonic() - began

    async def test() -> None:
        assert await failed_after() >= 0.9
        await asyncio.sleep(1.1)  # the failure is forgotten
        count = server.count("slow.example")
        assert await failed_after() < 0.9
        async with asyncio.timeout(60):  # it is asked for all the same
            while server.count("slow.example") == count:  # noqa: ASYNC110 -- another thread counts
                await asyncio.sleep(0.01)
        server.replies["slow.example"] = Reply(["192.0.2.1"])
        async with asyncio.timeout(60):  # the failure is forgotten again, and a query beside succeeds
            while True:
                with suppress(NotResolved):
                    assert await resolver.lookup("slow.example", "ws") == ("192.0.2.1",)
                    return
                await asyncio.sleep(0.1)

    run(test())


def test_the_second_address_family_is_not_waited_for_long(run: Run, server: DnsServer) -> None:
    server.replies["half.example"] = Reply(["192.0.2.1"], silent=frozenset({"AAAA"}))
    server.replies["none.example"] = Reply(["192.0.2.1"], silent=frozenset({"A", "AAAA"}))
    resolver = names(server, timeout_s=2.0)
    assert run(resolver.lookup("half.example", "ws")) == ("192.0.2.1",)
    with pytest.raises(NotResolved, match="not resolved in time"):
        run(resolver.lookup("none.example", "ws"))


def test_an_answer_too_large_for_a_datagram_comes_over_tcp(run: Run, server: DnsServer) -> None:
    many = [f"192.0.2.{number}" for number in range(1, 61)]
    server.replies["many.example"] = Reply(many, truncated=True)
    server.replies["more.example"] = Reply([*many, *(f"198.51.100.{n}" for n in range(10))], truncated=True)
    server.replies["flood.example"] = Reply(
        [f"10.{n >> 8}.{n & 255}.1" for n in range(3_000)], truncated=True
    )
    resolver = names(server)
    assert set(run(resolver.lookup("many.example", "ws"))) == set(many)
    with pytest.raises(NotResolved, match="too many addresses"):
        run(resolver.lookup("more.example", "ws"))
    with pytest.raises(NotResolved, match="could not resolve"):
        run(resolver.lookup("flood.example", "ws"))


def test_garbage_before_the_answer_is_ignored(run: Run, server: DnsServer) -> None:
    forged = bytes.fromhex("0000818000010001000000000367617007657861") + bytes(30)
    server.replies["gap.example"] = Reply(["192.0.2.1"], garbage=[b"", b"\0", forged, bytes(600)])
    assert run(names(server).lookup("gap.example", "ws")) == ("192.0.2.1",)


def test_an_unavailable_server_is_skipped(run: Run, server: DnsServer) -> None:
    server.replies["up.example"] = Reply(["192.0.2.1"])
    away = ("127.0.0.1", free_port())
    assert run(DnsResolver([away, ("127.0.0.1", server.port)]).lookup("up.example", "ws")) == ("192.0.2.1",)
    with pytest.raises(NotResolved, match="could not resolve"):
        run(DnsResolver([away]).lookup("up.example", "ws"))


def test_no_thread_is_used(run: Run, server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the system's resolver was asked")

    server.replies["up.example"] = Reply(["192.0.2.1"], truncated=True)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert run(names(server).lookup("up.example", "ws")) == ("192.0.2.1",)
