"""The checker of provider folders: what CI and `interlink provider check` hold a provider to.

A fixture is a folder below `fixtures/`: `headers.json` (the request's headers without the signature),
`body.json` (the raw body) and `expected.json` (the message that it becomes). `vectors.json` beside the
manifest has signatures that the platform, or its SDK's tests, published.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from shared.catalog.manifest import Manifest, Part, Webhook
from shared.catalog.mapping import calls
from shared.catalog.registry import MANIFEST, Provider, read_manifest
from shared.contracts.errors import Malformed, Misconfigured
from shared.wire.bodies import parse_object
from shared.wire.render import Unrenderable
from shared.wire.signatures import Verdict

FIXTURES: Final = "fixtures"
VECTORS: Final = "vectors.json"
RESERVED: Final = frozenset({"incoming", "interlink"})
"""Ids that are not for providers: the route of incoming webhooks, and the hub itself."""

_SECRET: Final = b"the secret of a fixture"
_PLACEHOLDER: Final = re.compile(r"\{\w*\}")


class Vector(Part):
    """A published signature: the proof that the manifest's scheme is the platform's."""

    source: str
    secret: str
    headers: dict[str, str]
    body: str


_VECTORS: Final = TypeAdapter(list[Vector])


@dataclass(frozen=True, slots=True)
class Fixture:
    """A recorded webhook and the message it must become. Header names are lower case."""

    name: str
    headers: Mapping[str, str]
    body: bytes
    expected: Any

    def event(self, webhook: Webhook) -> str:
        """The event's name, '' when the headers do not have it."""
        return self.headers.get(webhook.event.header, "")

    def payload(self, provider: Provider) -> dict[str, Any]:
        """The body as an object. Raises `Malformed`."""
        return parse_object(provider.payload(self.headers.get("content-type", ""), self.body))

    def signed(self, provider: Provider, secret: bytes) -> dict[bytes, list[bytes]]:
        """The headers as ASGI gives them, with the signature that the platform would send."""
        headers = {name.encode(): [value.encode()] for name, value in self.headers.items()}
        if provider.verifier:
            headers[provider.verifier.header] = [provider.verifier.sign(self.body, secret)]
        return headers


def fixtures(folder: Path) -> list[Fixture]:
    """The fixtures of a provider's folder, by name. Raises `Misconfigured` for one that cannot be read."""
    cases = sorted(entry for entry in folder.joinpath(FIXTURES).glob("*") if entry.is_dir())
    return [_read_fixture(case) for case in cases]


def rendered(provider: Provider, fixture: Fixture, event: str) -> Any:
    """What `expected.json` has to say. Raises `Malformed` or `Unrenderable`."""
    message = provider.handled[event].message(fixture.payload(provider))
    return message.model_dump(mode="json", exclude_defaults=True)


def check(folder: Path) -> list[str]:
    """The faults of one provider folder, a line each, with what to do. Empty when all is well."""
    where = folder.name
    if not folder.joinpath(MANIFEST).is_file():
        return [f"{where}/{MANIFEST}: missing: every provider has one"]
    try:
        manifest = read_manifest(folder)
        provider = Provider(manifest)
    except Misconfigured as error:
        return [" ".join(str(error).split())]
    except Unrenderable as error:
        return [f"{where}/{MANIFEST}: webhook.{error}: correct the template"]
    faults = [*_about(folder, manifest)]
    if manifest.webhook:
        faults += _webhook(manifest.webhook)
        faults += _vector_faults(folder, provider)
        faults += _fixture_faults(folder, provider, manifest.webhook)
    return [f"{where}/{fault}" for fault in faults]


def _about(folder: Path, manifest: Manifest) -> Iterator[str]:
    readme = folder / "README.md"
    text = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    if not text.strip():
        yield "README.md: missing: say how to connect the platform and what it sends"
    if manifest.tier == "from-memory" and "from memory" not in text.lower():
        yield "README.md: the tier is from-memory: say which facts are from memory"
    if manifest.id in RESERVED:
        yield f"{MANIFEST}: id: {manifest.id!r} is reserved: take another"
    if not any(source.strip() for source in manifest.sources):
        yield f"{MANIFEST}: sources: empty: name the documents that the facts come from"


def _webhook(webhook: Webhook) -> Iterator[str]:
    doubled = sorted({event for event in webhook.ignored if webhook.ignored.count(event) > 1})
    if doubled:
        yield f"{MANIFEST}: webhook.ignored: more than once: {', '.join(doubled)}"
    elif list(webhook.ignored) != sorted(webhook.ignored):
        yield f"{MANIFEST}: webhook.ignored: sort it, so that a missing event is seen"
    if not webhook.actor_icon:
        yield f"{MANIFEST}: webhook.actor_icon: missing: the picture that messages are shown with"
    messages = [source for event in webhook.handled.values() for _, source in event.message]
    for phrase in webhook.phrases:
        if not any(calls(source, phrase) for source in messages):
            yield f"{MANIFEST}: webhook.phrases.{phrase}: no message calls it: remove it"
    placeholders = {found for step in webhook.setup_steps for found in _PLACEHOLDER.findall(step)}
    if "{url}" not in placeholders:
        yield f"{MANIFEST}: webhook.setup_steps: one of them has to show the address: write {{url}}"
    for other in sorted(placeholders - {"{url}"}):
        yield f"{MANIFEST}: webhook.setup_steps: {other} is not filled in: only {{url}} is"


def _vector_faults(folder: Path, provider: Provider) -> Iterator[str]:
    """What the platform itself says a signature looks like is the proof that the scheme is right."""
    file = folder / VECTORS
    if not file.is_file():
        if provider.manifest.tier == "verified":
            yield f"{VECTORS}: missing: the tier verified needs a published signature, else it is from-memory"
        return
    try:
        vectors = _VECTORS.validate_json(file.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        yield f"{VECTORS}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        return
    for vector in vectors:
        headers = {name.lower().encode(): [value.encode()] for name, value in vector.headers.items()}
        verdict = provider.verifier and provider.verifier.verify(
            headers, vector.body.encode(), [vector.secret.encode()]
        )
        if verdict is not Verdict.VERIFIED:
            yield f"{VECTORS}: {vector.source}: refused ({verdict}): correct webhook.verification"


def _fixture_faults(folder: Path, provider: Provider, webhook: Webhook) -> Iterator[str]:
    try:
        found = fixtures(folder)
    except Misconfigured as error:
        yield str(error)
        return
    covered: set[str] = set()
    for fixture in found:
        event = fixture.event(webhook)
        covered.add(event)
        for fault in _faults_of(provider, webhook, fixture, event):
            yield f"{FIXTURES}/{fixture.name}: {fault}"
    for event in webhook.handled:
        if event not in covered:
            yield f"{FIXTURES}: none for the event {event!r}: add one, or move the event to ignored"


def _faults_of(provider: Provider, webhook: Webhook, fixture: Fixture, event: str) -> Iterator[str]:
    for header in (webhook.event.header, webhook.delivery_id.header):
        if not fixture.headers.get(header):
            yield f"headers.json has no {header}: add it as the platform sends it"
    if webhook.verification.header in fixture.headers:
        yield f"headers.json has {webhook.verification.header}: leave it out, the check signs the body itself"
    yield from _signature_faults(provider, fixture)
    if event and event not in provider.handled:
        yield f"the event {event!r} is not handled: remove the fixture, or handle the event"
    if event not in provider.handled:
        return
    try:
        payload = fixture.payload(provider)
        message = rendered(provider, fixture, event)
    except (Malformed, Unrenderable) as error:
        yield f"no message: {error}"
        return
    for phrase in sorted(set(webhook.phrases) & set(payload)):
        yield f"the phrase {phrase!r} hides a field of the payload: give it another name"
    if message != fixture.expected:
        yield f"expected.json differs: {_difference(fixture.expected, message)}"


def _signature_faults(provider: Provider, fixture: Fixture) -> Iterator[str]:
    if provider.verifier is None:
        return
    signed = fixture.signed(provider, _SECRET)
    if provider.verifier.verify(signed, fixture.body, [_SECRET]) is not Verdict.VERIFIED:
        yield "signed with the manifest's scheme, it is refused: correct webhook.verification"
    if provider.verifier.verify(signed, fixture.body, [b"another secret"]) is not Verdict.MISMATCH:
        yield "signed with another secret, it is not refused: correct webhook.verification"


def _difference(expected: Any, message: Any) -> str:
    """The first part that is not as expected, on one line."""
    if not isinstance(expected, dict):
        return "it has to be an object with author, text and embeds"
    for part in sorted(expected.keys() | message.keys()):
        if expected.get(part) != message.get(part):
            made = orjson.dumps(message.get(part)).decode()
            return f"{part} is now {made[:500]}: correct the template or the fixture"
    return "it has parts that are null: leave them out"


def _read_fixture(case: Path) -> Fixture:
    name = f"{FIXTURES}/{case.name}"
    try:
        headers = orjson.loads(case.joinpath("headers.json").read_bytes())
        body = case.joinpath("body.json").read_bytes()
        expected = orjson.loads(case.joinpath("expected.json").read_bytes())
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise Misconfigured(
            f"{name}: {missing} is missing: a fixture has headers, body and expected"
        ) from None
    except orjson.JSONDecodeError as error:
        raise Misconfigured(f"{name}: headers.json or expected.json is not JSON: {error}") from None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Misconfigured(f"{name}: headers.json has to be an object of texts")
    lower = {header.lower(): value for header, value in headers.items()}
    return Fixture(case.name, lower, body, expected)
