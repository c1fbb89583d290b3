"""The record of an OAuth app: client id, secrets and settings that a provider issued."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from shared.contracts.ids import derive
from shared.manifests.connector import Connector

INSTALLATION: Final = ""
"""Stands in place of a workspace id for an app of the whole installation."""
DEFAULT_APP: Final = ""
"""The name of the app that accounts are connected with unless a call names another one."""
SECRET_FIELDS: Final = ("client_secret", "signing_secret")
SETTING_PREFIX: Final = "setting_"

AppSource = Literal["api", "environment", "file"]
AppRef = Sequence[str]
"""Workspace (or `INSTALLATION`) and client id of an app. An integration stores it."""


@dataclass(frozen=True, slots=True)
class App:
    """An OAuth app. `secrets` has those of `SECRET_FIELDS` that are set."""

    provider: str
    workspace: str
    client_id: str
    secrets: Mapping[str, str] = field(repr=False)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    verified: bool = False
    """True if accounts may be connected with it: the provider accepted it, or its operator vouches for it."""
    source: AppSource = "api"
    reason: str = ""
    """The provider's error for the app, or why it was not checked."""
    created_at: datetime | None = None
    changed_at: datetime | None = None
    revision: str = ""
    """Changes with id, secrets or settings, and when the provider accepted the app again.

    The result of a check holds for one revision only.
    """
    name: str = DEFAULT_APP
    """Distinguishes several apps of a provider in a workspace."""
    readable: bool = True
    """True if every sealed value could be decrypted. An app with only some of its secrets is not used."""


def app_ref(app: App) -> AppRef:
    """Return what an integration stores of the app that it is connected with."""
    return app.workspace, app.client_id


def app_record_id(provider: str, workspace: str, name: str = DEFAULT_APP) -> str:
    """Return the id of an app's document. There is one for each provider, workspace and name."""
    parts = (provider, workspace) if name == DEFAULT_APP else (provider, workspace, name)
    return f"pcr_{derive('platform credential', *parts)}"


def secret_settings(connector: Connector | None) -> frozenset[str]:
    """Return the names of the settings of a provider's app that are never shown.

    There are none for an unknown provider.
    """
    return frozenset(
        name for name, setting in (connector.settings if connector else {}).items() if setting.secret
    )


def uses_own_app(connector: Connector) -> bool:
    """Return whether the provider's accounts are connected with an app of this provider."""
    return bool(connector.oauth2 or connector.oauth1) and connector.app == connector.provider
