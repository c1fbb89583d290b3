"""The bounds of what a connected account may list and send: each is a refusal or a pause with its reason."""

import itertools
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from services.importer.accounts import account_reader
from services.importer.accounts.account_calls import MAX_RESPONSE_BYTES, AccountCalls, CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.accounts.rate_limiter import RateLimiter, RateLimiterState
from services.importer.accounts.walk import Walk
from services.importer.jobs.account_waits import account_waits
from services.importer.reading.protocol import Overview
from shared.connections.channel_calls import NotReached, OutcomeUnknown, StepResponse
from shared.connections.tokens import NotConnected
from shared.contracts.errors import NotFound
from shared.manifests.channel_types import Call, ChannelFailure, Step
from shared.manifests.history_types import LATEST, Unreadable
from tests.importer.test_page_process import ACCOUNT, SPEC, Answer, page_of, reader

STEP = Step(Call("GET", "/conversations.list"), method="conversations.list")


class Provider:
    """Tokens, and a provider that answers in one way."""

    def __init__(self, answer: StepResponse | Exception, token: Exception | None = None) -> None:
        self._answer = answer
        self._token = token
        self.bounds: dict[str, float] = {}

    async def access(self, integration_id: str) -> str:
        if self._token is not None:
            raise self._token
        return f"the token of {integration_id}"

    async def send(self, step: Step, access: str, **bounds: float) -> tuple[StepResponse, str]:
        assert step.method
        self.bounds = bounds
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer, access


def calls(provider: Provider, state: RateLimiterState | None = None) -> AccountCalls:
    assert SPEC is not None
    access: Any = provider
    limiter = RateLimiter(SPEC.rates, state or RateLimiterState())
    return AccountCalls(access, access, "int_1", limiter, max_wait_s=1.0)


def account_of(answer: Answer) -> AccountReader:
    return AccountReader(
        reader(answer),
        calls(Provider(StepResponse(200, {}, b"{}"))),
        ACCOUNT,
        Walk(),
        known=None,
        span=(0.0, LATEST),
        since={},
        samples=False,
    )


async def listed(account: AccountReader) -> Overview:
    """List an account, as the first step of an import does."""
    await account.contents({})
    async for _ in account.conversations():
        pass
    async for _ in account.people():
        pass
    return account.listed


def lists(*, people: int = 1, channels: int = 1, endless: bool = False) -> Callable[[Step], dict[str, Any]]:
    """Return answers with so many people and channels, on one page; or on pages without end."""
    pages = itertools.count()

    def answer(step: Step) -> dict[str, Any]:
        cursor = f"page {next(pages)}" if endless else ""
        users = [{"id": f"U{number:08}", "name": "a"} for number in range(people)]
        listed = [{"id": f"C{number:08}", "name": "c", "is_member": True} for number in range(channels)]
        more = {"response_metadata": {"next_cursor": cursor}}
        return {"members": users, **more} if step.method == "users.list" else {"channels": listed, **more}

    return answer


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (lists(people=5), "lists more than 4 people"),
        (lists(channels=4), "lists more than 3 conversations"),
        (lists(endless=True), "in more than 5 pages: upload an export"),
    ],
)
async def test_an_account_that_lists_too_much_is_refused(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, refusal: str
) -> None:
    monkeypatch.setattr(account_reader, "MAX_PEOPLE", 4)
    monkeypatch.setattr(account_reader, "MAX_CONVERSATIONS", 3)
    monkeypatch.setattr(account_reader, "_MAX_PAGES", 5)
    async with account_of(answer) as account:
        with pytest.raises(Unreadable, match=refusal):
            await listed(account)


async def test_an_account_at_its_bounds_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_reader, "MAX_PEOPLE", 4)
    monkeypatch.setattr(account_reader, "MAX_CONVERSATIONS", 3)
    async with account_of(lists(people=4, channels=3)) as account:
        found = await listed(account)
    assert (found.people, found.conversations) == (4, 3)


async def test_a_conversation_without_end_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that bring nothing new, under cursors that are always new."""
    monkeypatch.setattr("services.importer.accounts.walk._MAX_EMPTY", 3)
    pages = itertools.count()

    def answer(step: Step) -> dict[str, Any]:
        if step.method == "conversations.history":
            if step.call.query["channel"] == "C00000000":
                return page_of(cursor=f"page {next(pages)}", more=True)
            return page_of({"ts": "1700000000.000100"})
        return lists(channels=2)(step)

    async with account_of(answer) as account:
        await account.contents({})
        await account.use_names({}, {"C00000000": "chn_0", "C00000001": "chn_1"})
        parts = [part async for part in account.read(0, 0)]
    damages = [[line["b"] for line in part.lines if "b" in line] for part in parts]
    assert [len(found) for found in damages] == [*[0] * (len(parts) - 2), 1, 0]
    assert len(parts) <= 6
    assert "pages without end" in damages[-2][0]["reason"]
    assert len(parts[-1].lines) == 1


@pytest.mark.parametrize(
    ("provider", "kind", "text"),
    [
        (
            Provider(StepResponse(200, {}, bytes(MAX_RESPONSE_BYTES))),
            "conversation",
            "more than 16 MB: import",
        ),
        (Provider(OutcomeUnknown("no answer within 60 s")), "later", "the import tries again"),
        (Provider(NotReached("no connection")), "later", "the import tries again"),
        (Provider(StepResponse(200, {}, b""), NotFound("gone")), "account", "connect it again"),
        (
            Provider(StepResponse(200, {}, b""), NotConnected("revoked", "its grant was revoked")),
            "account",
            "resume the import",
        ),
    ],
)
async def test_what_a_provider_does_is_a_pause_with_its_reason(
    provider: Provider, kind: str, text: str
) -> None:
    with pytest.raises(ChannelFailure, match=text) as failure:
        await calls(provider).send(STEP)
    assert failure.value.kind == kind
    result = account_waits(failure.value).result()
    assert text in result.changes["waiting_for"]
    if kind == "later":
        assert (result.waits, result.pause_s > 0) == (False, True)
        assert provider.bounds == {"timeout_s": 60.0, "max_bytes": MAX_RESPONSE_BYTES}
    else:
        assert result.waits
        assert result.changes["is_paused"]


async def test_a_call_that_waits_for_long_lets_others_have_their_turn() -> None:
    limited = calls(Provider(StepResponse(429, {"retry-after": "3000"}, b"{}")))
    assert (await limited.send(STEP)).status == 429
    started_at = monotonic()
    with pytest.raises(CallWaits) as waits:
        await limited.send(STEP)
    assert monotonic() - started_at < 1.0
    assert 2_900 < waits.value.seconds <= 3_000
