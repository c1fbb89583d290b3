"""The catalogue as it is shown: what brings each trigger, what has to be entered, what to do. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from typing import Final, Literal

from shared.manifests.connect_models import ConnectSpec, Setting
from shared.manifests.models import Manifest
from shared.manifests.registry import Provider

ICON: Final = "icon.svg"
ENDPOINT_PLACEHOLDER: Final = "{endpoint_id}"
"""Stands in an address for the endpoint that is not there yet."""
CALLBACK_PATH: Final = "/api/auth/oauth/callback"
"""Where platforms send people back to, behind the hub's own address."""

TriggerSource = Literal["webhook", "polling", "through"]
_WEBHOOKS_PATH: Final = "/api/webhooks/"
_PATH_PATTERN: Final = re.compile(r'<path d="([^"]*)"')
_WORD_PATTERN: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of the catalogue and what brings it.

    `webhook`: events of the provider's own webhooks; `through`: events of another provider's; `polling`:
    the platform has to be asked, `polled` says for what and `every_s` how often that makes sense. Without
    `every_s` there is no platform: the trigger is the hub's own.
    """

    id: str
    by: TriggerSource
    provider: str
    events: tuple[str, ...] = ()
    polled: str = ""
    every_s: int | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A value that somebody enters so that the hub and the platform know each other."""

    name: str
    type: Literal["text", "secret"]
    pattern: str
    required: bool
    about: str


def triggers(provider: Provider, known: Mapping[str, Provider]) -> list[Trigger]:
    """The triggers of the provider's entry in the catalogue; without one, those that its events bring."""
    entry = provider.manifest.integration
    own = _events_by_trigger(provider.manifest)
    return [
        _resolve_trigger(provider, known, trigger, own)
        for trigger in (entry.triggers if entry else tuple(own))
    ]


def _resolve_trigger(
    provider: Provider, known: Mapping[str, Provider], trigger: str, own: Mapping[str, Sequence[str]]
) -> Trigger:
    entry = provider.manifest.integration
    if trigger in own or entry is None:
        return Trigger(trigger, "webhook", provider.id, tuple(own[trigger]))
    if trigger in entry.polled:
        polled = entry.polled[trigger]
        every = polled.every_s if entry.auth_type != "none" else None
        return Trigger(trigger, "polling", provider.id, polled=polled.about, every_s=every)
    for other in entry.through:
        events = _events_by_trigger(known[other].manifest).get(trigger, ()) if other in known else ()
        if events:
            return Trigger(trigger, "through", other, tuple(events))
    return Trigger(trigger, "polling", provider.id)


def _events_by_trigger(manifest: Manifest) -> dict[str, list[str]]:
    """The events that bring each trigger."""
    found: dict[str, list[str]] = {}
    for name, event in (manifest.webhook.handled if manifest.webhook else {}).items():
        for trigger in event.triggers:
            found.setdefault(trigger, []).append(name)
    return found


def credentials(manifest: Manifest) -> list[Credential]:
    """What has to be entered: for the webhook, and for connecting accounts.

    The fields of a kind of credential bear its id: `bot_token.access_token`.
    """
    found: list[Credential] = []
    kind: Literal["text", "secret"]
    webhook = manifest.webhook
    if webhook and webhook.secret.source in ("ours", "theirs"):
        secret = webhook.secret
        theirs = secret.source == "theirs"
        made = "" if theirs else "We make one when none is given. "
        kind = "text" if secret.public else "secret"
        found.append(Credential(secret.name, kind, secret.pattern, theirs, made + secret.about))
    for name, setting in (webhook.settings if webhook else {}).items():
        found.append(_setting_credential(name, setting, setting.required))
    if manifest.connect:
        found += _account_credentials(manifest, manifest.connect)
    return found


def _account_credentials(manifest: Manifest, connect: ConnectSpec) -> Iterator[Credential]:
    """Of the registered app, of a person who connects, and of what is entered in place of OAuth."""
    app = f"the app that you register with {manifest.name}, to connect accounts"
    if connect.through:
        app = f"the app of the provider {connect.through}, to connect accounts"
    by_app = bool(connect.through or connect.oauth2 or connect.oauth1)
    if by_app:
        yield Credential("client_id", "text", "", True, f"The client id of {app}.")
        yield Credential("client_secret", "secret", "", True, f"The client secret of {app}.")
    listed = manifest.webhook.settings if manifest.webhook else {}
    for name, setting in {**connect.settings, **connect.params}.items():
        if name not in listed:  # what the address of an app needs, an endpoint needs by the same name
            yield _setting_credential(name, setting, setting.required)
    other = by_app or len(connect.entered) > 1
    for kind in connect.entered:
        for name, field in kind.fields.items():
            shown = _setting_credential(f"{kind.id}.{name}", field, field.required and not other)
            yield replace(shown, about=f"{kind.name}: {shown.about}")


def _setting_credential(name: str, setting: Setting, required: bool) -> Credential:
    kind: Literal["text", "secret"] = "secret" if setting.secret else "text"
    made = "We make one when none is given. " if setting.generated else ""
    about = f"{setting.name}. {made}{setting.about}".rstrip()
    return Credential(name, kind, setting.pattern, required, about)


def setup_steps(manifest: Manifest, url: str) -> list[str]:
    """What a person does, step by step, with this address; secret and settings are named, not shown."""
    webhook, entry = manifest.webhook, manifest.integration
    settings = webhook.settings if webhook else {}
    own = webhook.setup_steps if webhook else entry.setup_steps if entry else ()
    if not own and manifest.connect:
        return app_setup_steps(manifest.connect, url.partition(_WEBHOOKS_PATH)[0] + CALLBACK_PATH)
    values = {
        "{url}": url,
        "{secret}": "(the endpoint's secret)",
        **{f"{{setting:{name}}}": f"({each.name})" for name, each in settings.items()},
    }
    return [_substitute(step, values) for step in own]


def app_setup_steps(connect: ConnectSpec, redirect_uri: str) -> list[str]:
    """What an operator does so that accounts can be connected; without an app, what a person enters."""
    values = {
        "{redirect_uri}": redirect_uri,
        **{f"{{setting:{name}}}": f"({each.name})" for name, each in connect.settings.items()},
    }
    if connect.app_steps:
        return [_substitute(step, values) for step in connect.app_steps]
    return [f"{kind.name}: {kind.about}" if kind.about else kind.name for kind in connect.entered]


def _substitute(step: str, values: Mapping[str, str]) -> str:
    for placeholder, value in values.items():
        step = step.replace(placeholder, value)
    return step


def receiving_provider(manifest: Manifest) -> str:
    """The provider whose endpoints get this one's webhooks: itself, or the first that it goes through."""
    entry = manifest.integration
    return entry.through[0] if entry and entry.through and not manifest.webhook else manifest.id


def placeholder_url(base: str, manifest: Manifest) -> str:
    """Where the platform will send webhooks, once there is an endpoint."""
    return f"{base}{_WEBHOOKS_PATH}{receiving_provider(manifest)}/{ENDPOINT_PLACEHOLDER}"


def initials(name: str) -> str:
    """What stands for a provider without an icon: two letters."""
    words: list[str] = _WORD_PATTERN.findall(name)
    capitals = [letter for letter in words[0] if letter.isupper()] if words else []
    if len(words) > 1:
        return (words[0][0] + words[1][0]).upper()
    if len(capitals) > 1:
        return "".join(capitals[:2])
    return (words[0] if words else name)[:2].upper()


def icon(folder: Traversable) -> str | None:
    """The path data of the folder's icon, in a box of 24 by 24; None without one."""
    file = folder.joinpath(ICON)
    return " ".join(_PATH_PATTERN.findall(file.read_text("utf-8"))) if file.is_file() else None
