"""Runs the samples of provider subscriptions and reports what differs from `connect.yaml`."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from interlink.provider.request_comparison import request_faults
from interlink.provider.sample_runner import connected_values
from interlink.provider.samples import Sample, SubscriptionResultSample, SubscriptionSample
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import InterlinkError
from shared.manifests.connector import Connector
from shared.manifests.subscription_requests import (
    creation_values,
    expiry_of,
    preliminary_values,
    result_values,
    subscription_values,
)
from shared.manifests.subscriptions import SubscriptionSpec

SUBSCRIPTION_ID: Final = "wch_1"
"""The permanent name of the subscription."""
CREATION_ID: Final = "6f1c8a52-0b5e-4c0e-9c5a-2f0f4f0d7a11"
"""The UUID of the creation request."""
_ENDPOINT_SECRET: Final = "endpoint-secret"  # noqa: S105 -- of samples
REQUESTED_EXPIRY: Final = datetime(2026, 1, 8, tzinfo=UTC)
"""The expiry that is requested."""


def endpoint_url(provider: str) -> str:
    """Return the URL of the subscription's endpoint."""
    return f"https://hub.example.com/api/webhooks/{provider}/ep_1"


def subscription_sample_faults(
    connector: Connector, sample: Sample, watches: tuple[SubscriptionSpec, ...]
) -> Iterator[str]:
    """Yield each difference between subscriptions and samples, and each one without a sample."""
    by_id = {subscription.id: subscription for subscription in watches}
    for name in sorted(sample.watches.keys() - by_id.keys()):
        yield f"watches.{name}: the manifest has none"
    for name, subscription in by_id.items():
        expected = sample.watches.get(name)
        if expected is None:
            yield f"watches.{name}: missing: add its requests and the responses to them"
            continue
        yield from (
            f"watches.{name}.{fault}"
            for fault in _subscription_faults(connector, sample, subscription, expected)
        )


def _subscription_faults(
    connector: Connector, sample: Sample, subscription: SubscriptionSpec, expected: SubscriptionSample
) -> Iterator[str]:
    account = connected_values(connector, sample)
    for name in sorted(expected.resource.keys() - subscription.resource.keys()):
        yield f"resource.{name}: the manifest has none"
    examples = {name: setting.example or setting.default for name, setting in subscription.resource.items()}
    resource = {name: text for name, text in {**examples, **expected.resource}.items() if text}
    expiry = REQUESTED_EXPIRY if subscription.lifetime_s else None

    def values(made: Mapping[str, str]) -> dict[str, str]:
        url = endpoint_url(subscription.endpoint or connector.provider) if subscription.own_endpoint else ""
        secret = _ENDPOINT_SECRET if subscription.own_endpoint else ""
        filled = subscription_values(
            SUBSCRIPTION_ID, resource, url=url, secret=secret, made=made, ends=expiry
        )
        return {**account, **{name: text for name, text in filled.items() if text}}

    yield from _preliminary_faults(connector, subscription, expected, values({}))
    preliminary = expected.before.kept if expected.before else {}
    creation = {**values({}), **creation_values(CREATION_ID, preliminary)}
    yield from request_faults(
        "create", expected.create, lambda: connector.request(subscription.create, creation)
    )
    yield from _result_faults("made", connector, subscription, expected.made)
    for position, answer in enumerate(expected.refused):
        try:
            connector.parse_api_response(answer.to_answer())
            yield f"refused.{position}: is accepted"
        except InterlinkError:
            continue
    made = values(expected.made.kept)
    renew, cancel = subscription.renew, subscription.cancel
    yield from request_faults(
        "renew", expected.renew, lambda: connector.request(renew, made) if renew else None
    )
    if expected.renewed:
        yield from _result_faults("renewed", connector, subscription, expected.renewed)
    elif renew:
        yield "renewed: missing: add the response to it"
    yield from request_faults(
        "cancel", expected.cancel, lambda: connector.request(cancel, made) if cancel else None
    )


def _preliminary_faults(
    connector: Connector,
    subscription: SubscriptionSpec,
    expected: SubscriptionSample,
    values: Mapping[str, str],
) -> Iterator[str]:
    before = subscription.before
    if before is None or expected.before is None:
        if before or expected.before:
            yield "before: missing: add a sample" if before else "before: the manifest has none"
        return
    request = before.request
    yield from request_faults(
        "before.request", expected.before.request, lambda: connector.request(request, values)
    )
    try:
        stored = preliminary_values(before, connector.parse_api_response(expected.before.to_answer()))
    except InterlinkError as error:
        yield f"before: is rejected: {error}"
        return
    if stored != expected.before.kept:
        yield f"before.kept: is {stored}"


def _result_faults(
    location: str, connector: Connector, subscription: SubscriptionSpec, expected: SubscriptionResultSample
) -> Iterator[str]:
    """Yield differences in the values stored from a response, and in the expiry."""
    try:
        stored = result_values(subscription.made, connector.parse_api_response(expected.to_answer()))
    except InterlinkError as error:
        yield f"{location}: is rejected: {error}"
        return
    if stored != expected.kept:
        yield f"{location}.kept: is {stored}"
    expiry = expiry_of(stored)
    if stored.get("expires") and expiry is None:
        yield f"{location}.kept.expires: {stored['expires']!r} is not a known time format"
    shown_expiry = rfc3339(expiry) if expiry else ""
    if shown_expiry != expected.ends:
        yield f"{location}.ends: is {shown_expiry!r}"
