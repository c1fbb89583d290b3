"""The results of the help page's checks: the problem and the fix."""

from typing import Any

import pytest

from services.console.pages.help_checks import (
    CheckResult,
    check_accounts,
    check_apps,
    check_callback,
    check_deliveries,
    check_imports,
    check_services,
)

HTTPS = "https://hub.example/api/auth/oauth/callback"
WEBHOOK: dict[str, Any] = {
    "id": "wh_1",
    "name": "orders",
    "disabled_reason": None,
    "health": {"failing_since": None},
}
QUEUE = {"pending": 2, "delayed": 1, "failed": 0, "oldest_due_s": None}
IMPORT = {"id": "imp_1", "name": "old chat", "error": None, "waiting_for": None}


@pytest.mark.parametrize(
    ("findings", "about", "words"),
    [
        (check_services({"sync": {}}), "sync", "interlink serve sync"),
        (check_services({"sync": {"store_answers": False}}), "sync", "MONGODB_URI"),
        (check_services({"sync": {"producer_has_metadata": False}}), "sync", "KAFKA_BOOTSTRAP_SERVERS"),
        (check_services({"sync": {"sync-events_assigned": False}}), "sync", "interlink init"),
        (check_callback("http://hub.example/x", "hub.example", 400), "Redirect URI", "INTERLINK_PUBLIC_URL"),
        (check_callback(HTTPS, "10.0.0.7:8080", 400), "Address of the hub", "You are at 10.0.0.7:8080"),
        (check_callback(HTTPS, "hub.example", 503), "Callback", "is the service oauth running"),
        (check_callback(HTTPS, "hub.example", None), "Callback", "is the service oauth running"),
        (check_apps([{"provider": "slack", "reason": "wrong secret"}]), "App of slack", "wrong secret"),
        ([check_accounts([{}], [])], "Accounts", "connected again"),
        ([check_accounts([], [{}, {}])], "Accounts", "2 or more accounts have an error"),
        (check_deliveries({**QUEUE, "oldest_due_s": 90.0}, [WEBHOOK]), "Queue", "due for 90 s"),
        (check_deliveries({**QUEUE, "failed": 1200}, [WEBHOOK]), "Dead letters", "1,200 deliveries"),
        (
            check_deliveries(QUEUE, [{**WEBHOOK, "health": {"failing_since": "2026-01-01T00:00:00Z"}}]),
            *("Webhook orders", "It fails since"),
        ),
        (check_imports([{**IMPORT, "error": "the file is cut off"}]), "Import old chat", "cut off"),
    ],
)
def test_what_is_wrong_says_what_to_do(findings: Any, about: str, words: str) -> None:
    wrong: list[CheckResult] = [finding for finding in findings if finding.ok is False]
    assert [finding.about for finding in wrong] == [about]
    assert words in wrong[0].text


def test_nothing_is_wrong_with_a_healthy_hub() -> None:
    findings = [
        *check_services({"sync": {"store_answers": True}}),
        *check_callback("http://127.0.0.1:8080/x", "localhost:8080", 400),
        *check_callback(HTTPS, "hub.example", 400),
        *check_apps([{"provider": "slack", "reason": None}]),
        check_accounts([], []),
        *check_deliveries(QUEUE, [WEBHOOK]),
        *check_imports([IMPORT]),
    ]
    assert all(finding.ok for finding in findings)


def test_what_is_still_to_do_leads_to_its_page() -> None:
    for finding in (*check_apps([]), *check_imports([{**IMPORT, "waiting_for": "the plan"}])):
        assert finding.ok is None
        assert finding.href.startswith("/console/")
    assert next(check_deliveries(QUEUE, [])).href == "/console/webhooks/do/create"
