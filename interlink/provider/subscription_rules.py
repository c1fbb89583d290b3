"""The checker's rules for a manifest's `watches`."""

from collections.abc import Iterator, Mapping
from typing import Final

from shared.manifests.connect_models import TOKEN_NAMES
from shared.manifests.connector import Connector
from shared.manifests.models import Manifest, WebhookSpec
from shared.manifests.subscriptions import SubscriptionSpec
from shared.manifests.template_texts import (
    LocatedText,
    input_fields,
    request_texts,
    setting_faults,
    text_faults,
)
from shared.wire.request_template import RequestTemplate

_ENDPOINT_VALUES: Final = frozenset({"endpoint:url", "endpoint:secret"})
_RESERVED_NAMES: Final = {
    "watch": {"name", "id", "expires_at", "expires_ms"},
    "made": {"id", "expires", "secret", "asked_id", "of"},
}
"""Names of values that there are anyway."""
_EXPIRY_VALUES: Final = frozenset({"watch:expires_at", "watch:expires_ms"})


def subscription_faults(
    manifest: Manifest,
    connector: Connector,
    targets: Mapping[str, Manifest | None],
    known: set[str],
) -> Iterator[str]:
    """What is wrong with the watches themselves.

    `targets` are the manifests of other providers whose endpoints they bring webhooks to, None for one that
    is not there; `known` are the values of a connected account.
    """
    ids = [watch.id for watch in manifest.watches]
    if len(set(ids)) < len(ids):
        yield "two have the same id"
    for watch in manifest.watches:
        target = targets.get(watch.endpoint) if watch.endpoint else manifest
        webhook = target.webhook if target else None
        if webhook is None:
            name = watch.endpoint or manifest.id
            yield f"{watch.id}.endpoint: {name} has no webhooks"
            continue
        for fault in (
            *_definition_faults(watch, connector, known),
            *_endpoint_faults(watch, webhook),
            *_template_faults(watch, connector, manifest.exemptions, known),
        ):
            yield f"{watch.id}.{fault}"


def _definition_faults(watch: SubscriptionSpec, connector: Connector, known: set[str]) -> Iterator[str]:
    if not watch.about:
        yield "about: empty: say what is watched"
    yield from setting_faults("resource", watch.resource)
    yield from (
        f"scopes: connect does not ask for {scope}" for scope in set(watch.scopes) - {*connector.scopes}
    )
    yield from (f"needs: there is no {name}" for name in watch.needs if name not in known)
    for name in _RESERVED_NAMES["watch"] & {*watch.resource, *(watch.before.keep if watch.before else ())}:
        yield f"resource.{name}: {{watch:{name}}} is something else: choose another name"
    for name in _RESERVED_NAMES["made"] & watch.made.keep.keys():
        yield f"made.keep.{name}: {{made:{name}}} is something else: choose another name"
    for name, setting in watch.resource.items():
        if watch.automatic and setting.required and not (setting.default or setting.generated):
            yield f"resource.{name}: nobody enters it for a watch that is made by itself: give a default"
    if watch.of_app and (of_account := sorted(_account_dependencies(watch))):
        yield f"of_app: accounts share it, and {of_account[0]} is of one"
    if watch.lifetime_s is not None and watch.ahead_s >= watch.lifetime_s:
        yield f"ahead_s: {watch.ahead_s} s before its end is before a life of {watch.lifetime_s} s begins"


def _account_dependencies(watch: SubscriptionSpec) -> Iterator[str]:
    """What its requests and its endpoint have of a single account."""
    if any(request is not None and request.token for request in (watch.create, watch.renew, watch.cancel)):
        yield "the token"
    texts = [text for _, text, _ in _subscription_texts(watch)]
    for text in (*texts, *watch.endpoint_settings.values(), watch.endpoint_secret):
        for name in RequestTemplate(text).names:
            if name in TOKEN_NAMES or name.startswith(("account:", "param:", "field:")):
                yield f"{{{name}}}"


def _endpoint_faults(watch: SubscriptionSpec, webhook: WebhookSpec) -> Iterator[str]:
    """Whether the endpoint that is made for it has what it needs, and the platform is told of it."""
    spoken = {name for _, text, _ in _subscription_texts(watch) for name in RequestTemplate(text).names}
    if not watch.own_endpoint:
        if watch.endpoint_settings or watch.endpoint_secret or spoken & _ENDPOINT_VALUES:
            yield "own_endpoint: false: there is no endpoint to make or to tell of"
        return
    if "endpoint:url" not in spoken:
        yield "create: the platform is not told the address: write {endpoint:url}"
    for name in watch.endpoint_settings.keys() - webhook.settings.keys():
        yield f"endpoint_settings.{name}: the endpoint has no such setting"
    for name, setting in webhook.settings.items():
        given = name in watch.endpoint_settings or setting.default or setting.generated
        if setting.required and not given:
            yield f"endpoint_settings.{name}: the endpoint needs it"
    tells = "secret" in watch.made.model_fields_set
    source = webhook.secret.source
    if source == "theirs" and not tells and not watch.endpoint_secret:
        yield "endpoint_secret: the platform makes the secret: say where it is, here or in made.secret"
    if source == "ours" and not watch.endpoint_secret and "endpoint:secret" not in spoken:
        yield "create: the platform is not told the secret: write {endpoint:secret}"
    if tells and source in ("ours", "none"):
        yield f"made.secret: the endpoint's secret is not the platform's but {source}"


def _template_faults(
    watch: SubscriptionSpec, connector: Connector, exemptions: Mapping[str, str], known: set[str]
) -> Iterator[str]:
    """Whether the values of each request are there when it is made, and addresses are safe."""
    entered = {
        **input_fields("setting", connector.settings),
        **input_fields("param", connector.params),
        **input_fields("watch", watch.resource),
    }
    account = {*known, "account:id"}
    common = account | {f"watch:{name}" for name in watch.resource} | {"watch:name"}
    with_endpoint = common | (_ENDPOINT_VALUES if watch.own_endpoint else set())
    ends = set(_EXPIRY_VALUES) if watch.lifetime_s else set()
    first = {f"watch:{name}" for name in watch.before.keep} if watch.before else set()
    made = {f"made:{name}" for name in ("id", "expires", "asked_id", *watch.made.keep)}
    for prefix, names in (
        ("before.", with_endpoint | ends),
        ("create.", with_endpoint | ends | first | {"watch:id"}),
        ("renew.", with_endpoint | ends | made),
        ("cancel.", (with_endpoint - {"endpoint:secret"}) | made),
    ):
        for text in _subscription_texts(watch):
            if text[0].startswith(prefix):
                yield from text_faults(text, names, entered, exemptions)
    common -= TOKEN_NAMES  # an endpoint is made without asking the platform
    for name, written in (*watch.endpoint_settings.items(), ("endpoint_secret", watch.endpoint_secret)):
        where = name if name == "endpoint_secret" else f"endpoint_settings.{name}"
        yield from text_faults((where, written, False), common, entered, exemptions)


def _subscription_texts(watch: SubscriptionSpec) -> Iterator[LocatedText]:
    yield from request_texts("before.request", watch.before.request if watch.before else None)
    yield from request_texts("create", watch.create)
    yield from request_texts("renew", watch.renew)
    yield from request_texts("cancel", watch.cancel)
