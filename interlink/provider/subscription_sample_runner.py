"""The runner of the samples of watches: where one does another thing than `connect.yaml` says."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from interlink.provider.sample_runner import connected_values, request_faults
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
"""What names the watch for good."""
CREATION_ID: Final = "6f1c8a52-0b5e-4c0e-9c5a-2f0f4f0d7a11"
"""The UUID of the request that makes it."""
_ENDPOINT_SECRET: Final = "endpoint-secret"  # noqa: S105 -- of samples
REQUESTED_EXPIRY: Final = datetime(2026, 1, 8, tzinfo=UTC)
"""The end that is asked for."""


def endpoint_url(provider: str) -> str:
    """The address of the endpoint that a watch brings webhooks to."""
    return f"https://hub.example.com/api/webhooks/{provider}/ep_1"


def subscription_sample_faults(
    connector: Connector, sample: Sample, watches: tuple[SubscriptionSpec, ...]
) -> Iterator[str]:
    """Where a watch does another thing than its sample says, or has none: a line each."""
    known = {watch.id: watch for watch in watches}
    for name in sorted(sample.watches.keys() - known.keys()):
        yield f"watches.{name}: the manifest has none"
    for name, watch in known.items():
        wanted = sample.watches.get(name)
        if wanted is None:
            yield f"watches.{name}: missing: its requests, and the answers to them"
            continue
        yield from (
            f"watches.{name}.{fault}" for fault in _subscription_faults(connector, sample, watch, wanted)
        )


def _subscription_faults(
    connector: Connector, sample: Sample, watch: SubscriptionSpec, wanted: SubscriptionSample
) -> Iterator[str]:
    account = connected_values(connector, sample)
    for name in sorted(wanted.resource.keys() - watch.resource.keys()):
        yield f"resource.{name}: the manifest has none"
    examples = {name: each.example or each.default for name, each in watch.resource.items()}
    resource = {name: text for name, text in {**examples, **wanted.resource}.items() if text}
    ends = REQUESTED_EXPIRY if watch.lifetime_s else None

    def values(made: Mapping[str, str]) -> dict[str, str]:
        url = endpoint_url(watch.endpoint or connector.provider) if watch.own_endpoint else ""
        secret = _ENDPOINT_SECRET if watch.own_endpoint else ""
        found = subscription_values(SUBSCRIPTION_ID, resource, url=url, secret=secret, made=made, ends=ends)
        return {**account, **{name: text for name, text in found.items() if text}}

    yield from _preliminary_faults(connector, watch, wanted, values({}))
    first = wanted.before.kept if wanted.before else {}
    creating = {**values({}), **creation_values(CREATION_ID, first)}
    yield from request_faults("create", wanted.create, lambda: connector.request(watch.create, creating))
    yield from _result_faults("made", connector, watch, wanted.made)
    for position, answer in enumerate(wanted.refused):
        try:
            connector.parse_api_response(answer.to_answer())
            yield f"refused.{position}: is taken"
        except InterlinkError:
            continue
    made = values(wanted.made.kept)
    renew, cancel = watch.renew, watch.cancel
    yield from request_faults(
        "renew", wanted.renew, lambda: connector.request(renew, made) if renew else None
    )
    if wanted.renewed:
        yield from _result_faults("renewed", connector, watch, wanted.renewed)
    elif renew:
        yield "renewed: missing: the answer to it"
    yield from request_faults(
        "cancel", wanted.cancel, lambda: connector.request(cancel, made) if cancel else None
    )


def _preliminary_faults(
    connector: Connector, watch: SubscriptionSpec, wanted: SubscriptionSample, values: Mapping[str, str]
) -> Iterator[str]:
    before = watch.before
    if before is None or wanted.before is None:
        if before or wanted.before:
            yield "before: missing: what is asked for first" if before else "before: the manifest has none"
        return
    asked = before.request
    yield from request_faults(
        "before.request", wanted.before.request, lambda: connector.request(asked, values)
    )
    try:
        kept = preliminary_values(before, connector.parse_api_response(wanted.before.to_answer()))
    except InterlinkError as error:
        yield f"before: is refused: {error}"
        return
    if kept != wanted.before.kept:
        yield f"before.kept: is {kept}"


def _result_faults(
    where: str, connector: Connector, watch: SubscriptionSpec, wanted: SubscriptionResultSample
) -> Iterator[str]:
    """What is kept of an answer, and when the watch ends by it."""
    try:
        kept = result_values(watch.made, connector.parse_api_response(wanted.to_answer()))
    except InterlinkError as error:
        yield f"{where}: is refused: {error}"
        return
    if kept != wanted.kept:
        yield f"{where}.kept: is {kept}"
    end = expiry_of(kept)
    if kept.get("expires") and end is None:
        yield f"{where}.kept.expires: {kept['expires']!r} is no time that is known"
    shown = rfc3339(end) if end else ""
    if shown != wanted.ends:
        yield f"{where}.ends: is {shown!r}"
