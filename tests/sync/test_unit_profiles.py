"""Names that a provider does not tell in time hold up messages of others for a bounded time."""

import asyncio
from time import monotonic
from typing import Any, cast

import pytest
import structlog

from services.sync.translate import profiles as module
from services.sync.translate.profiles import Profiles
from shared.connections.channel_accounts import AccountRef

_WORKSPACES = 30


class SilentProvider:
    """Accounts of a provider that does not answer."""

    def channel(self, _: str) -> "SilentProvider":
        return self

    def profile(self, *_: object) -> None: ...

    async def find(self, *_: object) -> None:
        await asyncio.sleep(3600)


async def test_a_provider_that_does_not_answer_slows_the_stage_down_a_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.2)
    silent = cast("Any", SilentProvider())
    profiles = Profiles(silent, silent, structlog.get_logger())
    began = monotonic()
    for number in range(_WORKSPACES):  # each has messages in another batch
        await profiles.load([(AccountRef(f"ws_{number}", "slack", "T1"), "U1")])
    waited_s = monotonic() - began
    assert 0.2 <= waited_s < 0.2 * _WORKSPACES / 3
