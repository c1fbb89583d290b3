"""Looking up names at a real DNS server: shared queries, bounds for each workspace, memory, odd answers."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import dns.rcode
import pytest
import uvloop

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
    found = names(server)
    first, second, last = run(found.lookup("both.example", "ws"))
    assert ({first, second}, last) == ({"192.0.2.1", "192.0.2.2"}, "2001:db8::1")
    assert run(found.lookup("six.example", "ws")) == ("2001:db8::1",)
    assert run(found.lookup("ALIAS.example.", "ws")) == ("192.0.2.3",)
    assert set(server.asked) == {
        (name, kind) for name in ("both.example", "six.example", "alias.example") for kind in ("A", "AAAA")
    }


def test_this_machines_own_names_are_not_asked_for(run: Run, server: DnsServer) -> None:
    found = names(server)
    assert run(found.lookup("localhost", "ws"))[0] == "127.0.0.1"
    assert run(found.lookup("Sub.LocalHost.", "ws")) == ("127.0.0.1", "::1")
    assert server.asked == []


def test_a_hosts_file() -> None:
    text = "# text\n::1 localhost ip6\n127.0.0.1 localhost # this\n\nnonsense x\n10.0.0.1 Files.Example files"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "ip6": ("::1",),
        "files.example": ("10.0.0.1",),
        "files": ("10.0.0.1",),
    }


def test_a_name_is_asked_for_as_it_is_and_never_completed(run: Run, server: DnsServer) -> None:
    server.replies["intranet"] = Reply(["192.0.2.9"])
    found = names(server)
    assert run(found.lookup("intranet", "ws")) == ("192.0.2.9",)
    with pytest.raises(NotResolved, match=r"^the name does not resolve$") as caught:
        run(found.lookup("kafka", "ws"))
    assert caught.value.permanent
    assert {name for name, _ in server.asked} == {"intranet", "kafka"}


@pytest.mark.parametrize("name", ["a..b", "a b", "", "a" * 64 + ".example", "x\0.example", "*.example"])
def test_what_is_no_name_is_not_asked_for(run: Run, server: DnsServer, name: str) -> None:
    with pytest.raises(NotResolved, match="does not resolve"):
        run(names(server).lookup(name, "ws"))
    assert server.asked == []


def test_concurrent_lookups_of_one_name_share_one_query(run: Run, server: DnsServer) -> None:
    server.replies["one.example"] = Reply(["192.0.2.1"], ttl=0, delay_s=0.2)
    found = names(server)

    async def test() -> None:
        results = await asyncio.gather(*(found.lookup("one.example", f"ws{n % 3}") for n in range(60)))
        assert set(results) == {("192.0.2.1",)}
        assert server.count("one.example") == 1
        # Who goes away does not take the answer from the others.
        first, second = (asyncio.create_task(found.lookup("one.example", "ws")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await second == ("192.0.2.1",)
        assert server.count("one.example") == 2

    run(test())


def test_an_answer_is_remembered_no_longer_than_its_record_lives(run: Run, server: DnsServer) -> None:
    server.replies["now.example"] = Reply([["192.0.2.1"], ["192.0.2.2"]], ttl=0)
    server.replies["soon.example"] = Reply([["192.0.2.1"], ["192.0.2.2"]], ttl=1)
    found = names(server)

    async def test() -> None:
        assert [await found.lookup("now.example", "ws") for _ in range(2)] == [("192.0.2.1",), ("192.0.2.2",)]
        assert [await found.lookup("soon.example", "ws") for _ in range(2)] == [("192.0.2.1",)] * 2
        await asyncio.sleep(1.1)
        assert await found.lookup("soon.example", "ws") == ("192.0.2.2",)

    run(test())


def test_a_failure_is_remembered_for_a_moment(run: Run, server: DnsServer) -> None:
    server.replies["broken.example"] = Reply(rcode=dns.rcode.SERVFAIL)
    found = names(server)
    for name, text, permanent in (
        ("missing.example", "the name does not resolve", True),
        ("broken.example", "the DNS servers could not resolve the name", False),
    ):
        for _ in range(3):
            with pytest.raises(NotResolved) as caught:
                run(found.lookup(name, "ws"))
            assert (str(caught.value), caught.value.permanent) == (text, permanent)
    assert server.count("missing.example") == 1
    assert server.count("broken.example") == 3, "each try of the one lookup"


def test_slow_names_of_one_workspace_keep_nobody_else_waiting(run: Run, server: DnsServer) -> None:
    server.replies["*.slow.example"] = Reply(["192.0.2.1"], delay_s=20)
    server.replies["quick.example"] = Reply(["192.0.2.2"], ttl=0)
    found = names(server, timeout_s=1.5)

    async def test() -> None:
        slow = [asyncio.create_task(found.lookup(f"{n}.slow.example", "hostile")) for n in range(40)]
        await asyncio.sleep(0.2)
        assert server.most_under_way <= 16
        began = monotonic()
        for _ in range(20):
            assert await found.lookup("quick.example", "other") == ("192.0.2.2",)
        assert monotonic() - began < 1.0, "less than any slow name takes"
        failures = await asyncio.gather(*slow, return_exceptions=True)
        assert {str(failure) for failure in failures} == {
            "the name was not resolved in time",
            "too many lookups of this workspace are under way",
        }
        assert server.most_under_way <= 16 + 1
        # Nobody else's result depends on how many lookups this workspace had.
        server.replies["*.slow.example"] = Reply(["192.0.2.1"])
        assert await found.lookup("39.slow.example", "other") == ("192.0.2.1",)

    run(test())


def test_a_name_that_was_too_slow_is_asked_for_beside_and_not_waited_for(run: Run, server: DnsServer) -> None:
    server.replies["slow.example"] = Reply(["192.0.2.1"], delay_s=1.0)
    found = names(server, timeout_s=0.3)

    async def failed_after() -> float:
        began = monotonic()
        with pytest.raises(NotResolved, match="not resolved in time"):
            await found.lookup("slow.example", "ws")
        return monotonic() - began

    async def test() -> None:
        assert await failed_after() >= 0.3
        await asyncio.sleep(5.1)  # the failure is forgotten
        asked = server.count("slow.example")
        assert await failed_after() < 0.3
        async with asyncio.timeout(10):  # it is asked for all the same
            while server.count("slow.example") == asked:  # noqa: ASYNC110 -- another thread counts
                await asyncio.sleep(0.01)
        server.replies["slow.example"] = Reply(["192.0.2.1"])
        async with asyncio.timeout(30):  # the failure is forgotten again, and a query beside succeeds
            while True:
                with suppress(NotResolved):
                    assert await found.lookup("slow.example", "ws") == ("192.0.2.1",)
                    return
                await asyncio.sleep(0.1)

    run(test())


def test_an_address_of_the_other_family_is_not_waited_for_long(run: Run, server: DnsServer) -> None:
    server.replies["half.example"] = Reply(["192.0.2.1"], silent=frozenset({"AAAA"}))
    server.replies["none.example"] = Reply(["192.0.2.1"], silent=frozenset({"A", "AAAA"}))
    found = names(server, timeout_s=2.0)
    assert run(found.lookup("half.example", "ws")) == ("192.0.2.1",)
    with pytest.raises(NotResolved, match="not resolved in time"):
        run(found.lookup("none.example", "ws"))


def test_what_does_not_fit_into_a_datagram_comes_over_tcp(run: Run, server: DnsServer) -> None:
    many = [f"192.0.2.{number}" for number in range(1, 61)]
    server.replies["many.example"] = Reply(many, truncated=True)
    server.replies["more.example"] = Reply([*many, *(f"198.51.100.{n}" for n in range(10))], truncated=True)
    server.replies["flood.example"] = Reply(
        [f"10.{n >> 8}.{n & 255}.1" for n in range(3_000)], truncated=True
    )
    found = names(server)
    assert set(run(found.lookup("many.example", "ws"))) == set(many)
    with pytest.raises(NotResolved, match="too many addresses"):
        run(found.lookup("more.example", "ws"))
    with pytest.raises(NotResolved, match="could not resolve"):
        run(found.lookup("flood.example", "ws"))


def test_garbage_before_the_answer_is_ignored(run: Run, server: DnsServer) -> None:
    forged = bytes.fromhex("0000818000010001000000000367617007657861") + bytes(30)
    server.replies["gap.example"] = Reply(["192.0.2.1"], garbage=[b"", b"\0", forged, bytes(600)])
    assert run(names(server).lookup("gap.example", "ws")) == ("192.0.2.1",)


def test_a_server_that_is_away_is_passed_over(run: Run, server: DnsServer) -> None:
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
