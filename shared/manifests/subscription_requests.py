"""What the requests of a watch are filled with, and what is kept of their answers. No I/O."""

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
    """What requests are filled with beside the account's values.

    `url` and `secret` are the endpoint's, `made` is what was kept when the watch was made, `ends` is the end
    that is asked for.
    """
    values = {f"watch:{key}": text for key, text in resource.items()}
    values |= {"watch:name": name, "endpoint:url": url, "endpoint:secret": secret}
    values |= {f"made:{key}": text for key, text in made.items()}
    if ends is not None:
        values["watch:expires_at"] = rfc3339(ends)
        values["watch:expires_ms"] = str(int(ends.timestamp() * 1000))
    return values


def creation_values(id_: str, first: Mapping[str, str]) -> dict[str, str]:
    """What the request that makes a watch has besides: a new UUID, and what was asked for first."""
    return {"watch:id": id_, **{f"watch:{name}": text for name, text in first.items()}}


def needs_account(request: ApiRequest) -> bool:
    """Whether a request has something of the account's credential in it, which an app's own has not."""
    return request.token or any(
        name in TOKEN_NAMES or name.startswith("field:") for name in _value_names(request)
    )


def missing_setting(
    watch: SubscriptionSpec, connector: Connector, known: Mapping[str, str], *, of: ApiRequest | None = None
) -> str:
    """What has to be entered before a watch, or one request of it, can be made; empty for nothing.

    `known` are the values of the account and of its app.
    """
    for name in watch.needs:
        if known.get(name) or (of is not None and name not in _value_names(of)):
            continue
        kind, _, short = name.partition(":")
        if kind != "setting":
            return f"the account has no {short}"
        title = connector.settings[short].name
        return f"the app of {connector.app} has no {title}: enter it as its setting {short}"
    return ""


def settings_digest(watch: SubscriptionSpec, known: Mapping[str, str]) -> str:
    """A digest of the settings that a watch depends on: another one when it has to be made with others."""
    return derive(*(known.get(name, "") for name in watch.needs)) if watch.needs else ""


def preliminary_values(before: PreliminaryRequest, document: Any) -> dict[str, str]:
    """What is kept of the answer to the request that comes first."""
    return {name: _select_text(selection, document) for name, selection in before.keep.items()}


def result_values(made: SubscriptionResult, document: Any) -> dict[str, str]:
    """What is kept of the answer that made or renewed a watch; its `secret` is not for all to see."""
    selections = {"id": made.id, "expires": made.expires, "secret": made.secret, **made.keep}
    found = ((name, _select_text(selection, document)) for name, selection in selections.items())
    return {name: text for name, text in found if text}


def expiry_of(kept: Mapping[str, str]) -> datetime | None:
    """The end that the platform told; None when it told none that can be read."""
    return parse_timestamp(kept.get("expires", ""))


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
