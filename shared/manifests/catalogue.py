"""The catalogue as the API lists it: triggers, credentials to enter, setup steps, icons. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from typing import Final, Literal

from shared.manifests.connect_models import ConnectSpec, Setting
from shared.manifests.models import Manifest
from shared.manifests.polling import PollSpec
from shared.manifests.registry import Provider

ICON: Final = "icon.svg"
ENDPOINT_PLACEHOLDER: Final = "{endpoint_id}"
"""Stands for the endpoint id in a URL while there is no endpoint."""
CALLBACK_PATH: Final = "/api/auth/oauth/callback"
"""Path of the OAuth redirect URI, after the hub's public URL."""

TriggerSource = Literal["webhook", "polling", "through"]
ImportSource = Literal["file", "account"]
_WEBHOOKS_PATH: Final = "/api/webhooks/"
_PATH_PATTERN: Final = re.compile(r'<path d="([^"]*)"')
_WORD_PATTERN: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of the catalogue and its source.

    `webhook`: events of the provider's own webhooks; `through`: events of another provider's; `polling`: the
    provider has to be polled, `polled` says for what and `every_s` how often that makes sense. Without
    `every_s` there is no provider: the trigger is the hub's own. With `polling` the hub can poll for it, also
    where there is a webhook.
    """

    id: str
    by: TriggerSource
    provider: str
    events: tuple[str, ...] = ()
    polled: str = ""
    every_s: int | None = None
    polling: PollSpec | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A value that a user enters so that the hub and the provider know each other."""

    name: str
    type: Literal["text", "secret"]
    pattern: str
    required: bool
    about: str


def triggers(provider: Provider, known: Mapping[str, Provider]) -> list[Trigger]:
    """Return the triggers of a provider's catalogue entry; without an entry, those of its events."""
    entry = provider.manifest.integration
    events_by_trigger = _events_by_trigger(provider.manifest)
    polling = provider.manifest.polling
    specs = polling.triggers if polling else {}
    return [
        replace(_resolve_trigger(provider, known, trigger, events_by_trigger), polling=specs.get(trigger))
        for trigger in (entry.triggers if entry else (*events_by_trigger, *specs))
    ]


def _resolve_trigger(
    provider: Provider,
    known: Mapping[str, Provider],
    trigger: str,
    events_by_trigger: Mapping[str, Sequence[str]],
) -> Trigger:
    entry, polling = provider.manifest.integration, provider.manifest.polling
    if trigger in events_by_trigger:
        return Trigger(trigger, "webhook", provider.id, tuple(events_by_trigger[trigger]))
    if polling and trigger in polling.triggers:
        spec = polling.triggers[trigger]
        return Trigger(trigger, "polling", provider.id, polled=spec.about, every_s=spec.interval_s)
    if entry is None:
        return Trigger(trigger, "polling", provider.id)
    if trigger in entry.polled:
        polled = entry.polled[trigger]
        every = polled.every_s if entry.auth_type != "none" else None
        return Trigger(trigger, "polling", provider.id, polled=polled.about, every_s=every)
    # The first provider in `through` that fires the trigger is its source.
    for other in entry.through:
        events = _events_by_trigger(known[other].manifest).get(trigger, ()) if other in known else ()
        if events:
            return Trigger(trigger, "through", other, tuple(events))
    return Trigger(trigger, "polling", provider.id)


def _events_by_trigger(manifest: Manifest) -> dict[str, list[str]]:
    """Return the events that fire each trigger."""
    events: dict[str, list[str]] = {}
    for name, event in (manifest.webhook.handled if manifest.webhook else {}).items():
        for trigger in event.triggers:
            events.setdefault(trigger, []).append(name)
    return events


def import_sources(manifest: Manifest, folder: Traversable) -> list[ImportSource]:
    """Return from where the history of a provider can be imported; `folder` is that of the provider."""
    sources: list[ImportSource] = ["file"] if folder.joinpath("history.py").is_file() else []
    return [*sources, "account"] if manifest.history else sources


def credentials(manifest: Manifest) -> list[Credential]:
    """Return the values to enter: for the webhook, and for connecting accounts.

    Names of manual credentials begin with their kind: `bot_token.access_token`.
    """
    entries: list[Credential] = []
    kind: Literal["text", "secret"]
    webhook = manifest.webhook
    if webhook and webhook.secret.source in ("ours", "theirs"):
        secret = webhook.secret
        required = secret.source == "theirs"
        hint = "" if required else "We make one when none is given. "
        kind = "text" if secret.public else "secret"
        entries.append(Credential(secret.name, kind, secret.pattern, required, hint + secret.about))
    for name, setting in (webhook.settings if webhook else {}).items():
        entries.append(_setting_credential(name, setting, setting.required))
    if manifest.connect:
        entries += _account_credentials(manifest, manifest.connect)
    return entries


def _account_credentials(manifest: Manifest, connect: ConnectSpec) -> Iterator[Credential]:
    """Yield the values of the OAuth app, of the user who connects, and of manual credentials."""
    app = f"the app that you register with {manifest.name}, to connect accounts"
    if connect.through:
        app = f"the app of the provider {connect.through}, to connect accounts"
    has_app = bool(connect.through or connect.oauth2 or connect.oauth1)
    if has_app:
        yield Credential("client_id", "text", "", True, f"The client id of {app}.")
        yield Credential("client_secret", "secret", "", True, f"The client secret of {app}.")
    webhook_settings = manifest.webhook.settings if manifest.webhook else {}
    for name, setting in {**connect.settings, **connect.params}.items():
        if name not in webhook_settings:  # an app webhook uses the same setting as an endpoint
            yield _setting_credential(name, setting, setting.required)
    has_alternative = has_app or len(connect.entered) > 1
    for kind in connect.entered:
        for name, field in kind.fields.items():
            credential = _setting_credential(
                f"{kind.id}.{name}", field, field.required and not has_alternative
            )
            yield replace(credential, about=f"{kind.name}: {credential.about}")


def _setting_credential(name: str, setting: Setting, required: bool) -> Credential:
    kind: Literal["text", "secret"] = "secret" if setting.secret else "text"
    hint = "We make one when none is given. " if setting.generated else ""
    about = f"{setting.name}. {hint}{setting.about}".rstrip()
    return Credential(name, kind, setting.pattern, required, about)


def setup_steps(manifest: Manifest, url: str) -> list[str]:
    """Return the user's steps with this URL; secret and settings are named, not shown."""
    webhook, entry = manifest.webhook, manifest.integration
    settings = webhook.settings if webhook else {}
    steps = webhook.setup_steps if webhook else entry.setup_steps if entry else ()
    if not steps and manifest.polling:
        steps = manifest.polling.setup_steps
    # Without webhooks, the steps are those of connecting an account.
    if not steps and manifest.connect:
        return app_setup_steps(manifest.connect, url.partition(_WEBHOOKS_PATH)[0] + CALLBACK_PATH)
    values = {
        "{url}": url,
        "{secret}": "(the endpoint's secret)",
        **{f"{{setting:{name}}}": f"({setting.name})" for name, setting in settings.items()},
    }
    return [_substitute(step, values) for step in steps]


def app_setup_steps(connect: ConnectSpec, redirect_uri: str) -> list[str]:
    """Return the operator's steps to register the OAuth app; without an app, the manual credentials."""
    values = {
        "{redirect_uri}": redirect_uri,
        **{f"{{setting:{name}}}": f"({setting.name})" for name, setting in connect.settings.items()},
    }
    if connect.app_steps:
        return [_substitute(step, values) for step in connect.app_steps]
    return [f"{kind.name}: {kind.about}" if kind.about else kind.name for kind in connect.entered]


def _substitute(step: str, values: Mapping[str, str]) -> str:
    for placeholder, value in values.items():
        step = step.replace(placeholder, value)
    return step


def receiving_provider(manifest: Manifest) -> str:
    """Return the provider whose endpoints receive this one's webhooks: itself, or the first of `through`."""
    entry = manifest.integration
    return entry.through[0] if entry and entry.through and not manifest.webhook else manifest.id


def placeholder_url(base: str, manifest: Manifest) -> str:
    """Return the webhook URL with a placeholder for the endpoint id."""
    return f"{base}{_WEBHOOKS_PATH}{receiving_provider(manifest)}/{ENDPOINT_PLACEHOLDER}"


def initials(name: str) -> str:
    """Return two letters that stand for a provider without an icon."""
    words: list[str] = _WORD_PATTERN.findall(name)
    capitals = [letter for letter in words[0] if letter.isupper()] if words else []
    if len(words) > 1:
        return (words[0][0] + words[1][0]).upper()
    if len(capitals) > 1:
        return "".join(capitals[:2])
    return (words[0] if words else name)[:2].upper()


def icon(folder: Traversable) -> str | None:
    """Return the path data of a folder's icon, in a box of 24 by 24; None without one."""
    file = folder.joinpath(ICON)
    return " ".join(_PATH_PATTERN.findall(file.read_text("utf-8"))) if file.is_file() else None
