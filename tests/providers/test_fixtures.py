"""Every provider's recorded webhooks, through the real signature schemes and the real templates."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from interlink.provider.fixture_result import FIXTURE_TIME, evaluate_fixture
from shared.contracts.errors import Malformed
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from shared.verification.sources import replace_source
from shared.wire.bodies import FORM_CONTENT_TYPE
from shared.wire.message_template import MessageTemplateError
from tests.providers.prose import flaws, paths, without
from tests.providers.recorded import (
    WITH_WEBHOOKS,
    Keyed,
    keyed,
    payloads,
    provider,
    recorded,
    signed,
    with_changed_body,
    with_headers,
)

_MAX_CHANGES = 150
"""Payloads with one field changed that are rendered for one provider: a sample where there are more."""
_ODD: Sequence[Any] = ("", 0, True, [], {}, ["x"], {"x": {}}, "x" * 30_000, "\0\n* # `", 1e300, "{{ x }}")

REFUSED = frozenset(VerificationResult) - {VerificationResult.VERIFIED, VerificationResult.UNSIGNED}
WRONG_KEY = {VerificationResult.MISMATCH}
NO_KEY = {VerificationResult.NO_SECRET, VerificationResult.UNREADABLE, VerificationResult.MISMATCH}
CHANGED = {VerificationResult.MISMATCH, VerificationResult.BODY_CHANGED, VerificationResult.UNREADABLE}
GARBAGE = {VerificationResult.MISMATCH, VerificationResult.UNREADABLE, VerificationResult.MISSING}
TWICE = {VerificationResult.DOUBLED, VerificationResult.MISSING}

each_provider = pytest.mark.parametrize("name", WITH_WEBHOOKS)


@each_provider
def test_each_scheme_accepts_its_signatures_and_nothing_else(name: str) -> None:
    found: list[str] = []
    for case in keyed(name):
        requests = [request for each in recorded(name) if (request := signed(case, each)) is not None]
        if not requests and "way" not in case.provider.manifest.exemptions:
            found.append(f"{case.name}: no fixture is signed in it")
        for position, request in enumerate(requests):
            whole = position in (0, len(requests) - 1)
            for what, verdict, wanted in _verdicts(case, request) if whole else _accepted(case, request):
                if verdict not in wanted:
                    found.append(f"{case.name}, request {position}: {what}: {verdict}")
    assert not found, "\n".join(found)


Check = tuple[str, VerificationResult, "frozenset[VerificationResult] | set[VerificationResult]"]
ACCEPTED = {VerificationResult.VERIFIED}


def _accepted(case: Keyed, request: InboundRequest) -> Iterator[Check]:
    yield "as the provider sends it", case.verdict(request), ACCEPTED


def _verdicts(case: Keyed, request: InboundRequest) -> Iterator[Check]:
    """Yield each variant of a signed request, its verdict and the allowed verdicts."""
    yield from _accepted(case, request)
    yield from _with_other_keys(case, request)
    yield from _changed(case, request)
    yield from _without_its_proof(case, request)
    yield from _at_another_time(case, request)


def _with_other_keys(case: Keyed, request: InboundRequest) -> Iterator[Check]:
    own, other = case.signer.secret, case.other.secret
    yield "with another key", case.verdict(request, signer=case.other), WRONG_KEY
    if not own:
        without = case.signer.scheme.verify(request, [], FIXTURE_TIME, None)
        yield "without the provider's key", without, NO_KEY
        return
    yield "while the secret is rotated", case.verdict(request, [other, own]), ACCEPTED
    yield "with an older secret beside it", case.verdict(request, [own, other]), ACCEPTED
    yield "without a secret", case.verdict(request, []), {VerificationResult.NO_SECRET}
    for wrong in (own[:-8], own[8:], own[8:] + own[:8], ""):
        yield f"with the secret {wrong!r}", case.verdict(request, [wrong]), REFUSED


def _changed(case: Keyed, request: InboundRequest) -> Iterator[Check]:
    changed = with_changed_body(request)
    if case.covers_body:
        yield "with a changed body", case.verdict(changed), CHANGED
        yield "with a changed body, by the whole definition", case.definition_verdict(changed), REFUSED
        yield (
            "without its body",
            case.definition_verdict(request.with_body(b"")),
            REFUSED if request.body else ACCEPTED,
        )
    elif not getattr(case.spec, "each", ""):
        yield "with a changed body, which it does not cover", case.verdict(changed), ACCEPTED


def _without_its_proof(case: Keyed, request: InboundRequest) -> Iterator[Check]:
    names = case.headers
    if not names:
        return
    without = with_headers(request, {name: [] for name in names})
    yield "without its header", case.verdict(without), {VerificationResult.MISSING}
    yield "without its header, by the whole definition", case.definition_verdict(without), REFUSED
    for name in names:
        if name not in request.headers:
            continue
        value = request.headers[name][0]
        for what, values in (
            ("twice", [value, value]),
            ("twice, the second wrong", [value, b"00"]),
            ("twice, the first wrong", [b"00", value]),
        ):
            doubled = with_headers(request, {name: values})
            yield f"with {name.decode()} {what}", case.verdict(doubled), TWICE
            yield (
                f"with {name.decode()} {what}, by the whole definition",
                case.definition_verdict(doubled),
                REFUSED,
            )
        for text in (
            b"",
            b" ",
            b"\xff\xfe",
            b"garbage",
            b"0" * 64,
            b"=",
            b",",
            value[:-4],
            value[4:],
        ):
            spoiled = with_headers(request, {name: [text]})
            yield f"with {name.decode()}: {text!r}", case.verdict(spoiled), GARBAGE
            yield (
                f"with {name.decode()}: {text!r}, by the whole definition",
                case.definition_verdict(spoiled),
                REFUSED,
            )


def _at_another_time(case: Keyed, request: InboundRequest) -> Iterator[Check]:
    if case.window is None:
        return
    past, future = case.window
    for seconds, wanted in (
        (past - 2, ACCEPTED),
        (past + 2, {VerificationResult.STALE}),
        (-future + 2, ACCEPTED),
        (-future - 2, {VerificationResult.STALE}),
    ):
        yield f"{seconds:+.0f} s later", case.verdict(request, now=FIXTURE_TIME + seconds), wanted
    later = case.signer.sign(request, FIXTURE_TIME + past + 1000)
    yield "signed again later", case.verdict(later, now=FIXTURE_TIME + past + 1000), ACCEPTED
    source = getattr(getattr(case.spec, "timestamp", None), "source", None)
    stamp = case.signer.scheme
    written = getattr(getattr(stamp, "timestamp", None), "encode", None)
    if source and written:
        moved = replace_source(request, source, written(FIXTURE_TIME + past + 1000))
        yield "with another time", case.verdict(moved, now=FIXTURE_TIME + past + 1000), REFUSED


@each_provider
def test_what_nobody_signed_is_never_verified(name: str) -> None:
    """Whatever headers and secrets there are: a recorded request without its signature is not accepted."""
    found: list[str] = []
    for case in keyed(name):
        assert case.provider.definition
        for fixture in recorded(name):
            request = fixture.request(case.provider)
            if (
                not case.provider.definition.handshake(request)
                and case.definition_verdict(request) is VerificationResult.VERIFIED
            ):
                found.append(f"{case.name}: {fixture.name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["github"])
def test_the_same_as_a_form_is_the_same_message(name: str) -> None:
    """GitHub's webhooks can be set to forms, with the JSON in one field."""
    own = provider(name)
    assert own.manifest.webhook
    assert own.definition
    field = own.manifest.webhook.body.form_field
    assert field
    [case] = keyed(name)
    for fixture in recorded(name):
        form = urlencode({field: fixture.body}).encode()
        headers = {**fixture.headers, "content-type": f"{FORM_CONTENT_TYPE}; charset=utf-8"}
        posted = replace(fixture, headers=headers, body=form)
        request = signed(case, posted)
        assert request is not None
        assert case.verdict(request) is VerificationResult.VERIFIED
        assert evaluate_fixture(own, posted) == fixture.expected, fixture.name
    for body in (
        b"another=field",
        b"payload=%7B%7D&payload=%7B%7D",
        b"payload=",
        b"payload=%FF",
        b"\xff",
        b"",
    ):
        request = own.definition.request(
            "POST", "", b"", {b"content-type": [FORM_CONTENT_TYPE.encode()]}, body, {}
        )
        with pytest.raises(Malformed):
            own.definition.events(request)


@each_provider
def test_a_missing_field_leaves_a_good_sentence(name: str) -> None:
    found: set[str] = set()
    changes = [
        (fixture, event, payload, path)
        for fixture, event, text in payloads(name)
        for payload in (orjson.loads(text),)
        for path in _sampled(paths(payload), name, 40)
    ]
    for fixture, event, payload, path in _sampled(changes, name, _MAX_CHANGES):
        message = provider(name).messages[event].message(without(payload, path))
        found |= {f"{fixture} without {'.'.join(map(str, path))}: {flaw}" for flaw in flaws(message)}
    assert not found, "\n".join(found)


@each_provider
def test_an_odd_field_is_no_surprise(name: str) -> None:
    """Whatever is in a field, there is a message or an `MessageTemplateError`, nothing else."""
    first_of_event = {event: text for _, event, text in payloads(name)}
    changes = [
        (event, field, value)
        for event, text in first_of_event.items()
        for field in _fields(orjson.loads(text))
        for value in _ODD
    ]
    rendered = 0
    for event, field, value in _sampled(changes, name, _MAX_CHANGES):
        odd = orjson.loads(first_of_event[event])
        *outer, last = field
        (odd[outer[0]] if outer else odd)[last] = value
        try:
            message = provider(name).messages[event].message(odd)
        except MessageTemplateError:
            continue
        rendered += 1
        assert 0 < len(message.text) <= 4000
    assert rendered or not changes


def _sampled(changes: Any, name: str, limit: int) -> list[Any]:
    every = list(changes)
    return every if len(every) <= limit else Random(name).sample(every, limit)  # noqa: S311 -- a sample


def _fields(payload: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for key, value in payload.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, inner) for inner in value)
        elif isinstance(value, list):
            yield from ((key, position) for position in range(min(len(value), 2)))
