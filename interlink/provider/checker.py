"""The checker of provider folders: what CI and `interlink provider check` hold a provider to.

Each rule has a name; a manifest's `exemptions` may switch one off for its provider, with the reason.
`vectors.json` beside the manifest has signatures that the platform, or its SDK's tests, published.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from interlink.provider.connect_rules import CONNECT_RULES, connect_faults, neighbour_manifest
from shared.contracts.errors import InterlinkError, Misconfigured, Rejected
from shared.manifests.fixtures import (
    FIXTURES,
    Fixture,
    SchemeSigner,
    default_settings,
    fixture_folders,
    read_fixture,
    scheme_signers,
    settings_with_secret,
)
from shared.manifests.message_templates import EventTemplates, uses_phrase
from shared.manifests.models import AppWebhookSpec, CatalogueEntry, Manifest, WebhookSpec
from shared.manifests.registry import MANIFEST, Provider, body_reader, read_manifest
from shared.manifests.schemes import ManifestModel
from shared.manifests.webhook import BodyReader
from shared.verification.request import InboundRequest
from shared.verification.scheme import FetchedKey, VerificationResult
from shared.wire.bodies import parse_object
from shared.wire.message_template import MessageTemplateError

VECTORS: Final = "vectors.json"
ICON: Final = "icon.svg"
RESERVED_IDS: Final = frozenset({"incoming", "interlink"})
"""Ids that are not for providers: the route of incoming webhooks, and the hub itself."""

RULES: Final[Mapping[str, str]] = {
    "vector": "the tier verified has a published signature in vectors.json",
    "message": "a handled event makes a message, or is a trigger",
    "fixture": "every handled event and every handshake has a fixture",
    "way": "every way of signing is used by a fixture",
    **CONNECT_RULES,
}
"""What a provider may be exempt from."""

FIXTURE_TIME: Final = 1_800_000_000.0
"""When fixtures are sent, in Unix seconds: no clock in a check."""

_SETTING_PATTERN: Final = re.compile(r"setting:([a-z][a-z0-9_]*)")
_PLACEHOLDER: Final = re.compile(r"\{[\w:]*\}")
_PLAIN_SVG: Final = re.compile(
    r'<svg(?: xmlns="http://www\.w3\.org/2000/svg")? viewBox="0 0 24 24">(?:<title>[^<>]*</title>)?'
    r'(?:<path d="[MmLlHhVvCcSsQqTtAaZz0-9 ,.eE-]+"/>)+</svg>\s*'
)


class Vector(ManifestModel):
    """A published signature: the proof that the manifest's scheme is the platform's.

    `at` is when it was made, in Unix seconds, where the platform signs a time. `key` is what was published
    at the address that the way fetches from.
    """

    source: str
    secret: str = ""
    method: str = "POST"
    url: str = ""
    headers: dict[str, str]
    body: str = ""
    settings: dict[str, str] = Field(default_factory=dict)
    at: float = FIXTURE_TIME
    key: str = ""

    def verdict(self, provider: Provider) -> VerificationResult:
        """What the provider's ways say of it."""
        assert provider.definition  # noqa: S101 -- only who has webhooks has vectors
        address, _, query = (self.url or "https://hub.example.com/").partition("?")
        headers = {name.lower().encode(): [value.encode()] for name, value in self.headers.items()}
        given = {**default_settings(provider), **self.settings}
        request = provider.definition.request(
            self.method, address, query.encode(), headers, self.body.encode(), given
        )
        way = provider.definition.select_scheme(request)
        if way is None:
            return VerificationResult.MISSING
        url = way.key_url(request)
        fetched = FetchedKey(url, self.key.encode()) if url else None
        return way.verify(request, [self.secret.encode()] if self.secret else [], self.at, fetched)


_VECTORS: Final = TypeAdapter(list[Vector])


def evaluate_fixture(provider: Provider, fixture: Fixture, secret: str = "") -> dict[str, Any]:
    """What `expected.json` has to say of a fixture. Raises `Malformed`, `Forbidden`, `MessageTemplateError`.

    `secret` is the endpoint's: some handshakes answer with something that is signed with it.
    """
    assert provider.definition  # noqa: S101 -- see Fixture.request
    request = fixture.request(provider, settings_with_secret(secret, {}))
    handshake = provider.definition.handshake(request) or provider.definition.verified_handshake(request)
    if handshake:
        reply = handshake.response(request)
        kept = handshake.extract_secret(request)
        return {
            "handshake": handshake.about,
            **({"keeps": kept} if kept else {}),
            "answer": _response_document(reply.status, reply.headers, reply.body),
        }
    said: dict[str, Any] = {"events": []}
    for arrived in provider.definition.events(request):
        event: dict[str, Any] = {
            "event": arrived.event,
            "delivery_id": arrived.delivery_id,
            "account": arrived.account,
            "occurred_at": arrived.occurred_at,
            "triggers": list(arrived.triggers),
        }
        templates = provider.messages.get(arrived.event)
        if templates:
            payload = parse_object(provider.payload(arrived.content_type, arrived.data))
            event["message"] = templates.message(payload).model_dump(mode="json", exclude_defaults=True)
        said["events"].append({name: value for name, value in event.items() if value})
    answer = provider.definition.answer(request)
    if answer:
        said["answer"] = _response_document(answer.status, answer.headers, answer.body)
    return said


def _response_document(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": status}
    shown = {
        name.decode(): value.decode() for name, value in headers if not name.startswith(b"x-content-type")
    }
    if shown:
        answer["headers"] = shown
    if body:
        answer["body"] = body.decode()
    return answer


def check(folder: Path) -> list[str]:
    """The faults of one provider folder, a line each, with what to do. Empty when all is well."""
    where = folder.name
    try:
        manifest = read_manifest(folder)
        provider = Provider(manifest, guard_reader(body_reader(manifest.id)))
        provider.messages  # noqa: B018 -- compiles the templates
    except Misconfigured as error:
        return [" ".join(str(error).split())]
    except (MessageTemplateError, ValueError) as error:
        return [f"{where}/{MANIFEST}: webhook.{error}: correct the template"]
    faults = [*_metadata_faults(folder, manifest)]
    if manifest.integration:
        faults += _catalogue_faults(manifest, manifest.integration)
    if manifest.webhook:
        faults += _webhook_faults(manifest, manifest.webhook)
        if manifest.webhook.app:
            said = _app_webhook_faults(folder, manifest, manifest.webhook, manifest.webhook.app)
            faults += (f"{MANIFEST}: webhook.app{fault}" for fault in said)
        faults += _vector_faults(folder, provider)
        faults += _fixture_faults(folder, provider, manifest.webhook)
    faults += connect_faults(folder, manifest)
    return [f"{where}/{fault}" for fault in faults]


def guard_reader(reader: BodyReader | None) -> BodyReader | None:
    """The reader; what it raises that is no error of ours is a `Misconfigured`, which says so."""
    if reader is None:
        return None
    read = reader

    def watch(body: bytes) -> Any:
        try:
            return read(body)
        except InterlinkError:
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise Misconfigured(f"body.py raises {what}: raise Malformed for what cannot be read") from error

    return watch


def describe_unreadable_fixture(folder: Path, case: Path, error: Misconfigured) -> str:
    """Why a fixture cannot be read, with what to do where only `expected.json` is missing."""
    if case.joinpath("request.json").is_file() and not case.joinpath("expected.json").exists():
        return (
            f"{FIXTURES}/{case.name}: expected.json is missing: "
            f"run 'interlink provider test {folder.name} --write'"
        )
    return str(error)


def _metadata_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    readme = folder / "README.md"
    text = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    if not text.strip():
        yield "README.md: missing: say how to connect the platform and what it sends"
    if manifest.from_memory and "from memory" not in text.lower():
        yield "README.md: the manifest has facts from memory: say which"
    if manifest.tier == "from-memory" and not manifest.from_memory:
        yield f"{MANIFEST}: from_memory: empty: the tier is from-memory, say which facts are"
    if manifest.id in RESERVED_IDS:
        yield f"{MANIFEST}: id: {manifest.id!r} is reserved: take another"
    if not any(source.strip() for source in manifest.sources):
        yield f"{MANIFEST}: sources: empty: name the documents that the facts come from"
    icon = folder / ICON
    if icon.is_file() and not _PLAIN_SVG.fullmatch(icon.read_text("utf-8", "replace")):
        yield f"{ICON}: an icon is paths in a viewBox of 0 0 24 24 and nothing else"
    for rule, why in manifest.exemptions.items():
        if rule not in RULES:
            yield f"{MANIFEST}: exemptions.{rule}: no such rule: one of {', '.join(RULES)}"
        elif len(why.split()) < 3:
            yield f"{MANIFEST}: exemptions.{rule}: say why"


def _catalogue_faults(manifest: Manifest, entry: CatalogueEntry) -> Iterator[str]:
    webhook = manifest.webhook
    brought = (
        {trigger for event in webhook.handled.values() for trigger in event.triggers} if webhook else set()
    )
    if not (webhook or entry.setup_steps):
        yield f"{MANIFEST}: integration.setup_steps: empty: say what to do on the platform, step by step"
    for trigger in entry.triggers:
        if trigger not in brought and trigger not in entry.polled and not entry.through:
            yield f"{MANIFEST}: integration.triggers: nothing brings {trigger}: map an event, or poll for it"
    for trigger in sorted(brought & set(entry.polled)):
        yield f"{MANIFEST}: integration.polled: an event brings {trigger}: remove it"
    for trigger in sorted(set(entry.polled) - set(entry.triggers)):
        yield f"{MANIFEST}: integration.polled: {trigger} is not among the triggers"


def _webhook_faults(manifest: Manifest, webhook: WebhookSpec) -> Iterator[str]:
    doubled = sorted({event for event in webhook.ignored if webhook.ignored.count(event) > 1})
    if doubled:
        yield f"{MANIFEST}: webhook.ignored: more than once: {', '.join(doubled)}"
    elif list(webhook.ignored) != sorted(webhook.ignored):
        yield f"{MANIFEST}: webhook.ignored: sort it, so that a missing event is seen"
    yield from _message_faults(manifest, webhook)
    yield from _secret_faults(webhook)
    if not (webhook.handshakes or webhook.no_handshake):
        yield f"{MANIFEST}: webhook.handshakes: empty: describe it, or say in no_handshake that there is none"
    known = {"{url}", "{secret}"} | {f"{{setting:{name}}}" for name in webhook.settings}
    placeholders = {found for step in webhook.setup_steps for found in _PLACEHOLDER.findall(step)}
    if "{url}" not in placeholders:
        yield f"{MANIFEST}: webhook.setup_steps: one of them has to show the address: write {{url}}"
    for other in sorted(placeholders - known):
        yield f"{MANIFEST}: webhook.setup_steps: {other} is not filled in: only {', '.join(sorted(known))}"


def _message_faults(manifest: Manifest, webhook: WebhookSpec) -> Iterator[str]:
    messages = [
        source for event in webhook.handled.values() if event.message for _, source in event.message if source
    ]
    if messages and not (webhook.actor and webhook.actor_icon):
        yield f"{MANIFEST}: webhook.actor, actor_icon: missing: who messages are shown as from"
    for phrase in webhook.phrases:
        if not any(uses_phrase(source, phrase) for source in messages):
            yield f"{MANIFEST}: webhook.phrases.{phrase}: no message calls it: remove it"
    if "message" in manifest.exemptions:
        return
    for name, event in webhook.handled.items():
        if not (event.message or event.triggers):
            yield f"{MANIFEST}: webhook.handled.{name}: neither a message nor a trigger: move it to ignored"


def _secret_faults(webhook: WebhookSpec) -> Iterator[str]:
    secret = webhook.secret
    if secret.source != "none" and not secret.about:
        yield f"{MANIFEST}: webhook.secret.about: missing: say where it is found, or where it goes"
    used = _settings_used(webhook)
    for name in sorted(used - webhook.settings.keys()):
        yield f"{MANIFEST}: webhook.settings: {name} is used and not declared"
    for name in sorted(webhook.settings.keys() - used):
        yield f"{MANIFEST}: webhook.settings.{name}: nothing uses it: remove it"
    for name, setting in webhook.settings.items():
        sample = setting.default or setting.example
        if setting.pattern and not re.fullmatch(setting.pattern, sample):
            yield f"{MANIFEST}: webhook.settings.{name}: give an example that fits the pattern"


def _settings_used(webhook: WebhookSpec) -> set[str]:
    """The settings that are in its texts; those of an app's steps are the app's."""
    return set(_SETTING_PATTERN.findall(webhook.model_dump_json(by_alias=True, exclude={"app"})))


def _app_webhook_faults(
    folder: Path, manifest: Manifest, webhook: WebhookSpec, app: AppWebhookSpec
) -> Iterator[str]:
    """What an address for a whole app lacks: the app, its settings, and what says whose an event is."""
    connect = manifest.connect
    other = neighbour_manifest(folder, connect.through) if connect and connect.through else None
    base = other.connect if other else connect
    if connect is None or base is None or not (base.oauth2 or base.oauth1):
        yield ": accounts are connected without an app: remove it"
        return
    if not (app.account or webhook.account):
        yield ".account: nothing says whose an event is: write it"
    if app.choice and not (connect.choices or base.choices):
        yield ".choice: connect has no choices: remove it"
    if webhook.secret.public:
        yield ".secrets: a public key tells no app from another: remove app"
    if any(handshake.keeps for handshake in webhook.handshakes):
        yield ": a handshake hands a secret over, and an app has nowhere to keep it: remove app"
    for name in sorted(_settings_used(webhook) - base.settings.keys()):
        if name in webhook.settings and not webhook.settings[name].default:
            yield f": {{setting:{name}}} has no default: an app needs it in connect.settings"
    known = {"{url}"} | {f"{{setting:{name}}}" for name in base.settings}
    placeholders = {found for step in app.setup_steps for found in _PLACEHOLDER.findall(step)}
    if "{url}" not in placeholders:
        yield ".setup_steps: one of them has to show the address: write {url}"
    for unknown in sorted(placeholders - known):
        yield f".setup_steps: {unknown} is not filled in: only {', '.join(sorted(known))}"


def _vector_faults(folder: Path, provider: Provider) -> Iterator[str]:
    """What the platform itself says a signature looks like is the proof that the scheme is right."""
    file = folder / VECTORS
    if not file.is_file():
        if provider.manifest.tier == "verified" and "vector" not in provider.manifest.exemptions:
            yield f"{VECTORS}: missing: the tier verified needs a published signature, else it is documented"
        return
    try:
        vectors = _VECTORS.validate_json(file.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        yield f"{VECTORS}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        return
    for position, vector in enumerate(vectors):
        where = f"{VECTORS}: {position} ({vector.source})"
        try:
            verdict = vector.verdict(provider)
        except InterlinkError as error:
            yield f"{where}: it cannot be read: {error}"
            continue
        if verdict is not VerificationResult.VERIFIED:
            yield f"{where}: refused ({verdict}): correct webhook.verification"


def _fixture_faults(folder: Path, provider: Provider, webhook: WebhookSpec) -> Iterator[str]:
    found: list[Fixture] = []
    faults: list[str] = []
    for case in fixture_folders(folder):
        try:
            found.append(read_fixture(case))
        except Misconfigured as error:
            faults.append(describe_unreadable_fixture(folder, case, error))
    if faults:
        yield from faults
        return
    yield from _escaping_faults(provider, webhook, found)
    keys, others = scheme_signers(provider), scheme_signers(provider)
    events: set[str] = set()
    handshakes: set[str] = set()
    used: set[int] = set()
    for fixture in found:
        trial = run_fixture(provider, fixture, keys, others)
        for fault in trial.faults:
            yield f"{FIXTURES}/{fixture.name}: {fault}"
        used |= trial.verdicts.keys()
        handshakes.add(str(fixture.expected.get("handshake")))
        events |= {str(each.get("event")) for each in fixture.expected.get("events", ())}
    yield from _coverage_faults(provider, webhook, events, handshakes, used)


def _coverage_faults(
    provider: Provider, webhook: WebhookSpec, events: set[str], handshakes: set[str], used: set[int]
) -> Iterator[str]:
    """What no fixture is of: the fixtures have these events and handshakes, and are signed in these ways."""
    exempt = provider.manifest.exemptions
    if "fixture" not in exempt:
        for event in webhook.handled:
            if event not in events:
                yield f"{FIXTURES}: none for the event {event!r}: add one, or move the event to ignored"
        for handshake in webhook.handshakes:
            if handshake.about not in handshakes:
                yield f"{FIXTURES}: none for the handshake {handshake.about!r}: add one"
    if "way" not in exempt:
        for position, declared in enumerate(webhook.verification):
            if position not in used:
                what = declared.name or declared.scheme
                yield f"{FIXTURES}: none is signed in the way {position} ({what}): add one that it applies to"


_MARKER: Final = "@*[{}<"
"""Behind a value of the payload. What `md` makes of it has backslashes, a URL ends before `<`, and `url`
writes it as `%3C`."""
_MARKER_PATTERN: Final = re.compile(r"@\*\[(\d+)<")
_CONDITION_PATTERN: Final = re.compile(r"{%-?\s*(?:if|elsif|unless|case|when|assign)\b(.*?)%}", re.DOTALL)
_NAME_PATTERN: Final = re.compile(r"[A-Za-z_][\w-]*")
_MAX_SINGLE_MARKERS: Final = 60
"""Fields of a payload that are marked one at a time, at most."""


@dataclass(frozen=True, slots=True)
class _PayloadText:
    """A text in a payload: the object or list that has it, under which key, its path and its value."""

    container: Any
    key: str | int
    path: tuple[str | int, ...]
    value: str

    @property
    def normalized_path(self) -> tuple[str | int, ...]:
        """The path with all elements of a list as one."""
        return tuple(0 if isinstance(step, int) else step for step in self.path)

    @property
    def name(self) -> str:
        """The last name in the path."""
        return next((step for step in reversed(self.path) if isinstance(step, str)), "")

    def is_mentioned(self, sources: str) -> bool:
        """Whether templates may mean this text: they have the first and the last name of its path."""
        return str(self.path[0]) in sources and self.name in sources

    def mark(self, number: int) -> None:
        self.container[self.key] = self.value + _MARKER.format(number)

    def restore(self) -> None:
        self.container[self.key] = self.value


def _escaping_faults(provider: Provider, webhook: WebhookSpec, found: Iterable[Fixture]) -> Iterator[str]:
    """Texts of a payload that stand in a message as they came, and so could forge links and mentions.

    They are marked all at once; without those that may decide what the message says; and each of these alone.
    """
    said: set[tuple[str, tuple[str | int, ...], str]] = set()
    seen: set[tuple[str, tuple[str | int, ...]]] = set()
    for fixture in found:
        for event, payload in _message_payloads(provider, fixture):
            templates = provider.messages[event]
            texts = list(_payload_texts(payload, ()))
            sources = _template_sources(webhook, event)
            compared = set(_NAME_PATTERN.findall(" ".join(_CONDITION_PATTERN.findall(sources))))
            leaks = _unescaped_texts(templates, payload, texts)
            plain = [text for text in texts if text.value and text.name not in compared]
            leaks += _unescaped_texts(templates, payload, plain)
            alone = [
                text
                for text in texts
                if (not text.value or text.name in compared) and text.is_mentioned(sources)
            ]
            for text in alone[:_MAX_SINGLE_MARKERS]:
                if (event, text.normalized_path) not in seen:
                    seen.add((event, text.normalized_path))
                    leaks += _unescaped_texts(templates, payload, [text])
            for text, part in leaks:
                where = "webhook.actor" if part == "actor" else f"webhook.handled.{event}"
                if (where, text.normalized_path, part) not in said:
                    said.add((where, text.normalized_path, part))
                    yield (
                        f"{MANIFEST}: {where}: {'.'.join(map(str, text.path))} goes into {part} as it is: "
                        "put it through md, bold, link, excerpt, subject or url"
                    )


def _message_payloads(provider: Provider, fixture: Fixture) -> Iterator[tuple[str, dict[str, Any]]]:
    """The payload of each event of a fixture that makes a message. What cannot be read has faults already."""
    assert provider.definition  # noqa: S101 -- see Fixture.request
    request = fixture.request(provider, settings_with_secret(_HANDSHAKE_SECRET, {}))
    try:
        if provider.definition.handshake(request) or provider.definition.verified_handshake(request):
            return
        for arrived in provider.definition.events(request):
            if arrived.event in provider.messages:
                yield arrived.event, parse_object(provider.payload(arrived.content_type, arrived.data))
    except InterlinkError:
        return


def _payload_texts(value: Any, path: tuple[str | int, ...]) -> Iterator[_PayloadText]:
    inside: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, inner in inside:
        if isinstance(inner, str):
            yield _PayloadText(value, key, (*path, key), inner)
        else:
            yield from _payload_texts(inner, (*path, key))


def _template_sources(webhook: WebhookSpec, event: str) -> str:
    """All templates that an event's message may be made with."""
    message = webhook.handled[event].message
    parts = [source for _, source in message] if message else []
    return "\n".join([webhook.actor, *webhook.phrases.values(), *parts])


def _unescaped_texts(
    templates: EventTemplates, payload: Mapping[str, Any], texts: Sequence[_PayloadText]
) -> list[tuple[_PayloadText, str]]:
    """Those of `texts`, marked all at once, that stand in a part of the message as they are."""
    for number, text in enumerate(texts):
        text.mark(number)
    try:
        parts = templates.rendered(payload)
    except MessageTemplateError:
        return []
    finally:
        for text in texts:
            text.restore()
    return [
        (texts[int(number)], part) for part, made in parts.items() for number in _MARKER_PATTERN.findall(made)
    ]


@dataclass(frozen=True, slots=True)
class FixtureResult:
    """What became of a fixture: what it makes, its verdict in each way that it is signed in, the faults.

    `saw` is what `expected.json` has to say; empty when the fixture is refused. `verdicts` are by the
    position of the way among those of the manifest.
    """

    observed: Mapping[str, Any]
    verdicts: Mapping[int, VerificationResult]
    faults: tuple[str, ...]


def run_fixture(
    provider: Provider, fixture: Fixture, keys: Sequence[SchemeSigner], others: Sequence[SchemeSigner]
) -> FixtureResult:
    """Run a fixture: signed with `keys` in each way that applies to it, it has to be verified.

    `others` are other keys, with which it must not be.
    """
    try:
        saw = evaluate_fixture(provider, fixture, _HANDSHAKE_SECRET)
    except Misconfigured as error:
        return FixtureResult({}, {}, (str(error),))
    except InterlinkError as error:
        return FixtureResult({}, {}, (f"it is refused: {error}",))
    faults: list[str] = []
    own = provider.manifest.webhook is not None and provider.manifest.webhook.configurable
    for event in saw.get("events", ()):
        name = event["event"]
        if not (own or name in provider.handled or name in provider.ignored):
            faults.append(f"the event {name!r} is in no list: handle it, or move it to ignored")
    faults += _shadowed_field_faults(provider, fixture)
    if saw != fixture.expected:
        faults.append(f"expected.json differs: {_difference(fixture.expected, saw)}")
    verdicts: dict[int, VerificationResult] = {}
    for position, signed in _signed_requests(provider, fixture, keys):
        verdicts[position] = verdict = _verify(keys[position], signed)
        if verdict is not VerificationResult.VERIFIED:
            faults.append(f"signed with the manifest's scheme, it is {verdict}: correct webhook.verification")
        other = others[position]
        if not other.is_example and _verify(other, signed) is VerificationResult.VERIFIED:
            faults.append("signed with another secret, it is not refused: correct webhook.verification")
    return FixtureResult(saw, verdicts, tuple(faults))


_HANDSHAKE_SECRET: Final = "the secret of a handshake"  # noqa: S105 -- of fixtures only


def _shadowed_field_faults(provider: Provider, fixture: Fixture) -> Iterator[str]:
    webhook = provider.manifest.webhook
    payload = fixture.request(provider).json()
    if webhook and isinstance(payload, dict):
        for phrase in sorted(set(webhook.phrases) & set(payload)):
            yield f"the phrase {phrase!r} hides a field of the payload: give it another name"


def _signed_requests(
    provider: Provider, fixture: Fixture, keys: Sequence[SchemeSigner]
) -> Iterator[tuple[int, InboundRequest]]:
    """The fixture signed in each way that applies to it, by the way's position."""
    assert provider.definition  # noqa: S101 -- see Fixture.request
    plain = fixture.request(provider)
    if provider.definition.handshake(plain):
        return
    for position, signing in enumerate(keys):
        try:
            signed = signing.sign(plain, FIXTURE_TIME)
            if provider.definition.select_scheme(signed) is signing.scheme:
                yield position, signed
        except Rejected:
            continue  # it lacks what this way signs: it is of another way


def _verify(signing: SchemeSigner, signed: InboundRequest) -> VerificationResult:
    return signing.scheme.verify(signed, signing.secrets, FIXTURE_TIME, signing.fetched(signed))


def _difference(expected: Mapping[str, Any], observed: Mapping[str, Any]) -> str:
    """The first part that is not as expected, on one line."""
    for part in sorted(expected.keys() | observed.keys()):
        before, now = expected.get(part), observed.get(part)
        if (
            part == "events"
            and isinstance(before, list)
            and isinstance(now, list)
            and len(before) == len(now)
        ):
            for position, (one, other) in enumerate(zip(before, now, strict=True)):
                if one != other:
                    what = next(key for key in sorted({*one, *other}) if one.get(key) != other.get(key))
                    made = orjson.dumps(other.get(what)).decode()
                    return (
                        f"events.{position}.{what} is now {made[:600]}: correct the manifest or the fixture"
                    )
        if before != now:
            return f"{part} is now {orjson.dumps(now).decode()[:600]}: correct the manifest or the fixture"
    return "it has parts that are null: leave them out"
