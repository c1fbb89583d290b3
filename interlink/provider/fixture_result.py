"""Runs a fixture: the result that `expected.json` describes, and its verification by each scheme."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from shared.contracts.errors import InterlinkError, Misconfigured, Rejected
from shared.manifests.fixtures import FIXTURES, Fixture, settings_with_secret
from shared.manifests.registry import Provider
from shared.manifests.scheme_signers import SchemeSigner
from shared.manifests.sender_message import SenderMessages
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from shared.wire.bodies import parse_object

FIXTURE_TIME: Final = 1_800_000_000.0
"""The time at which fixtures are sent, in Unix seconds: checks use no clock."""


def evaluate_fixture(provider: Provider, fixture: Fixture, secret: str = "") -> dict[str, Any]:
    """Return what `expected.json` has to contain for a fixture.

    `secret` is the endpoint's: some handshakes sign their response with it. Raises `Malformed`, `Forbidden`
    or `MessageTemplateError`.
    """
    assert provider.definition  # noqa: S101 -- see Fixture.request
    request = fixture.request(provider, settings_with_secret(secret, {}))
    handshake = provider.definition.handshake(request) or provider.definition.verified_handshake(request)
    if handshake:
        response = handshake.response(request)
        handed_over = handshake.extract_secret(request)
        confirmed = handshake.confirmation_url(request)
        return {
            "handshake": handshake.about,
            **({"keeps": handed_over} if handed_over else {}),
            **({"confirms": confirmed} if confirmed else {}),
            "answer": _response_document(response.status, response.headers, response.body),
        }
    result: dict[str, Any] = {"events": []}
    for webhook_event in provider.definition.events(request):
        event: dict[str, Any] = {
            "event": webhook_event.event,
            "delivery_id": webhook_event.delivery_id,
            "account": webhook_event.account,
            "occurred_at": webhook_event.occurred_at,
            "triggers": list(webhook_event.triggers),
        }
        templates = provider.messages.get(webhook_event.event)
        if templates:
            payload = parse_object(provider.payload(webhook_event.content_type, webhook_event.data))
            if templates.applies(payload):
                event["message"] = templates.message(payload).model_dump(mode="json", exclude_defaults=True)
        elif provider.takes_description:
            described = SenderMessages(provider.manifest.webhook, None)
            message, _ = described.message(
                webhook_event.event, webhook_event.content_type, webhook_event.data, provider.manifest.name
            )
            event["message"] = message.model_dump(mode="json", exclude_defaults=True)
        result["events"].append({name: value for name, value in event.items() if value})
    accepted = provider.definition.answer(request)
    if accepted:
        result["answer"] = _response_document(accepted.status, accepted.headers, accepted.body)
    return result


def _response_document(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> dict[str, Any]:
    document: dict[str, Any] = {"status": status}
    sent_headers = {
        name.decode(): value.decode() for name, value in headers if not name.startswith(b"x-content-type")
    }
    if sent_headers:
        document["headers"] = sent_headers
    if body:
        document["body"] = body.decode()
    return document


def describe_unreadable_fixture(folder: Path, case: Path, error: Misconfigured) -> str:
    """Return why a fixture cannot be read, with the command that writes a missing `expected.json`."""
    if case.joinpath("request.json").is_file() and not case.joinpath("expected.json").exists():
        return (
            f"{FIXTURES}/{case.name}: expected.json is missing: "
            f"run 'interlink provider test {folder.name} --write'"
        )
    return str(error)


@dataclass(frozen=True, slots=True)
class FixtureResult:
    """Result of a fixture.

    `observed` is what `expected.json` has to contain; empty if the fixture is rejected. `verdicts` are by
    position of the scheme in the manifest.
    """

    observed: Mapping[str, Any]
    verdicts: Mapping[int, VerificationResult]
    faults: tuple[str, ...]


def run_fixture(
    provider: Provider, fixture: Fixture, keys: Sequence[SchemeSigner], others: Sequence[SchemeSigner]
) -> FixtureResult:
    """Run a fixture: signed with `keys` by each scheme that applies, it has to be verified.

    `others` are signers with other keys, whose signatures must be rejected.
    """
    try:
        observed = evaluate_fixture(provider, fixture, HANDSHAKE_SECRET)
    except Misconfigured as error:
        return FixtureResult({}, {}, (str(error),))
    except InterlinkError as error:
        return FixtureResult({}, {}, (f"it is rejected: {error}",))
    faults: list[str] = []
    for event in observed.get("events", ()):
        name = event["event"]
        # Senders that are described by a user name their events themselves.
        if not (provider.takes_description or name in provider.handled or name in provider.ignored):
            faults.append(f"the event {name!r} is neither handled nor ignored: add it to one of them")
    faults += _shadowed_field_faults(provider, fixture)
    if observed != fixture.expected:
        faults.append(f"expected.json differs: {_difference(fixture.expected, observed)}")
    verdicts: dict[int, VerificationResult] = {}
    for position, signed in _signed_requests(provider, fixture, keys):
        verdicts[position] = verdict = _verify(keys[position], signed)
        if verdict is not VerificationResult.VERIFIED:
            faults.append(f"signed by the manifest's scheme, it is {verdict}: correct webhook.verification")
        other_signer = others[position]
        # An example secret is the only one of its scheme: there is no other to test with.
        if not other_signer.is_example and _verify(other_signer, signed) is VerificationResult.VERIFIED:
            faults.append("signed with another secret, it is accepted: correct webhook.verification")
    return FixtureResult(observed, verdicts, tuple(faults))


HANDSHAKE_SECRET: Final = "the secret of a handshake"  # noqa: S105 -- of fixtures only


def _shadowed_field_faults(provider: Provider, fixture: Fixture) -> Iterator[str]:
    webhook = provider.manifest.webhook
    payload = fixture.request(provider).payload_or_none()
    if webhook and isinstance(payload, dict):
        for phrase in sorted(set(webhook.phrases) & set(payload)):
            yield f"the phrase {phrase!r} hides a field of the payload: rename it"


def _signed_requests(
    provider: Provider, fixture: Fixture, signers: Sequence[SchemeSigner]
) -> Iterator[tuple[int, InboundRequest]]:
    """Yield the fixture signed by each scheme that applies, with the scheme's position."""
    assert provider.definition  # noqa: S101 -- see Fixture.request
    unsigned = fixture.request(provider)
    if provider.definition.handshake(unsigned):
        return
    for position, signer in enumerate(signers):
        try:
            signed = signer.sign(unsigned, FIXTURE_TIME)
            if provider.definition.select_scheme(signed) is signer.scheme:
                yield position, signed
        except Rejected:
            continue  # without what this scheme signs: it belongs to another scheme


def _verify(signer: SchemeSigner, signed: InboundRequest) -> VerificationResult:
    return signer.scheme.verify(signed, signer.secrets, FIXTURE_TIME, signer.fetched(signed))


def _difference(expected: Mapping[str, Any], observed: Mapping[str, Any]) -> str:
    """Return the first difference, on one line."""
    for part in sorted(expected.keys() | observed.keys()):
        old, new = expected.get(part), observed.get(part)
        if part == "events" and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for position, (old_event, new_event) in enumerate(zip(old, new, strict=True)):
                if old_event != new_event:
                    name = next(
                        key
                        for key in sorted({*old_event, *new_event})
                        if old_event.get(key) != new_event.get(key)
                    )
                    value = orjson.dumps(new_event.get(name)).decode()
                    return (
                        f"events.{position}.{name} is now {value[:600]}: correct the manifest or the fixture"
                    )
        if old != new:
            return f"{part} is now {orjson.dumps(new).decode()[:600]}: correct the manifest or the fixture"
    return "it has parts that are null: remove them"
