"""Subscriptions that are confirmed by calling a URL of the provider."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from services.gateway.ingest.confirmations import Confirmations, NotConfirmed
from services.gateway.ingest.public_keys import CALLER
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import configure
from tests.support.subscriber import Subscriber, WebhookRequest


def _with_confirmations(test: Callable[[Confirmations], Awaitable[None]]) -> None:
    async def run() -> None:
        client = EgressClient("loopback", max_connections=2)
        await client.start()
        try:
            await test(Confirmations(client, configure("test", "error")))
        finally:
            await client.stop()

    asyncio.run(run())


def test_the_url_is_called_once() -> None:
    with Subscriber(lambda _got: web.Response(body=b"<confirmed/>")) as provider:

        async def test(confirmations: Confirmations) -> None:
            url = f"{provider.url}?Action=Confirm&Token=t"
            await confirmations.confirm(url, endpoint_id="ep_1", workspace="w")

        _with_confirmations(test)
        assert [one.path for one in provider.got] == ["/hook"]


@pytest.mark.parametrize("status", [301, 302, 403, 404, 500])
def test_any_other_status_confirms_nothing(status: int) -> None:
    with Subscriber() as provider:
        location = {"location": f"{provider.url}/elsewhere"}

        def answer(got: WebhookRequest) -> web.Response:
            return web.Response(status=200 if "elsewhere" in got.path else status, headers=location)

        provider.answer = answer

        async def test(confirmations: Confirmations) -> None:
            with pytest.raises(NotConfirmed):
                await confirmations.confirm(provider.url, endpoint_id="ep_1", workspace="w")

        _with_confirmations(test)
        assert len(provider.got) == 1


def test_a_caller_has_few_subscriptions_confirmed() -> None:
    with Subscriber() as provider:

        async def test(confirmations: Confirmations) -> None:
            CALLER.set("192.0.2.1")
            confirmed = 0
            for _ in range(30):
                try:
                    await confirmations.confirm(provider.url, endpoint_id="ep_1", workspace="w")
                except NotConfirmed:
                    continue
                confirmed += 1
            assert confirmed == len(provider.got) < 15
            CALLER.set("192.0.2.2")
            await confirmations.confirm(provider.url, endpoint_id="ep_1", workspace="w")

        _with_confirmations(test)
