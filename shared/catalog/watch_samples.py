"""The runner of the samples of watches: where one does another thing than `connect.yaml` says."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from shared.catalog.connect_samples import connected, differs
from shared.catalog.connector import Connector
from shared.catalog.samples import MadeSample, Sample, WatchSample
from shared.catalog.watch_calls import asked_first, end_of, kept_of, new_watch, watch_values
from shared.catalog.watches import Watch
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import InterlinkError

NAME: Final = "wch_1"
"""What names the watch for good."""
NEW_ID: Final = "6f1c8a52-0b5e-4c0e-9c5a-2f0f4f0d7a11"
"""The UUID of the request that makes it."""
_ENDPOINT_SECRET: Final = "endpoint-secret"  # noqa: S105 -- of samples
ENDS: Final = datetime(2026, 1, 8, tzinfo=UTC)
"""The end that is asked for."""


def endpoint_url(provider: str) -> str:
    """The address of the endpoint that a watch brings webhooks to."""
    return f"https://hub.example.com/api/webhooks/{provider}/ep_1"


def watch_sample_faults(connector: Connector, sample: Sample, watches: tuple[Watch, ...]) -> Iterator[str]:
    """Where a watch does another thing than its sample says, or has none: a line each."""
    known = {watch.id: watch for watch in watches}
    for name in sorted(sample.watches.keys() - known.keys()):
        yield f"watches.{name}: the manifest has none"
    for name, watch in known.items():
        wanted = sample.watches.get(name)
        if wanted is None:
            yield f"watches.{name}: missing: its requests, and the answers to them"
            continue
        yield from (f"watches.{name}.{fault}" for fault in _faults(connector, sample, watch, wanted))


def _faults(connector: Connector, sample: Sample, watch: Watch, wanted: WatchSample) -> Iterator[str]:
    account = connected(connector, sample)
    for name in sorted(wanted.resource.keys() - watch.resource.keys()):
        yield f"resource.{name}: the manifest has none"
    examples = {name: each.example or each.default for name, each in watch.resource.items()}
    resource = {name: text for name, text in {**examples, **wanted.resource}.items() if text}
    ends = ENDS if watch.lifetime_s else None

    def values(made: Mapping[str, str]) -> dict[str, str]:
        url = endpoint_url(watch.endpoint or connector.provider) if watch.own_endpoint else ""
        secret = _ENDPOINT_SECRET if watch.own_endpoint else ""
        found = watch_values(NAME, resource, url=url, secret=secret, made=made, ends=ends)
        return {**account, **{name: text for name, text in found.items() if text}}

    yield from _before(connector, watch, wanted, values({}))
    first = wanted.before.kept if wanted.before else {}
    creating = {**values({}), **new_watch(NEW_ID, first)}
    yield from differs("create", wanted.create, lambda: connector.request(watch.create, creating))
    yield from _made("made", connector, watch, wanted.made)
    for position, answer in enumerate(wanted.refused):
        try:
            connector.read(answer.answered())
            yield f"refused.{position}: is taken"
        except InterlinkError:
            continue
    made = values(wanted.made.kept)
    renew, cancel = watch.renew, watch.cancel
    yield from differs("renew", wanted.renew, lambda: connector.request(renew, made) if renew else None)
    if wanted.renewed:
        yield from _made("renewed", connector, watch, wanted.renewed)
    elif renew:
        yield "renewed: missing: the answer to it"
    yield from differs("cancel", wanted.cancel, lambda: connector.request(cancel, made) if cancel else None)


def _before(
    connector: Connector, watch: Watch, wanted: WatchSample, values: Mapping[str, str]
) -> Iterator[str]:
    before = watch.before
    if before is None or wanted.before is None:
        if before or wanted.before:
            yield "before: missing: what is asked for first" if before else "before: the manifest has none"
        return
    asked = before.request
    yield from differs("before.request", wanted.before.request, lambda: connector.request(asked, values))
    try:
        kept = asked_first(before, connector.read(wanted.before.answered()))
    except InterlinkError as error:
        yield f"before: is refused: {error}"
        return
    if kept != wanted.before.kept:
        yield f"before.kept: is {kept}"


def _made(where: str, connector: Connector, watch: Watch, wanted: MadeSample) -> Iterator[str]:
    """What is kept of an answer, and when the watch ends by it."""
    try:
        kept = kept_of(watch.made, connector.read(wanted.answered()))
    except InterlinkError as error:
        yield f"{where}: is refused: {error}"
        return
    if kept != wanted.kept:
        yield f"{where}.kept: is {kept}"
    end = end_of(kept)
    if kept.get("expires") and end is None:
        yield f"{where}.kept.expires: {kept['expires']!r} is no time that is known"
    shown = rfc3339(end) if end else ""
    if shown != wanted.ends:
        yield f"{where}.ends: is {shown!r}"
