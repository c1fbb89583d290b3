"""Calls of the console: all calls of one request have one deadline, whatever the services do."""

import asyncio
from time import monotonic
from typing import Any, Final

import pytest

from services.console import hub_api as module
from services.console.hub_api import HubApi, Member, Refusal
from shared.contracts.ids import ApiKeyId, WorkspaceId
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.web.access import ApiKey

TIMEOUT_S: Final = 0.5
VAULT: Final = Vault(LocalKeyProvider([b"k" * 32]))
KEY: Final = ApiKey(ApiKeyId("key_1"), WorkspaceId("default"), frozenset({"integrations:read"}), None)


async def test_calls_one_after_another_share_the_time_of_their_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", TIMEOUT_S)

    async def hold(_reader: Any, writer: asyncio.StreamWriter) -> None:
        """Accept the request, and answer nothing."""
        await asyncio.sleep(60)
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hub, member = HubApi(VAULT, f"http://127.0.0.1:{port}", {}), Member(KEY, "")
    started = monotonic()
    try:
        for _ in range(10):
            with pytest.raises(Refusal) as refused:
                await hub.call(member, "GET", "/api/inbound-endpoints")
            assert refused.value.status == 503
        assert TIMEOUT_S <= monotonic() - started < 10 * TIMEOUT_S
    finally:
        await hub.stop()
        server.close()
