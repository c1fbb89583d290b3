"""The checker of provider folders, for CI and `interlink provider check`.

Each rule has a name. A manifest's `exemptions` may switch a rule off for its provider, with the reason.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from interlink.provider.channel_rules import channel_faults
from interlink.provider.connect_rules import connect_faults, neighbour_manifest
from interlink.provider.escaping import escaping_faults
from interlink.provider.fixture_result import describe_unreadable_fixture, run_fixture
from interlink.provider.history_rules import history_faults
from interlink.provider.provider_folder import guard_reader
from interlink.provider.template_rules import CONNECT_RULES
from interlink.provider.vectors import vector_faults
from shared.contracts.errors import Misconfigured
from shared.manifests.catalogue import ICON
from shared.manifests.fixtures import FIXTURES, Fixture, fixture_folders, read_fixture
from shared.manifests.message_templates import uses_phrase
from shared.manifests.models import AppWebhookSpec, CatalogueEntry, Manifest, WebhookSpec
from shared.manifests.provider_code import body_reader
from shared.manifests.registry import MANIFEST, Provider, read_manifest
from shared.manifests.scheme_signers import scheme_signers
from shared.wire.message_template import MessageTemplateError

RESERVED_IDS: Final = frozenset({"incoming", "interlink"})
"""Ids that providers cannot have: the route of incoming webhooks, and the hub itself."""

RULES: Final[Mapping[str, str]] = {
    "vector": "the tier verified needs a published signature in vectors.json",
    "message": "a handled event makes a message or fires a trigger",
    "fixture": "every handled event and every handshake has a fixture",
    "way": "every signature scheme is used by a fixture",
    **CONNECT_RULES,
}
"""Rules that a provider may be exempt from."""


_SETTING_PATTERN: Final = re.compile(r"setting:([a-z][a-z0-9_]*)")
_PLACEHOLDER: Final = re.compile(r"\{[\w:]*\}")
_PLAIN_SVG: Final = re.compile(
    r'<svg(?: xmlns="http://www\.w3\.org/2000/svg")? viewBox="0 0 24 24">(?:<title>[^<>]*</title>)?'
    r'(?:<path d="[MmLlHhVvCcSsQqTtAaZz0-9 ,.eE-]+"/>)+</svg>\s*'
)


def check(folder: Path) -> list[str]:
    """Return the faults of one provider folder, a line each with what to do; empty if there is none."""
    provider_id = folder.name
    try:
        manifest = read_manifest(folder)
        provider = Provider(manifest, guard_reader(body_reader(manifest.id)))
        # Unreadable manifests end the check: the other rules need a compiled provider.
        provider.messages  # noqa: B018 -- compiles the templates
    except Misconfigured as error:
        return [" ".join(str(error).split())]
    except (MessageTemplateError, ValueError) as error:
        return [f"{provider_id}/{MANIFEST}: webhook.{error}: correct the template"]
    faults = [*_metadata_faults(folder, manifest)]
    if manifest.integration:
        faults += _catalogue_faults(manifest, manifest.integration)
    if manifest.webhook:
        faults += _webhook_faults(manifest, manifest.webhook)
        if manifest.webhook.app:
            app_faults = _app_webhook_faults(folder, manifest, manifest.webhook, manifest.webhook.app)
            faults += (f"{MANIFEST}: webhook.app{fault}" for fault in app_faults)
        faults += vector_faults(folder, provider)
        faults += _fixture_faults(folder, provider, manifest.webhook)
    faults += connect_faults(folder, manifest)
    faults += channel_faults(folder, provider)
    faults += history_faults(folder, manifest)
    return [f"{provider_id}/{fault}" for fault in faults]


def _metadata_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    readme = folder / "README.md"
    text = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    if not text.strip():
        yield "README.md: missing: describe how to connect the provider and what it sends"
    if manifest.from_memory and "from memory" not in text.lower():
        yield "README.md: the manifest has facts from memory: name them"
    if manifest.tier == "from-memory" and not manifest.from_memory:
        yield f"{MANIFEST}: from_memory: empty: list the facts, because the tier is from-memory"
    if manifest.id in RESERVED_IDS:
        yield f"{MANIFEST}: id: {manifest.id!r} is reserved: choose another id"
    if not any(source.strip() for source in manifest.sources):
        yield f"{MANIFEST}: sources: empty: list the documents that the facts come from"
    icon = folder / ICON
    if icon.is_file() and not _PLAIN_SVG.fullmatch(icon.read_text("utf-8", "replace")):
        yield f"{ICON}: an icon may only contain paths in a viewBox of 0 0 24 24"
    for rule, reason in manifest.exemptions.items():
        if rule not in RULES:
            yield f"{MANIFEST}: exemptions.{rule}: unknown rule: use one of {', '.join(RULES)}"
        elif len(reason.split()) < 3:
            yield f"{MANIFEST}: exemptions.{rule}: add the reason, in three words or more"


def _catalogue_faults(manifest: Manifest, entry: CatalogueEntry) -> Iterator[str]:
    webhook = manifest.webhook
    fired = (
        {trigger for event in webhook.handled.values() for trigger in event.triggers} if webhook else set()
    )
    if not (webhook or entry.setup_steps):
        yield f"{MANIFEST}: integration.setup_steps: empty: describe the steps at the provider"
    pollable = set(manifest.polling.triggers) if manifest.polling else set()
    for trigger in entry.triggers:
        if trigger not in fired | pollable and trigger not in entry.polled and not entry.through:
            yield f"{MANIFEST}: integration.triggers: nothing fires {trigger}: map an event, or poll it"
    for trigger in sorted(fired & set(entry.polled)):
        yield f"{MANIFEST}: integration.polled: an event fires {trigger}: remove it"
    for trigger in sorted(pollable & set(entry.polled)):
        yield f"{MANIFEST}: integration.polled: {trigger} is in polling.triggers: remove it"
    for trigger in sorted(pollable - set(entry.triggers)):
        yield f"{MANIFEST}: polling.triggers: {trigger} is not in integration.triggers"
    for trigger in sorted(set(entry.polled) - set(entry.triggers)):
        yield f"{MANIFEST}: integration.polled: {trigger} is not in integration.triggers"


def _webhook_faults(manifest: Manifest, webhook: WebhookSpec) -> Iterator[str]:
    duplicates = sorted({event for event in webhook.ignored if webhook.ignored.count(event) > 1})
    if duplicates:
        yield f"{MANIFEST}: webhook.ignored: repeated: {', '.join(duplicates)}"
    elif list(webhook.ignored) != sorted(webhook.ignored):
        yield f"{MANIFEST}: webhook.ignored: not sorted: sort it, so that a missing event is seen"
    yield from _message_faults(manifest, webhook)
    yield from _secret_faults(webhook)
    if not (webhook.handshakes or webhook.no_handshake):
        yield f"{MANIFEST}: webhook.handshakes: empty: describe one, or say why not in no_handshake"
    known = {"{url}", "{secret}"} | {f"{{setting:{name}}}" for name in webhook.settings}
    placeholders = {placeholder for step in webhook.setup_steps for placeholder in _PLACEHOLDER.findall(step)}
    if "{url}" not in placeholders:
        yield f"{MANIFEST}: webhook.setup_steps: no step shows the URL: add {{url}}"
    allowed = ", ".join(sorted(known))
    for unknown in sorted(placeholders - known):
        yield f"{MANIFEST}: webhook.setup_steps: {unknown} is not a placeholder: use {allowed}"


def _message_faults(manifest: Manifest, webhook: WebhookSpec) -> Iterator[str]:
    messages = [
        source for event in webhook.handled.values() if event.message for _, source in event.message if source
    ]
    if messages and not (webhook.actor and webhook.actor_icon):
        missing = [name for name in ("actor", "actor_icon") if not getattr(webhook, name)]
        yield f"{MANIFEST}: webhook.{', '.join(missing)}: missing: messages need an author with an icon"
    for phrase in webhook.phrases:
        if not any(uses_phrase(source, phrase) for source in messages):
            yield f"{MANIFEST}: webhook.phrases.{phrase}: no message uses it: remove it"
    if "message" in manifest.exemptions:
        return
    for name, event in webhook.handled.items():
        if not (event.message or event.triggers):
            yield f"{MANIFEST}: webhook.handled.{name}: no message and no trigger: move it to ignored"


def _secret_faults(webhook: WebhookSpec) -> Iterator[str]:
    secret = webhook.secret
    if secret.source != "none" and not secret.about:
        yield f"{MANIFEST}: webhook.secret.about: missing: say where to find it, or where to enter it"
    used = _settings_used(webhook)
    for name in sorted(used - webhook.settings.keys()):
        yield f"{MANIFEST}: webhook.settings: {name} is used but not declared: add it"
    for name in sorted(webhook.settings.keys() - used):
        yield f"{MANIFEST}: webhook.settings.{name}: nothing uses it: remove it"
    for name, setting in webhook.settings.items():
        sample = setting.default or setting.example
        if setting.pattern and not re.fullmatch(setting.pattern, sample):
            yield f"{MANIFEST}: webhook.settings.{name}: add an example that matches the pattern"


def _settings_used(webhook: WebhookSpec) -> set[str]:
    """Return the settings that its texts use, without those of the app webhook."""
    return set(_SETTING_PATTERN.findall(webhook.model_dump_json(by_alias=True, exclude={"app"})))


def _app_webhook_faults(
    folder: Path, manifest: Manifest, webhook: WebhookSpec, app: AppWebhookSpec
) -> Iterator[str]:
    """Yield what an app webhook needs and the manifest does not have: app, settings, account id."""
    connect = manifest.connect
    other = neighbour_manifest(folder, connect.through) if connect and connect.through else None
    base = other.connect if other else connect
    if connect is None or base is None or not (base.oauth2 or base.oauth1):
        yield ": accounts are connected without an OAuth app: remove it"
        return
    if not (app.account or webhook.account):
        yield ".account: missing: say which account an event belongs to"
    if app.choice and not (connect.choices or base.choices):
        yield ".choice: connect has no choices: remove it"
    if webhook.secret.public:
        yield ".secrets: a public key is the same for every app: remove app"
    if any(handshake.keeps for handshake in webhook.handshakes):
        yield ": a handshake hands over a secret, which an app webhook cannot store: remove app"
    if any(handshake.confirms for handshake in webhook.handshakes):
        yield ": a handshake is confirmed by a call, which an app webhook does not make: remove app"
    for name in sorted(_settings_used(webhook) - base.settings.keys()):
        if name in webhook.settings and not webhook.settings[name].default:
            yield f": {{setting:{name}}} has no default: declare it in connect.settings"
    known = {"{url}"} | {f"{{setting:{name}}}" for name in base.settings}
    placeholders = {placeholder for step in app.setup_steps for placeholder in _PLACEHOLDER.findall(step)}
    if "{url}" not in placeholders:
        yield ".setup_steps: no step shows the URL: add {url}"
    for unknown in sorted(placeholders - known):
        yield f".setup_steps: {unknown} is not a placeholder: use {', '.join(sorted(known))}"


def _fixture_faults(folder: Path, provider: Provider, webhook: WebhookSpec) -> Iterator[str]:
    fixtures: list[Fixture] = []
    faults: list[str] = []
    for case in fixture_folders(folder):
        try:
            fixtures.append(read_fixture(case))
        except Misconfigured as error:
            faults.append(describe_unreadable_fixture(folder, case, error))
    if faults:
        yield from faults
        return
    yield from escaping_faults(provider, webhook, fixtures)
    # Two sets of keys: signatures by the second must be rejected.
    keys, others = scheme_signers(provider), scheme_signers(provider)
    events: set[str] = set()
    handshakes: set[str] = set()
    used_schemes: set[int] = set()
    for fixture in fixtures:
        result = run_fixture(provider, fixture, keys, others)
        for fault in result.faults:
            yield f"{FIXTURES}/{fixture.name}: {fault}"
        used_schemes |= result.verdicts.keys()
        handshakes.add(str(fixture.expected.get("handshake")))
        events |= {str(event.get("event")) for event in fixture.expected.get("events", ())}
    yield from _coverage_faults(provider, webhook, events, handshakes, used_schemes)


def _coverage_faults(
    provider: Provider, webhook: WebhookSpec, events: set[str], handshakes: set[str], used_schemes: set[int]
) -> Iterator[str]:
    """Yield what no fixture covers; `events`, `handshakes` and `used_schemes` are those of the fixtures."""
    exempt = provider.manifest.exemptions
    if "fixture" not in exempt:
        for event in webhook.handled:
            if event not in events:
                yield (
                    f"{FIXTURES}: no expected.json has the event {event!r}: add a fixture, write its result "
                    "(`interlink provider test --write`), or move the event to ignored"
                )
        for handshake in webhook.handshakes:
            if handshake.about not in handshakes:
                yield f"{FIXTURES}: no fixture for the handshake {handshake.about!r}: add one"
    if "way" not in exempt:
        for position, scheme in enumerate(webhook.verification):
            if position not in used_schemes:
                title = scheme.name or scheme.scheme
                yield f"{FIXTURES}: no fixture for the signature scheme {position} ({title}): add one"
