"""The checker's rules for a manifest's `connect`: `connect_faults` is what `check` asks.

The samples in `connect.yaml` are run by `connect_samples` and `watch_samples`; rules of `watches` are in
`watch_checks`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from interlink.provider.sample_runner import sample_faults
from interlink.provider.samples import SAMPLES, TOKENS, VALUES, read_sample
from interlink.provider.subscription_rules import subscription_faults
from interlink.provider.subscription_sample_runner import subscription_sample_faults
from shared.contracts.errors import Misconfigured
from shared.manifests.connect_models import ConnectSpec, ManualCredential, Preset
from shared.manifests.connector import Connector
from shared.manifests.models import Manifest
from shared.manifests.registry import MANIFEST, provider_folders, read_manifest
from shared.manifests.template_texts import (
    CONNECT_RULES,
    api_texts,
    connect_texts,
    input_fields,
    named_groups,
    request_texts,
    setting_faults,
    text_faults,
)
from shared.wire.request_template import RequestTemplate

__all__ = [
    "CONNECT_RULES",
    "README_HEADING",
    "connect_faults",
    "connect_section_faults",
    "neighbour_manifest",
]

README_HEADING: Final = "## Connecting accounts"
"""The part of a provider's README that is about accounts."""

_PLACEHOLDER: Final = re.compile(r"\{[\w:]*\}")


def connect_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The faults of a folder's `connect` and its samples, a line each. Nothing for one without `connect`."""
    connect = manifest.connect
    if connect is None:
        if (folder / SAMPLES).exists():
            yield f"{SAMPLES}: the manifest has no connect: remove it"
        if manifest.watches:
            yield f"{MANIFEST}: watches: they are made with an account: write connect"
        return
    base: ConnectSpec | None = None
    if connect.through:
        other = neighbour_manifest(folder, connect.through)
        base = other.connect if other else None
        if base is None or base.through:
            yield f"{MANIFEST}: connect.through: {connect.through} has no way to connect of its own"
            return
    yield from (
        f"{MANIFEST}: connect.{fault}" for fault in connect_section_faults(connect, base, manifest.exemptions)
    )
    yield from (f"{MANIFEST}: connect.{fault}" for fault in _unused_setting_faults(folder, connect))
    connector = Connector(manifest.id, connect, base)
    targets = {
        name: neighbour_manifest(folder, name)
        for name in {each.endpoint for each in manifest.watches}
        if name
    }
    known = known_values(connect, base)
    yield from (
        f"{MANIFEST}: watches.{fault}" for fault in subscription_faults(manifest, connector, targets, known)
    )
    readme = folder / "README.md"
    if readme.is_file() and README_HEADING not in readme.read_text("utf-8", "replace"):
        yield f"README.md: the manifest has connect: write a part '{README_HEADING}'"
    if not (folder / SAMPLES).is_file():
        yield f"{SAMPLES}: missing: what is said in connect is proved by samples"
        return
    try:
        sample = read_sample(folder)
    except Misconfigured as error:
        yield str(error)
        return
    yield from (f"{SAMPLES}: {fault}" for fault in sample_faults(connector, sample))
    watched = subscription_sample_faults(connector, sample, manifest.watches)
    yield from (f"{SAMPLES}: {fault}" for fault in watched)


def neighbour_manifest(folder: Path, name: str) -> Manifest | None:
    """Another provider's manifest: of a folder beside this one, or of one that comes with us."""
    for place in (folder.parent / name, *(each for each in provider_folders() if each.name == name)):
        if place.joinpath(MANIFEST).is_file():
            try:
                return read_manifest(place)
            except Misconfigured:
                return None
    return None


# The rules


def connect_section_faults(
    connect: ConnectSpec, base: ConnectSpec | None, exemptions: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with `connect` itself; `base` is the one that it goes through."""
    source = base or connect
    settings, params = source.settings, {**source.params, **connect.params}
    known = known_values(connect, base)
    yield from _scope_faults(connect, base)
    if connect.through and connect.settings:
        yield f"settings: the app is that of {connect.through}: its settings stand there"
    for place, given in (("settings", connect.settings), ("params", connect.params)):
        yield from setting_faults(place, given)
    yield from _app_step_faults(connect, set(settings))
    entered = {**input_fields("setting", settings), **input_fields("param", params)}
    for text in connect_texts(connect):
        yield from text_faults(text, known | {"token"}, entered, exemptions)
    for kind in connect.entered:
        yield from (
            f"entered.{kind.id}.{fault}" for fault in _manual_credential_faults(connect, kind, exemptions)
        )
    doubled = [kind.id for kind in connect.entered]
    if len(set(doubled)) < len(doubled):
        yield "entered: two have the same id"


def known_values(connect: ConnectSpec, base: ConnectSpec | None) -> set[str]:
    """The names of what is known of an account that is connected: its app's, its own, and its tokens."""
    source = base or connect
    known = {*VALUES, *TOKENS, *(f"setting:{name}" for name in source.settings)}
    known |= {f"param:{name}" for name in (*source.params, *connect.params)}
    return known | {f"account:{name}" for name in _account_value_names(connect, base)}


def _unused_setting_faults(folder: Path, connect: ConnectSpec) -> Iterator[str]:
    """Settings and params that are in no text: of this provider, and of those that go through it."""
    used = {name for _, text, _ in connect_texts(connect) for name in RequestTemplate(text).names}
    left = [(place, name) for place in ("settings", "params") for name in getattr(connect, place)]
    left = [(place, name) for place, name in left if f"{place[:-1]}:{name}" not in used]
    if not left:
        return
    files = folder.parent.glob(f"*/{MANIFEST}")
    texts = [(file.parent.name, file.read_text("utf-8", "replace")) for file in files]
    others = "".join(text for name, text in texts if name == folder.name or f"through: {folder.name}" in text)
    for place, name in left:
        if f"{place[:-1]}:{name}" not in others:
            yield f"{place}.{name}: nothing uses it: remove it"


def _account_value_names(connect: ConnectSpec, base: ConnectSpec | None) -> set[str]:
    """What may stand beside an account: `{account:...}`."""
    found: set[str] = set()
    account, choices = connect.account or (base and base.account), connect.choices or (base and base.choices)
    for kept in (account, choices):
        found |= set(kept.keep) if kept else set()
    flow = (base or connect).oauth2
    return found | set(flow.callback.keep if flow else ())


def _scope_faults(connect: ConnectSpec, base: ConnectSpec | None) -> Iterator[str]:
    flows = (connect.oauth2, connect.oauth1, base and base.oauth2, base and base.oauth1)
    found = [scope for flow in flows if flow for scope in flow.scopes] + list(connect.scopes)
    for scope in sorted({scope for scope in found if found.count(scope) > 1}):
        yield f"scopes: {scope} is there twice"


def _app_step_faults(connect: ConnectSpec, settings: set[str]) -> Iterator[str]:
    if not (connect.oauth2 or connect.oauth1):
        if connect.app_steps:
            yield "app_steps: there is no app to register: remove them"
        return
    placeholders = {found for step in connect.app_steps for found in _PLACEHOLDER.findall(step)}
    if "{redirect_uri}" not in placeholders:
        yield "app_steps: one of them has to show where the address goes: write {redirect_uri}"
    for other in sorted(placeholders - {"{redirect_uri}"} - {f"{{setting:{name}}}" for name in settings}):
        yield f"app_steps: {other} is not filled in"


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
        wanted = {"host", "port", "security", "username", "password"}
        if not wanted <= kind.fields.keys():
            yield f"fields: a login needs {', '.join(sorted(wanted))}"
    for name, field in kind.fields.items():
        spoken = {f"field:{each}" for each in (name, *named_groups(field))}
        spoken |= {"access_token"} if name == "access_token" else set()
        if not kind.login and not spoken & used:
            yield f"fields.{name}: nothing uses it: remove it"
    for preset, chosen in kind.presets.items():
        yield from (f"presets.{preset}.{fault}" for fault in _preset_faults(kind, chosen))


def _preset_faults(kind: ManualCredential, preset: Preset) -> Iterator[str]:
    for name, value in preset.values.items():
        field = kind.fields.get(name)
        if field is None:
            yield f"{name}: there is no such field"
        elif field.secret or (field.pattern and not re.fullmatch(field.pattern, value)):
            yield f"{name}: {value} does not fit"
