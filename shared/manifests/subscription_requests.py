"""Values of a provider subscription's requests, and the values stored from their responses. No I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shared.contracts.envelope import rfc3339
from shared.contracts.ids import derive
from shared.manifests.connect_models import TOKEN_NAMES, ApiRequest, JmesPath
from shared.manifests.connector import Connector
from shared.manifests.subscriptions import PreliminaryRequest, SubscriptionResult, SubscriptionSpec
from shared.manifests.template_texts import request_texts
from shared.wire.expressions import Expression, ExpressionError
from shared.wire.request_template import RequestTemplate
from shared.wire.timestamps import parse_timestamp

_MAX_VALUE_LENGTH: Final = 2000


def subscription_values(
    name: str,
    resource: Mapping[str, str],
    *,
    url: str,
    secret: str,
    made: Mapping[str, str],
    ends: datetime | None,
) -> dict[str, str]:
    """Return the values of a subscription's requests, beside those of the account.

    `url` and `secret` are the endpoint's, `made` are the values stored at its creation, `ends` is the expiry
    that is requested.
    """
    values = {f"watch:{key}": text for key, text in resource.items()}
    values |= {"watch:name": name, "endpoint:url": url, "endpoint:secret": secret}
    values |= {f"made:{key}": text for key, text in made.items()}
    if ends is not None:
        values["watch:expires_at"] = rfc3339(ends)
        values["watch:expires_ms"] = str(int(ends.timestamp() * 1000))
    return values


def creation_values(id_: str, first: Mapping[str, str]) -> dict[str, str]:
    """Return the further values of the creation request: a new UUID and the preliminary values."""
    return {"watch:id": id_, **{f"watch:{name}": text for name, text in first.items()}}


def needs_account(request: ApiRequest) -> bool:
    """Return whether a request contains the account's credentials, which an app's subscription has not."""
    return request.token or any(
        name in TOKEN_NAMES or name.startswith("field:") for name in _value_names(request)
    )


def missing_setting(
    subscription: SubscriptionSpec,
    connector: Connector,
    known: Mapping[str, str],
    *,
    of: ApiRequest | None = None,
) -> str:
    """Return what is missing to create a subscription, or to send the request `of`; '' for nothing.

    `known` are the values of the account and of its app.
    """
    for name in subscription.needs:
        # A request that does not use the value can be sent without it.
        if known.get(name) or (of is not None and name not in _value_names(of)):
            continue
        kind, _, key = name.partition(":")
        if kind != "setting":
            return f"the account has no {key}"
        title = connector.settings[key].name
        return f"the app of {connector.app} has no {title}: enter it as its setting {key}"
    return ""


def settings_digest(subscription: SubscriptionSpec, known: Mapping[str, str]) -> str:
    """Return a digest of the settings that a subscription depends on; '' for none.

    A changed digest means that the subscription has to be created again.
    """
    return derive(*(known.get(name, "") for name in subscription.needs)) if subscription.needs else ""


def preliminary_values(before: PreliminaryRequest, document: Any) -> dict[str, str]:
    """Return the values to store from the response to the preliminary request."""
    return {name: _select_text(selection, document) for name, selection in before.keep.items()}


def result_values(made: SubscriptionResult, document: Any) -> dict[str, str]:
    """Return the values to store from the response that created or renewed a subscription.

    Its `secret` must not be shown.
    """
    selections = {"id": made.id, "expires": made.expires, "secret": made.secret, **made.keep}
    values = ((name, _select_text(selection, document)) for name, selection in selections.items())
    return {name: text for name, text in values if text}


def expiry_of(stored: Mapping[str, str]) -> datetime | None:
    """Return the expiry that the provider returned; None if it returned none that can be read."""
    return parse_timestamp(stored.get("expires", ""))


def _value_names(request: ApiRequest) -> set[str]:
    return {name for _, text, _ in request_texts("", request) for name in RequestTemplate(text).names}


def _select_text(selection: JmesPath, document: Any) -> str:
    try:
        value = Expression(selection).apply(document)
    except ExpressionError:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)[:_MAX_VALUE_LENGTH]
