"""Recorded requests of a provider: for the checker, the tests, and test deliveries.

A fixture is a folder below `fixtures/`: `request.json` (method, query and headers without the signature, and
the endpoint's settings if they matter), `body.*` (the raw body, if there is one) and `expected.json` (the
resulting events, or the response to a handshake).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contracts.errors import Misconfigured
from shared.manifests.registry import Provider
from shared.verification.request import SECRET_SETTING, Headers, InboundRequest

FIXTURES: Final = "fixtures"
FIXTURE_URL: Final = "https://hub.example.com/api/webhooks/{provider}/ep_fixture"
"""The URL of fixtures in their signatures."""


class _RecordedRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = "POST"
    query: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fixture:
    """A recorded request and its expected result. Header names are lower case."""

    name: str
    method: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    settings: Mapping[str, str]
    expected: Mapping[str, Any]

    def request(
        self, provider: Provider, settings: Mapping[str, str] | None = None, *, address: str = ""
    ) -> InboundRequest:
        """Return the request as the provider's webhook definition reads it, without a signature.

        `address` is the URL of a real endpoint; '' means `FIXTURE_URL`.
        """
        assert provider.definition  # noqa: S101 -- only a provider with webhooks has fixtures
        headers: Headers = {name.encode(): [value.encode()] for name, value in self.headers.items()}
        merged = {**default_settings(provider), **self.settings, **(settings or {})}
        address = address or FIXTURE_URL.format(provider=provider.id)
        return provider.definition.request(
            self.method, address, self.query.encode(), headers, self.body, merged
        )


def default_settings(provider: Provider) -> dict[str, str]:
    """Return the settings of an example endpoint: the manifest's defaults or examples."""
    webhook = provider.manifest.webhook
    declared = webhook.settings.items() if webhook else ()
    return {
        name: setting.default or setting.example
        for name, setting in declared
        if setting.default or setting.example
    }


def read_fixtures(folder: Path) -> list[Fixture]:
    """Read the fixtures of a provider's folder, by name. Raises `Misconfigured` for an invalid one."""
    return [read_fixture(case) for case in fixture_folders(folder)]


def fixture_folders(folder: Path) -> list[Path]:
    """Return the folders of a provider's fixtures, by name."""
    return sorted(entry for entry in folder.joinpath(FIXTURES).glob("*") if entry.is_dir())


def read_fixture(case: Path, *, allow_missing_expected: bool = False) -> Fixture:
    """Read one fixture. Raises `Misconfigured` if it is not valid.

    `allow_missing_expected`: a fixture without `expected.json` expects nothing.
    """
    location = f"{FIXTURES}/{case.name}"
    try:
        request = _RecordedRequest.model_validate_json(case.joinpath("request.json").read_bytes())
        expected_file = case.joinpath("expected.json")
        expected = (
            {}
            if allow_missing_expected and not expected_file.exists()
            else orjson.loads(expected_file.read_bytes())
        )
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise Misconfigured(
            f"{location}: {missing} is missing: a fixture has request, body and expected"
        ) from None
    except ValidationError as error:
        detail = error.errors()[0]
        raise Misconfigured(
            f"{location}/request.json: {'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        ) from None
    except orjson.JSONDecodeError as error:
        raise Misconfigured(f"{location}/expected.json is not JSON: {error}") from None
    bodies = sorted(case.glob("body.*"))
    if len(bodies) > 1 or not isinstance(expected, dict):
        raise Misconfigured(
            f"{location}: at most one body.* is allowed, and expected.json has to be an object"
        )
    events = expected.get("events", [])
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise Misconfigured(f"{location}/expected.json: events has to be a list of objects")
    return Fixture(
        case.name,
        request.method,
        request.query,
        {name.lower(): value for name, value in request.headers.items()},
        bodies[0].read_bytes() if bodies else b"",
        request.settings,
        expected,
    )


def settings_with_secret(secret: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return an endpoint's settings as templates see them: with its newest secret.

    Some handshakes sign their response with it.
    """
    return {**settings, SECRET_SETTING: secret} if secret else dict(settings)
