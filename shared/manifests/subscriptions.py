"""Provider subscriptions: they make a provider send webhooks, and expire unless they are renewed.

Their requests have the values of `connect`, and `{watch:...}` (the resource), `{watch:name}`, the permanent
name of the subscription, `{watch:id}`, a new UUID for each creation, `{watch:expires_at}` and
`{watch:expires_ms}`, the requested expiry, `{endpoint:url}`, `{endpoint:secret}`, and `{made:...}`, the
values stored from the response.
"""

from pydantic import Field

from shared.manifests.base import ManifestModel
from shared.manifests.connect_models import (
    ApiRequest,
    JmesPath,
    ProviderId,
    RequestTemplateText,
    Setting,
    SettingName,
)


class SubscriptionResult(ManifestModel):
    """Values of the response that created or renewed a subscription."""

    id: JmesPath = "id"
    expires: JmesPath = "null"
    """The expiry, in one of the formats of `shared.wire.timestamps`."""
    secret: JmesPath = "null"
    """A secret that the provider generated for the endpoint."""
    keep: dict[SettingName, JmesPath] = {}


class PreliminaryRequest(ManifestModel):
    """A request that has to be sent before the creation."""

    request: ApiRequest
    keep: dict[SettingName, JmesPath]
    """`{watch:...}` of the following request."""


class SubscriptionSpec(ManifestModel):
    """A kind of provider subscription.

    Without `renew`, another one is created before it expires, and the old one is cancelled. If `renew` is the
    same request as `create`, the provider has one at a time: creating it again renews it.
    """

    id: SettingName
    about: str
    endpoint: ProviderId | None = None
    """The provider whose webhooks it brings, if it is another one."""
    own_endpoint: bool = True
    """Whether an inbound endpoint is created for it. Else its webhooks come to an existing one."""
    endpoint_settings: dict[SettingName, RequestTemplateText] = {}
    endpoint_secret: RequestTemplateText = ""
    """The endpoint's secret, if it is already known."""
    automatic: bool = False
    """Created when an account is connected; others are created on request."""
    needs: tuple[str, ...] = ()
    """Required values (`setting:pubsub_topic`): it is not created before they are set."""
    of_app: bool = False
    """Belongs to the app, not to the account: a workspace's accounts of the same app share one."""
    resource: dict[SettingName, Setting] = {}
    """Inputs that name the resource."""
    before: PreliminaryRequest | None = None
    create: ApiRequest
    made: SubscriptionResult = SubscriptionResult()
    lifetime_s: int | None = None
    """The requested lifetime in seconds, and the assumed one if the response has none; null: it does not
    expire."""
    ahead_s: int = Field(86_400, ge=60)
    """Seconds before its expiry at which it is renewed."""
    renew: ApiRequest | None = None
    cancel: ApiRequest | None = None
    scopes: tuple[str, ...] = ()
    """Granted scopes without which it is not created."""
