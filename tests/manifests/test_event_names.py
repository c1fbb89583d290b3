"""Names that a subscriber asks for: known and unknown ones, and suggestions."""

from time import process_time

import pytest

from shared.contracts.event_types import EVENT_TYPES
from shared.manifests.event_names import EventNames
from shared.manifests.registry import registry

NAMES = EventNames(registry().providers)


def test_every_name_of_the_catalogue_is_accepted() -> None:
    fired = {
        trigger
        for provider in registry().providers.values()
        for event in (provider.manifest.webhook.handled if provider.manifest.webhook else {}).values()
        for trigger in event.triggers
    }
    for name in (
        *EVENT_TYPES,
        *(name for each in registry().providers.values() for name in each.trigger_types),
        *fired,
    ):
        report = NAMES.check([name])
        assert (report.errors, report.warnings) == ({}, []), name
    for provider in registry().providers:
        assert not NAMES.check([f"{provider}.*"]).errors


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("strype.payment", "stripe"),
        ("strype.*", "stripe"),
        ("githib.push", "github"),
        ("stripe_trigger_nope", "stripe_trigger_new_payment"),
        ("strype_trigger_new_payment", "stripe_trigger_new_payment"),
        ("stripe_triger_new_payment", "stripe_trigger_new_payment"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(name: str, meant: str) -> None:
    report = NAMES.check(["*", name])
    assert set(report.errors) == {1}
    assert meant in report.errors[1]
    report = NAMES.check([name], [name])
    assert (report.errors, len(report.warnings)) == ({}, 1)


@pytest.mark.parametrize(
    "name",
    [
        *("order.paid", "order.*", "team.created", "mail.sent", "lines.added", "emails.sent", "my_event"),
        *("invoice.*", "stripe.nope", "stripe.nope.*", "message.creatd", "message.nope.*"),
        "gmail_trigger_new_email",
    ],
)
def test_an_unknown_type_is_a_warning(name: str) -> None:
    report = NAMES.check([name])
    assert report.errors == {}
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["stripe.{}", "stripf{}.x", "stripe_trigger_{}", "message.{}", "github{}"])
def test_many_wrong_names_cost_little(name: str) -> None:
    names = [name.format(f"{number}{'x' * 180}") for number in range(100)]
    NAMES.is_trigger("")  # reads the manifests
    started = process_time()
    report = NAMES.check(names)
    assert len(report.errors) + len(report.warnings) == 100
    assert process_time() - started < 0.5
