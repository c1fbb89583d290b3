"""Every provider's recorded webhooks, through the real verifier and mapper."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

import shared.providers
from shared.catalog.checker import Fixture, check, fixtures, rendered
from shared.catalog.registry import Provider, folders, providers
from shared.contracts.errors import Malformed
from shared.wire.bodies import FORM
from shared.wire.render import Unrenderable
from shared.wire.signatures import Verdict
from tests.providers.prose import flaws, without_each

FOLDER = Path(next(iter(shared.providers.__path__)))
NAMES = [folder.name for folder in folders()]
SECRET = b"whsec of a test"

CASES = [
    pytest.param(name, case, id=f"{name}-{case.name}") for name in NAMES for case in fixtures(FOLDER / name)
]

each_fixture = pytest.mark.parametrize(("name", "fixture"), CASES)


def provider_and_event(name: str, fixture: Fixture) -> tuple[Provider, str]:
    provider = providers()[name]
    assert provider.manifest.webhook
    return provider, fixture.event(provider.manifest.webhook)


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_passes_the_checker(name: str) -> None:
    assert check(FOLDER / name) == []


@each_fixture
def test_only_the_right_signature_is_accepted(name: str, fixture: Fixture) -> None:
    verifier = providers()[name].verifier
    assert verifier
    signed = fixture.signed(providers()[name], SECRET)
    assert verifier.verify(signed, fixture.body, [SECRET]) is Verdict.VERIFIED
    assert verifier.verify(signed, fixture.body, [b"newer", SECRET]) is Verdict.VERIFIED
    assert verifier.verify(signed, fixture.body, [b"newer"]) is Verdict.MISMATCH
    assert verifier.verify(signed, fixture.body, []) is Verdict.MISMATCH
    assert verifier.verify(signed, fixture.body + b" ", [SECRET]) is Verdict.MISMATCH
    signature = signed.pop(verifier.header)
    assert verifier.verify(signed, fixture.body, [SECRET]) is Verdict.MISSING
    assert verifier.verify({verifier.header: signature * 2}, fixture.body, [SECRET]) is Verdict.DOUBLED
    assert verifier.verify({verifier.header: [b"\xff"]}, fixture.body, [SECRET]) is Verdict.UNREADABLE


@each_fixture
def test_it_becomes_the_expected_message(name: str, fixture: Fixture) -> None:
    provider, event = provider_and_event(name, fixture)
    assert rendered(provider, fixture, event) == fixture.expected


@each_fixture
def test_the_same_as_a_form_is_the_same_message(name: str, fixture: Fixture) -> None:
    provider, event = provider_and_event(name, fixture)
    field = provider.manifest.webhook.form_field if provider.manifest.webhook else None
    if field is None:
        pytest.skip(f"{name} sends no forms")
    form = urlencode({field: fixture.body}).encode()
    posted = replace(
        fixture, headers={**fixture.headers, "content-type": f"{FORM}; charset=utf-8"}, body=form
    )
    assert provider.verifier
    assert provider.verifier.verify(posted.signed(provider, SECRET), form, [SECRET]) is Verdict.VERIFIED
    assert rendered(provider, posted, event) == fixture.expected
    with pytest.raises(Malformed):
        provider.payload(FORM, b"another=field")


@each_fixture
def test_a_missing_field_leaves_a_good_sentence(name: str, fixture: Fixture) -> None:
    provider, event = provider_and_event(name, fixture)
    found = {
        f"without {path}: {flaw}"
        for path, payload in without_each(orjson.loads(fixture.body))
        for flaw in flaws(provider.handled[event].message(payload))
    }
    assert not found


@pytest.mark.parametrize("value", ["", 0, True, [], {}, ["x"], {"x": {}}, "x" * 30_000, "\0\n* # `"])
@pytest.mark.parametrize("name", NAMES)
def test_an_odd_field_is_no_surprise(name: str, value: Any) -> None:
    """Whatever is in a field, there is a message or an `Unrenderable`, nothing else."""
    provider = providers()[name]
    first_of_event = {provider_and_event(name, case)[1]: case for case in fixtures(FOLDER / name)}
    rendered_ones = 0
    for event, case in first_of_event.items():
        payload = orjson.loads(case.body)
        for field in [*payload, *(f"{key}.{inner}" for key in payload for inner in _keys(payload[key]))]:
            odd = orjson.loads(case.body)
            *outer, last = field.split(".")
            (odd[outer[0]] if outer else odd)[last] = value
            try:
                message = provider.handled[event].message(odd)
            except Unrenderable:
                continue
            rendered_ones += 1
            assert 0 < len(message.text) <= 4000
    assert rendered_ones


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []
