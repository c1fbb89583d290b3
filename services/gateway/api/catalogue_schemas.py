"""Response bodies of the catalogue."""

from typing import Literal

from pydantic import BaseModel

from shared.manifests import catalogue
from shared.manifests.connect_options import ConnectOption


class SvgIconOut(BaseModel):
    """An icon: SVG path data in a box of 24 by 24."""

    svg: str


class InitialsIconOut(BaseModel):
    """The initials of a provider that has no icon."""

    initials: str


class PollingParamOut(BaseModel):
    """A value of `params` of a polling trigger."""

    id: str
    name: str
    about: str
    pattern: str
    required: bool
    default: str


class PollingOut(BaseModel):
    """Settings with which `POST /api/polling-triggers` creates a polling trigger for this trigger.

    `interval_s` is the default, `min_interval_s` the shortest one. Without `needs_account` there is no
    `integration_id`.
    """

    event: str
    needs_account: bool
    params: list[PollingParamOut]
    scopes: list[str]
    interval_s: int
    min_interval_s: int


class TriggerOut(BaseModel):
    """A trigger and its source: webhooks of the provider or of another `provider`, or polling.

    With `polling`, the hub can poll for it: also where a webhook brings it, for accounts without one.
    """

    id: str
    by: catalogue.TriggerSource
    provider: str
    events: list[str]
    polled: str | None
    every_s: int | None
    polling: PollingOut | None


class WebhookSecretOut(BaseModel):
    """The secret that verifies webhooks: who generates it, and what the provider calls it."""

    source: Literal["ours", "theirs", "handshake", "none"]
    name: str
    about: str
    pattern: str


class WebhookSettingOut(BaseModel):
    """A setting of an endpoint. `options`: the allowed values, if only these are allowed."""

    id: str
    name: str
    about: str
    pattern: str
    secret: bool
    required: bool
    generated: bool
    default: str
    options: list[str]
    example: str


class ProviderWebhooksOut(BaseModel):
    """Webhooks of the provider itself (`supported`), or those that other providers send (`through`).

    `configurable`: an endpoint may describe its sender, in its field `source`.
    """

    supported: bool
    through: list[str]
    url_template: str
    event_types: list[str]
    secret: WebhookSecretOut | None
    settings: list[WebhookSettingOut]
    configurable: bool


class CredentialFieldOut(BaseModel):
    """A value that a person has to enter."""

    name: str
    type: Literal["text", "secret"]
    pattern: str
    required: bool
    secret: bool
    about: str


class CatalogueEntryOut(BaseModel):
    """A provider: an integration, a sender of webhooks, or a service whose accounts can be connected.

    `connect` has the connect options. `sync`: its conversations can be mapped. `imports` says from where its
    history can be imported: an export as a file, a connected account, or neither. `auth_type` is null if the
    provider is no integration. `credentials` has the endpoint's secret and the values to enter for all
    connect options, in one list.
    """

    id: str
    name: str
    category: str
    auth_type: Literal["oauth", "apiKey", "none"] | None
    color: str
    icon: SvgIconOut | InitialsIconOut
    docs: str
    aliases: list[str]
    capabilities: list[str]
    scopes: list[str]
    triggers: list[TriggerOut]
    webhooks: ProviderWebhooksOut | None
    connect: list[ConnectOption]
    sync: bool
    imports: list[catalogue.ImportSource]
    credentials: list[CredentialFieldOut]
    setup_steps: list[str]
    tier: str


class CatalogueOut(BaseModel):
    """The catalogue, sorted by name. `categories` are those of all providers, whatever was searched for."""

    items: list[CatalogueEntryOut]
    categories: list[str]
