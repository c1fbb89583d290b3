"""The checker's rules for a manifest's `watches`: provider subscriptions."""

from collections.abc import Iterator, Mapping
from typing import Final

from interlink.provider.template_rules import input_fields, setting_faults, text_faults
from shared.manifests.connect_models import TOKEN_NAMES
from shared.manifests.connector import Connector
from shared.manifests.models import Manifest, WebhookSpec
from shared.manifests.subscriptions import SubscriptionSpec
from shared.manifests.template_texts import LocatedText, request_texts
from shared.wire.request_template import RequestTemplate

_ENDPOINT_VALUES: Final = frozenset({"endpoint:url", "endpoint:secret"})
_RESERVED_NAMES: Final = {
    "watch": {"name", "id", "expires_at", "expires_ms"},
    "made": {"id", "expires", "secret", "asked_id", "of"},
}
"""Names that the hub sets itself."""
_EXPIRY_VALUES: Final = frozenset({"watch:expires_at", "watch:expires_ms"})


def subscription_faults(
    manifest: Manifest,
    connector: Connector,
    targets: Mapping[str, Manifest | None],
    known: set[str],
) -> Iterator[str]:
    """Yield the faults of provider subscriptions.

    `targets` are the manifests of other providers whose webhooks they bring, None for one that does not
    exist; `known` are the names of a connected account's values.
    """
    ids = [subscription.id for subscription in manifest.watches]
    if len(set(ids)) < len(ids):
        yield "two have the same id: rename one"
    for subscription in manifest.watches:
        target = targets.get(subscription.endpoint) if subscription.endpoint else manifest
        webhook = target.webhook if target else None
        if webhook is None:
            name = subscription.endpoint or manifest.id
            yield f"{subscription.id}.endpoint: {name} has no webhooks"
            continue
        for fault in (
            *_definition_faults(subscription, connector, known),
            *_endpoint_faults(subscription, webhook),
            *_template_faults(subscription, connector, manifest.exemptions, known),
        ):
            yield f"{subscription.id}.{fault}"


def _definition_faults(
    subscription: SubscriptionSpec, connector: Connector, known: set[str]
) -> Iterator[str]:
    if not subscription.about:
        yield "about: empty: say what it subscribes to"
    yield from setting_faults("resource", subscription.resource)
    yield from (
        f"scopes: connect does not request {scope}"
        for scope in set(subscription.scopes) - {*connector.scopes}
    )
    yield from (f"needs: unknown value {name}" for name in subscription.needs if name not in known)
    for name in _RESERVED_NAMES["watch"] & {
        *subscription.resource,
        *(subscription.before.keep if subscription.before else ()),
    }:
        yield f"resource.{name}: {{watch:{name}}} is reserved: choose another name"
    for name in _RESERVED_NAMES["made"] & subscription.made.keep.keys():
        yield f"made.keep.{name}: {{made:{name}}} is reserved: choose another name"
    for name, setting in subscription.resource.items():
        if subscription.automatic and setting.required and not (setting.default or setting.generated):
            yield f"resource.{name}: nobody enters it for an automatic subscription: add a default"
    if subscription.of_app and (dependencies := sorted(_account_dependencies(subscription))):
        yield f"of_app: accounts share it, but {dependencies[0]} belongs to one"
    if subscription.lifetime_s is not None and subscription.ahead_s >= subscription.lifetime_s:
        yield f"ahead_s: {subscription.ahead_s} s is not less than lifetime_s, {subscription.lifetime_s} s"


def _account_dependencies(subscription: SubscriptionSpec) -> Iterator[str]:
    """Yield what its requests and its endpoint need of a single account."""
    if any(
        request is not None and request.token
        for request in (subscription.create, subscription.renew, subscription.cancel)
    ):
        yield "the token"
    texts = [text for _, text, _ in _subscription_texts(subscription)]
    for text in (*texts, *subscription.endpoint_settings.values(), subscription.endpoint_secret):
        for name in RequestTemplate(text).names:
            if name in TOKEN_NAMES or name.startswith(("account:", "param:", "field:")):
                yield f"{{{name}}}"


def _endpoint_faults(subscription: SubscriptionSpec, webhook: WebhookSpec) -> Iterator[str]:
    """Yield missing and superfluous settings of the subscription's endpoint, its URL and its secret."""
    names = {name for _, text, _ in _subscription_texts(subscription) for name in RequestTemplate(text).names}
    if not subscription.own_endpoint:
        if subscription.endpoint_settings or subscription.endpoint_secret or names & _ENDPOINT_VALUES:
            yield "own_endpoint: false: remove the endpoint's settings, secret and values"
        return
    if "endpoint:url" not in names:
        yield "create: the provider does not get the URL: add {endpoint:url}"
    for name in subscription.endpoint_settings.keys() - webhook.settings.keys():
        yield f"endpoint_settings.{name}: unknown setting of the endpoint"
    for name, setting in webhook.settings.items():
        is_set = name in subscription.endpoint_settings or setting.default or setting.generated
        if setting.required and not is_set:
            yield f"endpoint_settings.{name}: missing: the endpoint needs it"
    returns_secret = "secret" in subscription.made.model_fields_set
    source = webhook.secret.source
    if source == "theirs" and not returns_secret and not subscription.endpoint_secret:
        yield "endpoint_secret: the provider generates it: say where it is, here or in made.secret"
    if source == "ours" and not subscription.endpoint_secret and "endpoint:secret" not in names:
        yield "create: the provider does not get the secret: add {endpoint:secret}"
    if returns_secret and source in ("ours", "none"):
        yield f"made.secret: the provider does not generate the secret (source: {source}): remove it"


def _template_faults(
    subscription: SubscriptionSpec, connector: Connector, exemptions: Mapping[str, str], known: set[str]
) -> Iterator[str]:
    """Yield unknown values and unsafe URLs in each request."""
    inputs = {
        **input_fields("setting", connector.settings),
        **input_fields("param", connector.params),
        **input_fields("watch", subscription.resource),
    }
    account = {*known, "account:id"}
    common = account | {f"watch:{name}" for name in subscription.resource} | {"watch:name"}
    with_endpoint = common | (_ENDPOINT_VALUES if subscription.own_endpoint else set())
    expiry = set(_EXPIRY_VALUES) if subscription.lifetime_s else set()
    preliminary = {f"watch:{name}" for name in subscription.before.keep} if subscription.before else set()
    made = {f"made:{name}" for name in ("id", "expires", "asked_id", *subscription.made.keep)}
    # Each request has other values: a creation has no `made`, a cancellation no secret.
    for prefix, names in (
        ("before.", with_endpoint | expiry),
        ("create.", with_endpoint | expiry | preliminary | {"watch:id"}),
        ("renew.", with_endpoint | expiry | made),
        ("cancel.", (with_endpoint - {"endpoint:secret"}) | made),
    ):
        for text in _subscription_texts(subscription):
            if text[0].startswith(prefix):
                yield from text_faults(text, names, inputs, exemptions)
    common -= TOKEN_NAMES  # an endpoint is created without a request to the provider
    for name, template in (
        *subscription.endpoint_settings.items(),
        ("endpoint_secret", subscription.endpoint_secret),
    ):
        location = name if name == "endpoint_secret" else f"endpoint_settings.{name}"
        yield from text_faults((location, template, False), common, inputs, exemptions)


def _subscription_texts(subscription: SubscriptionSpec) -> Iterator[LocatedText]:
    yield from request_texts("before.request", subscription.before.request if subscription.before else None)
    yield from request_texts("create", subscription.create)
    yield from request_texts("renew", subscription.renew)
    yield from request_texts("cancel", subscription.cancel)
