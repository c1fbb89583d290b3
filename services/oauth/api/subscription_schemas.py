"""Request and response bodies of provider subscriptions, which the REST path calls watches."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.oauth.api.schemas import FieldValues, LastError
from services.oauth.subscriptions.records import ProviderSubscription
from shared.contracts.envelope import rfc3339
from shared.manifests.subscriptions import SubscriptionSpec


class ProviderSubscriptionCreate(BaseModel):
    """`POST`: the type of subscription, and the resource to subscribe to."""

    model_config = ConfigDict(extra="forbid")

    watch: Annotated[str, Field(max_length=40)]
    resource: FieldValues = {}
    channel_id: Annotated[
        str | None,
        Field(max_length=200, description="The chat channel in which its webhooks become messages."),
    ] = None


class ProviderSubscriptionOut(BaseModel):
    """A provider subscription.

    `status` is pending, active, failing (it is retried), or stopped with its integration. A subscription that
    lacks a setting of the app is pending with the error `missing_setting`, which names the setting; it is
    created once the setting is there.
    """

    id: str
    watch: str
    about: str
    resource: dict[str, str]
    status: str
    shared: Annotated[
        bool, Field(description="It belongs to the app: the workspace's accounts of the app share it.")
    ]
    endpoint_id: str | None
    endpoint_url: str | None
    channel_id: str | None
    expires_at: str | None
    renewed_at: str | None
    next_at: str | None
    last_error: LastError | None
    created_at: str


class ProviderSubscriptionTypeOut(BaseModel):
    """A type of subscription that the provider has."""

    watch: str
    about: str
    automatic: bool
    resource: dict[str, str]
    scopes: list[str]


class ProviderSubscriptionListOut(BaseModel):
    """The subscriptions of an integration, newest first, and the types that can be added."""

    items: list[ProviderSubscriptionOut]
    available: list[ProviderSubscriptionTypeOut]


def subscription_out(
    subscription: ProviderSubscription, definition: SubscriptionSpec | None
) -> ProviderSubscriptionOut:
    """Return a subscription as the API shows it. `definition` is its type, if the provider still has it."""
    error = subscription.last_error
    return ProviderSubscriptionOut(
        id=subscription.id,
        watch=subscription.type_id,
        about="" if definition is None else definition.about,
        resource=dict(subscription.resource),
        status=subscription.status,
        shared=subscription.app is not None,
        endpoint_id=subscription.endpoint_id,
        endpoint_url=subscription.endpoint_url,
        channel_id=subscription.channel_id,
        expires_at=_time(subscription.expires_at),
        renewed_at=_time(subscription.renewed_at),
        next_at=_time(subscription.due_at),
        last_error=LastError(at=rfc3339(error.at), code=error.code, detail=error.detail) if error else None,
        created_at=rfc3339(subscription.created_at),
    )


def subscription_type_out(definition: SubscriptionSpec) -> ProviderSubscriptionTypeOut:
    """Return a type of subscription as the API shows it."""
    return ProviderSubscriptionTypeOut(
        watch=definition.id,
        about=definition.about,
        automatic=definition.automatic,
        resource={name: setting.about for name, setting in definition.resource.items()},
        scopes=list(definition.scopes),
    )


def _time(value: datetime | None) -> str | None:
    return rfc3339(value) if value else None
