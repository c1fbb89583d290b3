"""One account's refusal, and what the platform says to the app itself."""

from typing import cast

import orjson
import pytest
import structlog

from shared.connections.app_check import AppChecker
from shared.connections.apps import Apps
from shared.connections.provider_app import App
from shared.manifests.provider_response import InvalidClient
from shared.manifests.registry import registry
from shared.wire.bodies import JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderRequest, ProviderResponse


class Judged:
    """Notes what is found out about an app."""

    def __init__(self) -> None:
        self.verified: list[bool] = []

    async def record_check(self, _app: App, *, verified: bool, reason: str) -> None:
        assert reason
        self.verified.append(verified)


@pytest.mark.parametrize(
    ("code", "verified"),
    [
        (100, True),  # about the code: it neither takes nor refuses the app, as far as the manifest knows
        (101, False),
    ],
)
async def test_only_a_refusal_of_the_app_itself_puts_it_aside(code: int, verified: bool) -> None:
    """Facebook answers 1 to an account for a moment ("possibly a temporary issue")."""
    apps = Judged()

    async def ask(_call: ProviderRequest, _workspace: str) -> ProviderResponse:
        body = orjson.dumps({"error": {"message": "no", "type": "OAuthException", "code": code}})
        return ProviderResponse(400, {"content-type": JSON_CONTENT_TYPE}, body)

    trial = AppChecker(
        cast("Apps", apps), structlog.get_logger(), ask, redirect_uri="https://hub.example.com/back"
    )
    app = App("facebook", "ws_1", "app", {"client_secret": "the-secret-of-it"}, verified=True)
    assert await trial.handle_invalid_client(
        app, registry().connectors["facebook"], "ws_1", InvalidClient("1", "An unknown error")
    )
    assert apps.verified == [verified]
