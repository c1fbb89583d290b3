"""The checker's rules for a manifest's `connect`.

The samples in `connect.yaml` are run by `sample_runner` and `subscription_sample_runner`; the rules of
`watches` are in `subscription_rules`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from interlink.provider.polling_rules import polling_faults
from interlink.provider.sample_runner import sample_faults
from interlink.provider.samples import SAMPLES, TOKENS, VALUES, read_sample
from interlink.provider.subscription_rules import subscription_faults
from interlink.provider.subscription_sample_runner import subscription_sample_faults
from interlink.provider.template_rules import (
    CONNECT_RULES,
    input_fields,
    named_groups,
    setting_faults,
    text_faults,
)
from shared.contracts.errors import Misconfigured
from shared.manifests.connect_models import ConnectSpec, ManualCredential, Preset
from shared.manifests.connector import Connector
from shared.manifests.models import Manifest
from shared.manifests.registry import MANIFEST, Provider, provider_folders, read_manifest
from shared.manifests.template_texts import api_texts, connect_texts, request_texts
from shared.wire.request_template import RequestTemplate

__all__ = [
    "CONNECT_RULES",
    "README_HEADING",
    "connect_faults",
    "connect_section_faults",
    "neighbour_manifest",
]

README_HEADING: Final = "## Connecting accounts"
"""Heading in a provider's README of the part about accounts."""

_PLACEHOLDER: Final = re.compile(r"\{[\w:]*\}")


def connect_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the faults of a folder's `connect` and its samples, a line each.

    Without `connect`, only samples and `watches` are faults.
    """
    connect = manifest.connect
    if connect is None:
        if (folder / SAMPLES).exists():
            yield f"{SAMPLES}: the manifest has no connect: remove it"
        if manifest.watches:
            yield f"{MANIFEST}: watches: they need an account: add connect"
        if manifest.polling:
            polling = polling_faults(Provider(manifest), manifest.polling, None, set())
            yield from (f"{MANIFEST}: polling.{fault}" for fault in polling)
        return
    base: ConnectSpec | None = None
    if connect.through:
        other = neighbour_manifest(folder, connect.through)
        base = other.connect if other else None
        if base is None or base.through:
            yield f"{MANIFEST}: connect.through: {connect.through} has neither oauth2 nor oauth1"
            return
    yield from (
        f"{MANIFEST}: connect.{fault}" for fault in connect_section_faults(connect, base, manifest.exemptions)
    )
    yield from (f"{MANIFEST}: connect.{fault}" for fault in _unused_setting_faults(folder, connect))
    connector = Connector(manifest.id, connect, base)
    targets = {
        name: neighbour_manifest(folder, name)
        for name in {subscription.endpoint for subscription in manifest.watches}
        if name
    }
    known = known_values(connect, base)
    yield from (
        f"{MANIFEST}: watches.{fault}" for fault in subscription_faults(manifest, connector, targets, known)
    )
    if manifest.polling:
        polling = polling_faults(Provider(manifest), manifest.polling, connector, known)
        yield from (f"{MANIFEST}: polling.{fault}" for fault in polling)
    readme = folder / "README.md"
    if readme.is_file() and README_HEADING not in readme.read_text("utf-8", "replace"):
        yield f"README.md: the manifest has connect: add a section '{README_HEADING}'"
    if not (folder / SAMPLES).is_file():
        yield f"{SAMPLES}: missing: add samples that prove connect"
        return
    try:
        sample = read_sample(folder)
    except Misconfigured as error:
        yield str(error)
        return
    yield from (f"{SAMPLES}: {fault}" for fault in sample_faults(connector, sample))
    subscription_lines = subscription_sample_faults(connector, sample, manifest.watches)
    yield from (f"{SAMPLES}: {fault}" for fault in subscription_lines)


def neighbour_manifest(folder: Path, name: str) -> Manifest | None:
    """Return another provider's manifest: from a folder beside this one, or from the package."""
    # A new folder may lie outside the package, beside other new ones.
    for candidate in (folder.parent / name, *(entry for entry in provider_folders() if entry.name == name)):
        if candidate.joinpath(MANIFEST).is_file():
            try:
                return read_manifest(candidate)
            except Misconfigured:
                return None
    return None


def connect_section_faults(
    connect: ConnectSpec, base: ConnectSpec | None, exemptions: Mapping[str, str]
) -> Iterator[str]:
    """Yield the faults of `connect` itself; `base` is the section of the provider in `through`."""
    source = base or connect
    settings, params = source.settings, {**source.params, **connect.params}
    known = known_values(connect, base)
    yield from _scope_faults(connect, base)
    if connect.through and connect.settings:
        yield f"settings: the app belongs to {connect.through}: move its settings there"
    for place, declared in (("settings", connect.settings), ("params", connect.params)):
        yield from setting_faults(place, declared)
    yield from _app_step_faults(connect, set(settings))
    inputs = {**input_fields("setting", settings), **input_fields("param", params)}
    for text in connect_texts(connect):
        yield from text_faults(text, known | {"token"}, inputs, exemptions)
    for kind in connect.entered:
        yield from (
            f"entered.{kind.id}.{fault}" for fault in _manual_credential_faults(connect, kind, exemptions)
        )
    ids = [kind.id for kind in connect.entered]
    if len(set(ids)) < len(ids):
        yield "entered: two have the same id: rename one"


def known_values(connect: ConnectSpec, base: ConnectSpec | None) -> set[str]:
    """Return the names of a connected account's values: the app's, the account's, and the tokens."""
    source = base or connect
    known = {*VALUES, *TOKENS, *(f"setting:{name}" for name in source.settings)}
    known |= {f"param:{name}" for name in (*source.params, *connect.params)}
    return known | {f"account:{name}" for name in _account_value_names(connect, base)}


def _unused_setting_faults(folder: Path, connect: ConnectSpec) -> Iterator[str]:
    """Yield settings and params that no template of this provider, or of one that goes through it, uses."""
    used = {name for _, text, _ in connect_texts(connect) for name in RequestTemplate(text).names}
    unused = [(section, name) for section in ("settings", "params") for name in getattr(connect, section)]
    unused = [(section, name) for section, name in unused if f"{section[:-1]}:{name}" not in used]
    if not unused:
        return
    # Providers that go through this one may use its settings.
    files = folder.parent.glob(f"*/{MANIFEST}")
    texts = [(file.parent.name, file.read_text("utf-8", "replace")) for file in files]
    others = "".join(text for name, text in texts if name == folder.name or f"through: {folder.name}" in text)
    for section, name in unused:
        if f"{section[:-1]}:{name}" not in others:
            yield f"{section}.{name}: unused: remove it"


def _account_value_names(connect: ConnectSpec, base: ConnectSpec | None) -> set[str]:
    """Return the names of the values that are stored with an account: `{account:...}`."""
    names: set[str] = set()
    account, choices = connect.account or (base and base.account), connect.choices or (base and base.choices)
    for mapping in (account, choices):
        names |= set(mapping.keep) if mapping else set()
    flow = (base or connect).oauth2
    return names | set(flow.callback.keep if flow else ())


def _scope_faults(connect: ConnectSpec, base: ConnectSpec | None) -> Iterator[str]:
    flows = (connect.oauth2, connect.oauth1, base and base.oauth2, base and base.oauth1)
    scopes = [scope for flow in flows if flow for scope in flow.scopes] + list(connect.scopes)
    for scope in sorted({scope for scope in scopes if scopes.count(scope) > 1}):
        yield f"scopes: {scope} is repeated"
    shared = {scope for flow in flows[2:] if flow for scope in flow.scopes}
    if connect.purposes and not any(flows):
        yield "purposes: there is no OAuth to ask for scopes: remove them"
    for purpose, wanted in connect.purposes.items():
        if not wanted:
            yield f"purposes.{purpose}: no scope: name one, or remove it"
        for scope in sorted({scope for scope in wanted if wanted.count(scope) > 1 or scope in shared}):
            yield f"purposes.{purpose}: {scope} is repeated"
    user = connect.oauth2 and connect.oauth2.user_scopes
    if connect.oauth2 and user and user.token not in connect.oauth2.answer.others:
        yield f"oauth2.user_scopes.token: {user.token} is not among answer.others"


def _app_step_faults(connect: ConnectSpec, settings: set[str]) -> Iterator[str]:
    if not (connect.oauth2 or connect.oauth1):
        if connect.app_steps:
            yield "app_steps: there is no OAuth app to register: remove them"
        return
    placeholders = {placeholder for step in connect.app_steps for placeholder in _PLACEHOLDER.findall(step)}
    if "{redirect_uri}" not in placeholders:
        yield "app_steps: no step shows the redirect URI: add {redirect_uri}"
    for unknown in sorted(placeholders - {"{redirect_uri}"} - {f"{{setting:{name}}}" for name in settings}):
        yield f"app_steps: {unknown} is not a placeholder: remove it"


def _manual_credential_faults(
    connect: ConnectSpec, kind: ManualCredential, exemptions: Mapping[str, str]
) -> Iterator[str]:
    yield from setting_faults("fields", kind.fields)
    fields = input_fields("field", kind.fields)
    known = {*fields, *(f"account:{name}" for name in (kind.account.keep if kind.account else ()))}
    known |= {"access_token"} if "access_token" in kind.fields else set()
    used: set[str] = set()
    texts = [*request_texts("account.call", kind.account.call if kind.account else None)]
    texts += () if kind.login else api_texts("api", kind.api or connect.api)
    if kind.account:
        texts += [("account.id_text", kind.account.id_text, False)]
        texts += [("account.label_text", kind.account.label_text, False)]
    for text in texts:
        used |= set(RequestTemplate(text[1]).names)
        yield from text_faults(text, known, fields, exemptions)
    if kind.login:
        required = {"host", "port", "security", "username", "password"}
        if not required <= kind.fields.keys():
            yield f"fields: a login needs {', '.join(sorted(required))}"
    for name, field in kind.fields.items():
        names = {f"field:{part}" for part in (name, *named_groups(field))}
        names |= {"access_token"} if name == "access_token" else set()
        if not kind.login and not names & used:
            yield f"fields.{name}: unused: remove it"
    for preset, chosen in kind.presets.items():
        yield from (f"presets.{preset}.{fault}" for fault in _preset_faults(kind, chosen))


def _preset_faults(kind: ManualCredential, preset: Preset) -> Iterator[str]:
    for name, value in preset.values.items():
        field = kind.fields.get(name)
        if field is None:
            yield f"{name}: unknown field"
        elif field.secret or (field.pattern and not re.fullmatch(field.pattern, value)):
            yield f"{name}: {value} does not match the field's pattern"
