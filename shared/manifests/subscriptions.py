"""Watches: subscriptions at a platform that make it send webhooks, and that end unless they are renewed.

Requests are filled with what those of `connect` are, and with `{watch:...}` (what is watched),
`{watch:name}`, which names the watch for good, `{watch:id}`, a new UUID for each creation,
`{watch:expires_at}` and `{watch:expires_ms}`, the end that is asked for, `{endpoint:url}`,
`{endpoint:secret}`, and `{made:...}`, what was kept of the answer.
"""

from pydantic import Field

from shared.manifests.connect_models import (
    ApiRequest,
    JmesPath,
    ProviderId,
    RequestTemplateText,
    Setting,
    SettingName,
)
from shared.manifests.schemes import ManifestModel


class SubscriptionResult(ManifestModel):
    """What is taken from the answer that made or renewed a watch."""

    id: JmesPath = "id"
    expires: JmesPath = "null"
    """When it ends, as the platform writes it."""
    secret: JmesPath = "null"
    """A secret that the platform made for the endpoint."""
    keep: dict[SettingName, JmesPath] = {}


class PreliminaryRequest(ManifestModel):
    """Something that has to be asked for first."""

    request: ApiRequest
    keep: dict[SettingName, JmesPath]
    """`{watch:...}` of the request that follows."""


class SubscriptionSpec(ManifestModel):
    """A kind of watch. Without `renew` another one is made before it ends, and the old one is cancelled.

    Where `renew` is the same request as `create`, the platform has one at a time: making it again renews it.
    """

    id: SettingName
    about: str
    endpoint: ProviderId | None = None
    """Whose webhooks it brings, where that is another provider."""
    own_endpoint: bool = True
    """An inbound endpoint is made for it. Else its webhooks come to one that somebody has set up already."""
    endpoint_settings: dict[SettingName, RequestTemplateText] = {}
    endpoint_secret: RequestTemplateText = ""
    """The endpoint's secret, where it is one that we know already."""
    automatic: bool = False
    """Made when an account is connected; others are made when somebody asks for them."""
    needs: tuple[str, ...] = ()
    """Without these values (`setting:pubsub_topic`) it is not made: it waits for them."""
    of_app: bool = False
    """It belongs to the app, not to the account: a workspace's accounts of the same app have one together."""
    resource: dict[SettingName, Setting] = {}
    """What is watched."""
    before: PreliminaryRequest | None = None
    create: ApiRequest
    made: SubscriptionResult = SubscriptionResult()
    lifetime_s: int | None = None
    """What is asked for, and what holds where the answer does not say it; null: it does not end."""
    ahead_s: int = Field(86_400, ge=60)
    """How long before its end it is renewed."""
    renew: ApiRequest | None = None
    cancel: ApiRequest | None = None
    scopes: tuple[str, ...] = ()
    """Without these, granted by the person, it is not made."""
