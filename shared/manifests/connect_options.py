"""Connect options: how an account of a provider can be connected, as a form needs it. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.manifests.catalogue import CALLBACK_PATH, app_setup_steps
from shared.manifests.connect_models import ManualCredential, Purpose, Setting
from shared.manifests.connector import Connector
from shared.manifests.models import Manifest
from shared.manifests.registry import Provider

_OAUTH_PATH: Final = "/api/auth/oauth/connect"
_MANUAL_PATH: Final = "/api/integrations"
_APPS_PATH: Final = "/api/platform-credentials/"
_WORD_LIST: Final = re.compile(r"\w+(?:\|\w+)+")
"""A pattern that only lists words to choose from."""
_NAMED_GROUP: Final = re.compile(r"\(\?P<\w+>")


@dataclass(frozen=True, slots=True)
class ConnectField:
    """A value to enter. `id` is its name in the body of a request, `name` is its label.

    `pattern` has to match the whole text, in Python or JavaScript. `options`: the allowed values, if only
    these are allowed. A value with a `default`, or that is `generated` by the hub, may be left out, even if
    it is `required`. `example` is empty for secrets.
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
    """Well-known values of fields: `id` is sent as `preset`."""

    id: str
    name: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConnectApp:
    """The OAuth app that accounts are connected with. An operator registers it once by a PUT to `path`.

    `provider` is the app's provider: another one than the entry's if several share an app. `settings` go into
    the body's `settings`.
    """

    provider: str
    path: str
    redirect_uri: str
    fields: tuple[ConnectField, ...]
    settings: tuple[ConnectField, ...]
    setup_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectOption:
    """One way to connect an account: what to post to `path`, beside `provider`.

    By OAuth (`kind` is `oauth2` or `oauth1`): `params`; `scopes` are the default, `purposes` those that a
    `purpose` asks for, `user_scopes` says whether scopes of the person can be named beside them, and `choice`
    what the user may have to select afterwards. Any other kind is manual credentials: `kind`, `fields` and
    perhaps a `preset`. `app_registered`: whether there is an app for the workspace's accounts; null if no app
    is needed.
    """

    kind: str
    name: str
    about: str
    path: str
    fields: tuple[ConnectField, ...]
    presets: tuple[ConnectPreset, ...]
    params: tuple[ConnectField, ...]
    scopes: tuple[str, ...]
    purposes: Mapping[Purpose, tuple[str, ...]]
    user_scopes: bool
    choice: str | None
    app: ConnectApp | None
    app_registered: bool | None


def connect_options(
    provider: str, known: Mapping[str, Provider], connectors: Mapping[str, Connector], base: str
) -> tuple[ConnectOption, ...]:
    """Return every connect option of a provider, OAuth first, with URLs below `base`.

    `app_registered` is False: the caller knows which apps are registered.
    """
    connector = connectors.get(provider)
    if connector is None:
        return ()
    manual = tuple(_manual_option(kind) for kind in connector.manual_credentials.values())
    # Manual credentials need no app.
    if connector.oauth2 is None and connector.oauth1 is None:
        return manual
    return (
        _oauth_option(
            connector, known[connector.app].manifest, _connect_app(connector, known, connectors, base)
        ),
        *manual,
    )


def _oauth_option(connector: Connector, app_manifest: Manifest, app: ConnectApp) -> ConnectOption:
    kind, version = ("oauth2", "2.0") if connector.oauth2 is not None else ("oauth1", "1.0a")
    return ConnectOption(
        kind=kind,
        name=f"Sign in (OAuth {version})",
        about=f"A person signs in at {app_manifest.name} and allows the app.",
        path=_OAUTH_PATH,
        fields=(),
        presets=(),
        params=_connect_fields(connector.params),
        scopes=connector.scopes,
        purposes=connector.purposes,
        user_scopes=connector.oauth2 is not None and connector.oauth2.user_scopes is not None,
        choice=connector.account_selection.about if connector.account_selection else None,
        app=app,
        app_registered=False,
    )


def _connect_app(
    connector: Connector, known: Mapping[str, Provider], connectors: Mapping[str, Connector], base: str
) -> ConnectApp:
    """Return the app. It is the same for all providers that share it."""
    manifest = known[connector.app].manifest
    steps = app_setup_steps(manifest.connect, base + CALLBACK_PATH) if manifest.connect else []
    description = f"the app that you register with {manifest.name}"
    fields = {
        "client_id": Setting(name="Client ID", about=f"Of {description}.", required=True),
        "client_secret": Setting(
            name="Client secret", about=f"Of {description}.", required=connector.needs_secret, secret=True
        ),
    }
    if any(
        # Any provider that shares the app may need its signing secret.
        "signing_secret" in webhook.app.secrets
        for name, provider in known.items()
        if (webhook := provider.manifest.webhook) and webhook.app and name in connectors
        if connectors[name].app == connector.app
    ):
        about = f"What signs the webhooks of {description}, where it is another than the client secret."
        fields["signing_secret"] = Setting(name="Signing secret", about=about, secret=True)
    return ConnectApp(
        provider=connector.app,
        path=_APPS_PATH + connector.app,
        redirect_uri=base + CALLBACK_PATH,
        fields=_connect_fields(fields),
        settings=_connect_fields(connector.settings),
        setup_steps=tuple(steps),
    )


def _manual_option(kind: ManualCredential) -> ConnectOption:
    presets = (ConnectPreset(name, preset.name, preset.values) for name, preset in kind.presets.items())
    return ConnectOption(
        kind=kind.id,
        name=kind.name,
        about=kind.about,
        path=_MANUAL_PATH,
        fields=_connect_fields(kind.fields),
        presets=tuple(presets),
        params=(),
        scopes=(),
        purposes={},
        user_scopes=False,
        choice=None,
        app=None,
        app_registered=None,
    )


def allowed_values(setting: Setting) -> tuple[str, ...]:
    """Return the values that a setting may have, if its pattern only lists words; else none."""
    return tuple(setting.pattern.split("|")) if _WORD_LIST.fullmatch(setting.pattern) else ()


def _connect_fields(settings: Mapping[str, Setting]) -> tuple[ConnectField, ...]:
    return tuple(
        ConnectField(
            id=name,
            name=setting.name,
            about=setting.about,
            required=setting.required,
            secret=setting.secret,
            pattern=_NAMED_GROUP.sub("(?:", setting.pattern),
            options=allowed_values(setting),
            default=setting.default,
            generated=setting.generated,
            example="" if setting.secret else setting.example,
        )
        for name, setting in settings.items()
    )
