"""Series for each alert, and when it fires: the unit tests that promtool runs, one sample a minute."""

from typing import Any, Final, NamedTuple

from docs.generator.alerts import ALERTS, Alert

Labels = dict[str, str]


class Case(NamedTuple):
    """`checks` are the alerts that fire at a minute: their labels without those that the rule adds."""

    series: dict[str, str]
    checks: dict[int, list[Labels]]


_PAGE, _TICKET = {"severity": "page"}, {"severity": "ticket"}
_BURST: Final = {5: [], 50: [], 70: [_PAGE], 80: [_PAGE, _TICKET], 450: []}
_HANDLED: Final = {"group": "sync-translate", "topic": "webhooks.received"}
_LABELS: Final = 'group="sync-translate",topic="webhooks.received"'
_SERVICES: Final = ("delivery", "sync", "oauth", "importer", "console")


def _switch(metric: str) -> Case:
    """A gauge that is 1 for ten minutes."""
    return Case(
        {f'{metric}{{instance="a"}}': "0x40", f'{metric}{{instance="b"}}': "0x5 1x10 0x20"},
        {4: [], 6: [], 8: [{}], 20: []},
    )


CASES: Final[dict[str, list[Case]]] = {
    "InterlinkAcceptanceBurnRate": [
        Case(
            {
                'interlink_requests_total{outcome="accepted"}': "0+600x600",
                'interlink_requests_total{outcome="bus_unavailable"}': "0x60 0+300x20 6000x500",
                # Anybody can send these: they must not hide the others.
                'interlink_requests_total{outcome="signature"}': "0+90000x600",
            },
            _BURST,
        ),
        # Half of the budget.
        Case(
            {
                'interlink_requests_total{outcome="accepted"}': "0+600x600",
                'interlink_requests_total{outcome="unavailable"}': "0+0.3x600",
            },
            {100: []},
        ),
    ],
    "InterlinkFirstAttemptBurnRate": [
        Case(
            {
                'interlink_first_attempts_total{outcome="in_time"}': "0+600x600",
                'interlink_first_attempts_total{outcome="late"}': "0x60 0+600x20 12000x500",
            },
            _BURST,
        ),
        Case(
            {
                'interlink_first_attempts_total{outcome="in_time"}': "0+600x600",
                'interlink_first_attempts_total{outcome="late"}': "0+3x600",
            },
            {100: []},
        ),
    ],
    "InterlinkNoProgress": [
        Case(
            {
                f'interlink_consumer_lag{{{_LABELS},partition="1"}}': "0x5 50x40 0x20",
                f'interlink_consumer_position{{{_LABELS},partition="1"}}': "100x45 101+10x20",
                f'interlink_consumer_lag{{{_LABELS},partition="2"}}': "50x70",  # busy, not stuck
                f'interlink_consumer_position{{{_LABELS},partition="2"}}': "0+5x70",
                f'interlink_consumer_lag{{{_LABELS},partition="3"}}': "0x70",  # idle
                f'interlink_consumer_position{{{_LABELS},partition="3"}}': "7x70",
            },
            {10: [], 18: [], 25: [{**_HANDLED, "partition": "1"}], 50: []},
        )
    ],
    "InterlinkConsumerLag": [
        Case(
            {
                f'interlink_consumer_lag{{{_LABELS},partition="1"}}': "20000x20 100x20",
                f'interlink_consumer_lag{{{_LABELS},partition="2"}}': "9000x40",
            },
            {5: [], 15: [_HANDLED], 30: []},
        )
    ],
    "InterlinkDeadLetters": [
        Case(
            {
                # The first one of its kind, another one of a known kind, and one of long ago.
                f'interlink_dead_lettered_total{{{_LABELS},reason="malformed"}}': "_x29 1x60",
                f'interlink_dead_lettered_total{{{_LABELS},reason="too_large"}}': "2x29 3x60",
                f'interlink_dead_lettered_total{{{_LABELS},reason="failed"}}': "7x90",
            },
            {
                20: [],
                32: [{**_HANDLED, "reason": "malformed"}, {**_HANDLED, "reason": "too_large"}],
                60: [],
            },
        )
    ],
    "InterlinkOldestDue": [
        Case({"interlink_oldest_due_seconds": "0x5 400x20 10x10"}, {8: [], 15: [{}], 30: []}),
    ],
    "InterlinkRefreshFailures": [
        Case(
            {
                'interlink_token_refreshes_total{provider="slack",outcome="failed"}': "0x10 0+1x20 20x60",
                'interlink_token_refreshes_total{provider="slack",outcome="refreshed"}': "0+1x90",
                # Few, and a small share.
                'interlink_token_refreshes_total{provider="jira",outcome="failed"}': "0x10 2x80",
                'interlink_token_refreshes_total{provider="google",outcome="failed"}': "0+1x90",
                'interlink_token_refreshes_total{provider="google",outcome="refreshed"}': "0+10x90",
            },
            {25: [], 40: [{"provider": "slack"}], 75: []},
        )
    ],
    "InterlinkAccountErrors": [
        Case(
            {
                'interlink_accounts_failed_total{provider="jira",status="error"}': "_x39 3x60",
                'interlink_accounts_failed_total{provider="slack",status="error"}': "_x39 2x60",
                # The consent of people ended: they are asked for it again.
                'interlink_accounts_failed_total{provider="google",status="reauth_required"}': "0+5x100",
            },
            {35: [], 42: [{"provider": "jira"}], 75: []},
        )
    ],
    "InterlinkEncryptionKeyAge": [
        Case(
            {
                # Past a year after ten minutes, and rotated.
                "interlink_encryption_key_first_used_timestamp_seconds": "-31535400x90 5460x30",
                'interlink_encryption_key_first_used_timestamp_seconds{a="without"}': "0x120",
            },
            {5: [], 60: [], 80: [{}], 100: []},
        )
    ],
    "InterlinkCertificateExpiry": [
        Case(
            {
                'interlink_certificate_expiry_timestamp_seconds{setting="KAFKA_SSL_CAFILE"}': (
                    "1815600x100 99999999x60"
                ),
                'interlink_certificate_expiry_timestamp_seconds{setting="INTERLINK_EGRESS_CA_FILE"}': (
                    "99999999x160"
                ),
            },
            {10: [], 70: [], 90: [{"setting": "KAFKA_SSL_CAFILE"}], 110: []},
        )
    ],
    "InterlinkWebhooksUnreadable": [_switch("interlink_webhooks_unreadable")],
    "InterlinkBrokerUnavailable": [_switch("interlink_broker_unavailable")],
    "InterlinkDatabaseUnavailable": [_switch("interlink_configuration_unchecked")],
    "InterlinkServiceAbsent": [
        Case(
            {
                'interlink_build_info{service="gateway",instance="a"}': "1x5 stale _x9 1x10",
                **{f'interlink_build_info{{service="{name}"}}': "1x40" for name in _SERVICES},
            },
            {4: [], 7: [], 9: [{"service": "gateway"}], 20: []},
        ),
        # One process of two ends.
        Case(
            {
                'interlink_build_info{service="gateway",instance="a"}': "1x5 stale",
                'interlink_build_info{service="gateway",instance="b"}': "1x40",
                **{f'interlink_build_info{{service="{name}"}}': "1x40" for name in _SERVICES},
            },
            {20: []},
        ),
    ],
}


def promtool_document(rule_file: str) -> dict[str, Any]:
    """Return the document for `promtool test rules`."""
    return {
        "rule_files": [rule_file],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": f"{minute}m",
                        "alertname": name,
                        "exp_alerts": [_expected(name, labels) for labels in firing],
                    }
                    for minute, firing in case.checks.items()
                ],
            }
            for name, cases in CASES.items()
            for case in cases
        ],
    }


def _expected(name: str, labels: Labels) -> dict[str, Any]:
    alert = _alert(name, labels.get("severity"))
    summary = alert.summary
    for label, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
    return {
        "exp_labels": {"severity": alert.severity, **labels},
        "exp_annotations": {"summary": summary, "runbook_url": alert.runbook_url},
    }


def _alert(name: str, severity: str | None) -> Alert:
    [alert] = [item for item in ALERTS if item.name == name and severity in (None, item.severity)]
    return alert
