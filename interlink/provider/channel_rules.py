"""The checker's rules for a manifest's `channel` section, the code in `channel.py` and their fixtures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

from interlink.provider.channel_samples import (
    FOLDER,
    ChannelSamples,
    event_faults,
    operation_faults,
    read_samples,
)
from shared.contracts.errors import Misconfigured
from shared.manifests.capabilities import PROTOCOLS, has_protocol
from shared.manifests.channel_models import Capability, ChannelSpec
from shared.manifests.channel_types import Channel
from shared.manifests.models import Manifest
from shared.manifests.registry import MANIFEST, Provider

_ANY_METHOD: Final = "*"


def channel_faults(folder: Path, provider: Provider) -> Iterator[str]:
    """Yield what does not fit together: section and code, scopes and purposes, fixtures and both."""
    manifest, spec = provider.manifest, provider.manifest.channel
    if spec is None:
        if folder.joinpath("channel.py").is_file():
            yield f"{MANIFEST}: channel: missing: channel.py needs its limits, rates and errors"
        return
    try:
        channel = provider.channel
        samples = read_samples(folder)
    except Misconfigured as error:
        yield str(error)
        return
    if channel is None:
        return
    yield from (f"{MANIFEST}: channel.{fault}" for fault in _section_faults(manifest, spec, channel))
    yield from _sample_faults(spec, channel, samples)


def _section_faults(manifest: Manifest, spec: ChannelSpec, channel: Channel) -> Iterator[str]:
    if not (spec.base or (manifest.connect and manifest.connect.api)):
        yield "base: missing: connect.api has no base address either"
    for capability in get_args(Capability):
        implemented, alone = has_protocol(channel, capability), _is_alone(capability)
        protocol = PROTOCOLS[capability].__name__
        if capability not in spec.missing and not implemented:
            yield f"missing.{capability}: channel.py does not implement {protocol}: say why, or implement it"
        elif capability in spec.missing and implemented and alone:
            yield f"missing.{capability}: channel.py implements {protocol}: remove it"
    reactions: Any = getattr(channel, "reactions_per_message", None)
    if "react" not in spec.missing and reactions != spec.limits.reactions:
        yield f"limits.reactions: channel.py has reactions_per_message {reactions}: make them equal"
    requested = set(manifest.connect.purposes.get("sync", ())) if manifest.connect else set()
    for capability, scopes in spec.scopes.items():
        for scope in sorted(scopes.keys() - requested):
            yield f"scopes.{capability}: connect.purposes.sync does not request {scope}: add it"


def _is_alone(capability: Capability) -> bool:
    """Return whether no other capability has the same Protocol."""
    return list(PROTOCOLS.values()).count(PROTOCOLS[capability]) == 1


def _sample_faults(spec: ChannelSpec, channel: Channel, samples: dict[str, ChannelSamples]) -> Iterator[str]:
    """Yield fixtures that do not hold, and capabilities and methods without a fixture."""
    covered: set[str] = set()
    methods: set[str] = set()
    for file, group in samples.items():
        for event in group.events:
            covered.add(event.capability or "")
            for fault in event_faults(channel, event, group.account):
                yield f"{FOLDER}/{file}: {event.name}: {fault}: correct the code or the fixture"
        for operation in group.operations:
            try:
                faults, observed = operation_faults(channel, operation, group.account)
            except (AttributeError, KeyError, TypeError) as error:
                yield f"{FOLDER}/{file}: {operation.name}: {error!r}: correct its operation and arguments"
                continue
            methods.update(observed.methods)
            if observed.failure is None:
                covered.add(operation.capability)
            for fault in faults:
                yield f"{FOLDER}/{file}: {operation.name}: {fault}: correct the code or the fixture"
    if not any(event.malformed for group in samples.values() for event in group.events):
        yield f"{FOLDER}: no fixture of a malformed event: add one"
    for capability in get_args(Capability):
        if capability not in spec.missing and capability not in covered:
            yield f"{FOLDER}: no fixture for the capability {capability}: add one"
    yield from _rate_faults(spec, methods)


def _rate_faults(spec: ChannelSpec, called: set[str]) -> Iterator[str]:
    limited = {method for rate in spec.rates for method in rate.methods}
    for method in sorted(called - limited):
        if _ANY_METHOD not in limited:
            yield f"{MANIFEST}: channel.rates: nothing limits {method or 'a step without a method'}: add it"
    for method in sorted(limited - called - {_ANY_METHOD}):
        yield f"{FOLDER}: no fixture calls {method}, which channel.rates names: add one, or remove it"
