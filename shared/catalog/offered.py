"""The ways to connect an account that a provider offers, as a form needs them. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.catalog.connect import Entered, Setting
from shared.catalog.connector import Connector
from shared.catalog.listing import CALLBACK, account_steps
from shared.catalog.manifest import Manifest
from shared.catalog.registry import Provider

_BY_OAUTH: Final = "/api/auth/oauth/connect"
_BY_ENTERING: Final = "/api/integrations"
_APPS: Final = "/api/platform-credentials/"
_WORDS: Final = re.compile(r"\w+(?:\|\w+)+")
"""A pattern that is nothing but words to choose from."""
_NAMED_GROUP: Final = re.compile(r"\(\?P<\w+>")


@dataclass(frozen=True, slots=True)
class ConnectField:
    """What somebody enters; `id` is its name in the body of a call, `name` what people read.

    `pattern` has to match the whole text, in Python or JavaScript. `options`: one of these. What has a
    `default`, or is `generated` by the hub, may be left out, also where it is `required`. `example` is empty
    for secrets.
    """

    id: str
    name: str
    about: str
    required: bool
    secret: bool
    pattern: str
    options: tuple[str, ...]
    default: str
    generated: bool
    example: str


@dataclass(frozen=True, slots=True)
class ConnectPreset:
    """Values of fields that need not be looked up: `id` is sent as `preset`."""

    id: str
    name: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConnectApp:
    """The app that accounts are connected with. An operator registers it and puts it to `path`, once.

    `provider` is whose app it is: another than the entry's where several share one. `settings` go into the
    body's `settings`.
    """

    provider: str
    path: str
    redirect_uri: str
    fields: tuple[ConnectField, ...]
    settings: tuple[ConnectField, ...]
    setup_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectWay:
    """A way to connect an account: what to post to `path`, beside `provider`.

    By OAuth (`kind` is `oauth2` or `oauth1`): `params`; `scopes` are asked for when the call names none,
    and `choice` is what the person may have to choose afterwards. Any other kind is entered: `kind`, `fields`
    and perhaps a `preset`. `app_registered`: whether there is an app that the workspace's accounts may be
    connected with; null where no app is needed.
    """

    kind: str
    name: str
    about: str
    path: str
    fields: tuple[ConnectField, ...]
    presets: tuple[ConnectPreset, ...]
    params: tuple[ConnectField, ...]
    scopes: tuple[str, ...]
    choice: str | None
    app: ConnectApp | None
    app_registered: bool | None


def ways(
    provider: str, known: Mapping[str, Provider], connectors: Mapping[str, Connector], base: str
) -> tuple[ConnectWay, ...]:
    """Every way of a provider, OAuth first, with addresses below `base`; as if no app were registered."""
    connector = connectors.get(provider)
    if connector is None:
        return ()
    entered = tuple(_entered(kind) for kind in connector.entered.values())
    if connector.oauth2 is None and connector.oauth1 is None:
        return entered
    return (
        _by_oauth(connector, known[connector.app].manifest, _app(connector, known, connectors, base)),
        *entered,
    )


def _by_oauth(connector: Connector, of_app: Manifest, app: ConnectApp) -> ConnectWay:
    kind, version = ("oauth2", "2.0") if connector.oauth2 is not None else ("oauth1", "1.0a")
    return ConnectWay(
        kind=kind,
        name=f"Sign in (OAuth {version})",
        about=f"A person signs in at {of_app.name} and allows the app.",
        path=_BY_OAUTH,
        fields=(),
        presets=(),
        params=_fields(connector.params),
        scopes=connector.scopes,
        choice=connector.choices.about if connector.choices else None,
        app=app,
        app_registered=False,
    )


def _app(
    connector: Connector, known: Mapping[str, Provider], connectors: Mapping[str, Connector], base: str
) -> ConnectApp:
    """The same for all providers whose accounts are connected with it."""
    manifest = known[connector.app].manifest
    steps = account_steps(manifest.connect, base + CALLBACK) if manifest.connect else []
    whose = f"the app that you register with {manifest.name}"
    fields = {
        "client_id": Setting(name="Client ID", about=f"Of {whose}.", required=True),
        "client_secret": Setting(
            name="Client secret", about=f"Of {whose}.", required=connector.needs_secret, secret=True
        ),
    }
    if any(
        "signing_secret" in webhook.app.secrets
        for name, provider in known.items()
        if (webhook := provider.manifest.webhook) and webhook.app and name in connectors
        if connectors[name].app == connector.app
    ):
        about = f"What signs the webhooks of {whose}, where it is another than the client secret."
        fields["signing_secret"] = Setting(name="Signing secret", about=about, secret=True)
    return ConnectApp(
        provider=connector.app,
        path=_APPS + connector.app,
        redirect_uri=base + CALLBACK,
        fields=_fields(fields),
        settings=_fields(connector.settings),
        setup_steps=tuple(steps),
    )


def _entered(kind: Entered) -> ConnectWay:
    presets = (ConnectPreset(name, each.name, each.values) for name, each in kind.presets.items())
    return ConnectWay(
        kind=kind.id,
        name=kind.name,
        about=kind.about,
        path=_BY_ENTERING,
        fields=_fields(kind.fields),
        presets=tuple(presets),
        params=(),
        scopes=(),
        choice=None,
        app=None,
        app_registered=None,
    )


def _fields(settings: Mapping[str, Setting]) -> tuple[ConnectField, ...]:
    return tuple(
        ConnectField(
            id=name,
            name=each.name,
            about=each.about,
            required=each.required,
            secret=each.secret,
            pattern=_NAMED_GROUP.sub("(?:", each.pattern),
            options=tuple(each.pattern.split("|")) if _WORDS.fullmatch(each.pattern) else (),
            default=each.default,
            generated=each.generated,
            example="" if each.secret else each.example,
        )
        for name, each in settings.items()
    )
