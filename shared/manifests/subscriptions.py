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

    id: JmesPath = Field(default="id", description="The provider's id of the subscription.")
    expires: JmesPath = Field(default="null", description="The expiry, as the provider writes it.")
    secret: JmesPath = Field(
        default="null", description="A secret that the provider generated for the endpoint."
    )
    keep: dict[SettingName, JmesPath] = Field(
        default={}, description="Values that `renew` and `cancel` need as `{made:...}`, by name."
    )


class PreliminaryRequest(ManifestModel):
    """A request that has to be sent before the creation."""

    request: ApiRequest = Field(description="The request.")
    keep: dict[SettingName, JmesPath] = Field(description="`{watch:...}` of the following request.")


class SubscriptionSpec(ManifestModel):
    """A kind of provider subscription.

    Without `renew`, another one is created before it expires, and the old one is cancelled. If `renew` is the
    same request as `create`, the provider has one at a time: creating it again renews it.
    """

    id: SettingName = Field(description="Id of the kind of subscription.")
    about: str = Field(description="What the provider sends.")
    endpoint: ProviderId | None = Field(
        default=None, description="The provider whose webhooks it brings, if it is another one."
    )
    own_endpoint: bool = Field(
        default=True,
        description=(
            "Whether an inbound endpoint is created for it. Else its webhooks come to an existing one."
        ),
    )
    endpoint_settings: dict[SettingName, RequestTemplateText] = Field(
        default={}, description="Settings of the endpoint, request templates by name."
    )
    endpoint_secret: RequestTemplateText = Field(
        default="", description="The endpoint's secret, if it is already known."
    )
    automatic: bool = Field(
        default=False, description="Created when an account is connected; others are created on request."
    )
    needs: tuple[str, ...] = Field(
        default=(),
        description="Required values (`setting:pubsub_topic`): it is not created before they are set.",
    )
    of_app: bool = Field(
        default=False,
        description=(
            "Belongs to the app, not to the account: a workspace's accounts of the same app share one."
        ),
    )
    of_choice: bool = Field(
        default=False,
        description=(
            "Belongs to the selected resource (`choices`): it is created again when another one is selected, "
            "or the account is connected again."
        ),
    )
    resource: dict[SettingName, Setting] = Field(default={}, description="Inputs that name the resource.")
    before: PreliminaryRequest | None = Field(default=None, description="A request before the creation.")
    create: ApiRequest = Field(description="The request that creates the subscription.")
    made: SubscriptionResult = Field(default=SubscriptionResult(), description="The values of the response.")
    lifetime_s: int | None = Field(
        default=None,
        description=(
            "The requested lifetime in seconds, and the assumed one if the response has none; null: it "
            "does not expire."
        ),
    )
    ahead_s: int = Field(
        default=86_400, ge=60, description="Seconds before its expiry at which it is renewed."
    )
    renew: ApiRequest | None = Field(default=None, description="The request that renews it.")
    cancel: ApiRequest | None = Field(default=None, description="The request that cancels it.")
    scopes: tuple[str, ...] = Field(default=(), description="Granted scopes without which it is not created.")
