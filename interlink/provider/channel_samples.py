"""The fixtures of a provider's channel, `<provider>/channel/*.yaml`: read, and carried out.

A file has the `account`, `events` with the changes that are expected of each payload, and `operations` with
the steps that are expected, the response to each, and the result or the failure at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from interlink.provider.channel_plain import account, arguments, change, plain
from shared.contracts.errors import Malformed, Misconfigured
from shared.manifests.channel_models import Capability
from shared.manifests.channel_types import CallResponse, Channel, ChannelFailure, ReadsEvents, Step
from shared.manifests.registry import load_yaml

FOLDER: Final = "channel"
_MAX_STEPS: Final = 20


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EventSample(_Model):
    """An event: `changes` are expected of its payload, or `malformed` is true."""

    name: str
    capability: Capability | None = None
    event: str
    payload: dict[str, Any]
    changes: list[dict[str, Any]] = []
    malformed: bool = False


class StepSample(_Model):
    """A step that is expected, and the response to it."""

    call: dict[str, Any]
    visible: bool = False
    status: int = 200
    headers: dict[str, str] = {}
    response: Any = None


class OperationSample(_Model):
    """An operation with its arguments; it ends with `result`, or with `failure` (its kind and code)."""

    name: str
    capability: Capability
    operation: str
    arguments: dict[str, Any]
    steps: list[StepSample] = []
    result: Any = None
    failure: dict[str, Any] | None = None


class ChannelSamples(_Model):
    """One file of fixtures."""

    account: dict[str, Any]
    events: list[EventSample] = []
    operations: list[OperationSample] = []


@dataclass(slots=True)
class Observed:
    """What an operation did: its calls, the names of their methods, and its end."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    result: Any = None
    failure: dict[str, Any] | None = None


def read_samples(folder: Path) -> dict[str, ChannelSamples]:
    """Read the fixtures of a provider's channel, by file name. Raises `Misconfigured`."""
    samples: dict[str, ChannelSamples] = {}
    for path in sorted(folder.joinpath(FOLDER).glob("*.yaml")):
        try:
            samples[path.name] = ChannelSamples.model_validate(load_yaml(path.read_text("utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
            raise Misconfigured(f"{FOLDER}/{path.name}: {' '.join(str(error).split())}") from None
    return samples


def observe_event(channel: Channel, sample: EventSample, owner: Mapping[str, Any]) -> list[Any] | None:
    """Return the changes in an event as plain values; None if it is malformed."""
    if not isinstance(channel, ReadsEvents):
        return []
    try:
        return [change(item) for item in channel.changes(sample.event, sample.payload, account(owner))]
    except Malformed:
        return None


def observe_operation(channel: Channel, sample: OperationSample, owner: Mapping[str, Any]) -> Observed:
    """Carry an operation out with the responses of a fixture."""
    observed = Observed()
    start = getattr(channel, sample.operation)
    operation = start(**arguments(sample.arguments), account=account(owner))
    responses = iter(sample.steps)
    try:
        step: Step = next(operation)
        while len(observed.steps) < _MAX_STEPS:
            observed.steps.append({"call": plain(step.call), **({"visible": True} if step.visible else {})})
            observed.methods.append(step.method)
            given = next(responses, None)
            if given is None:
                operation.close()
                break
            step = operation.send(CallResponse(given.status, given.headers, given.response))
    except StopIteration as done:
        observed.result = plain(done.value)
    except ChannelFailure as failure:
        observed.failure = {"kind": failure.kind, "code": failure.code}
        if failure.retry_after is not None:
            observed.failure |= {"retry_after": failure.retry_after, "scope": failure.scope}
    return observed


def event_faults(channel: Channel, sample: EventSample, owner: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as the fixture of an event expects."""
    changes = observe_event(channel, sample, owner)
    if sample.malformed != (changes is None):
        yield "it is not malformed" if sample.malformed else "it is malformed"
    elif changes is not None and changes != sample.changes:
        yield f"its changes are {changes}"


def operation_faults(
    channel: Channel, sample: OperationSample, owner: Mapping[str, Any]
) -> tuple[Sequence[str], Observed]:
    """Return what is not as the fixture of an operation expects, and what it did."""
    observed = observe_operation(channel, sample, owner)
    faults: list[str] = []
    expected = [{"call": step.call, **({"visible": True} if step.visible else {})} for step in sample.steps]
    if observed.steps != expected:
        faults.append(f"its steps are {observed.steps}")
    if observed.failure != sample.failure:
        faults.append(f"it fails with {observed.failure}, expected {sample.failure}")
    elif observed.result != sample.result:
        faults.append(f"its result is {observed.result}")
    if observed.failure is None and sum("visible" in step for step in observed.steps) > 1:
        faults.append("it has more than one visible step")
    return faults, observed
