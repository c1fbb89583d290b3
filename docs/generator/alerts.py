"""The recording rules and alerts of `deploy/monitoring/rules.yaml`, from one list.

A duration of an expression, such as `[5m]`, and a number of seconds in angle brackets, such as `<300>`, are
scaled: the rehearsal of the runbooks uses the same rules with windows that are shorter by one factor.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

DOCUMENTATION: Final = "https://docs.example.com/interlink"
"""Where the documentation site is; an installation replaces it by its own."""
SERVICES: Final = ("gateway", "delivery", "sync", "oauth", "importer", "console")
ACCEPTANCE_BUDGET: Final = 0.001
"""Share of authentic webhooks that may get a 503 in 30 days."""
FIRST_ATTEMPT_BUDGET: Final = 0.01
"""Share of first attempts that may start later than 5 s after the event's record, in 30 days."""

_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_PAGE: Final = ((14.4, "1h", "5m"), (6, "6h", "30m"))
_TICKET: Final = ((3, "1d", "2h"), (1, "3d", "6h"))
"""Burn rates with their long and short windows, as in Google's SRE workbook, chapter 5."""
_DURATION: Final = re.compile(r"\b(\d+)([smhd])\b")
_SECONDS: Final = re.compile(r"<(\d+)>")
_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME_PART: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")

Severity = Literal["page", "ticket"]
Rule = dict[str, Any]


@dataclass(frozen=True)
class Alert:
    """One alert. Several of one name differ in severity and share the runbook."""

    name: str
    expression: str
    hold: str
    """How long the expression must be true."""
    severity: Severity
    summary: str

    @property
    def runbook(self) -> str:
        """The path of the runbook's page below `docs`."""
        words = _NAME_PART.split(self.name.removeprefix("Interlink"))
        return f"runbooks/{'-'.join(words).lower()}.md"

    @property
    def runbook_url(self) -> str:
        """The address of the runbook on the documentation site."""
        return f"{DOCUMENTATION}/{self.runbook.removesuffix('.md')}.html"


def _recent(metric: str, window: str) -> str:
    """Return how much a counter rose in the window, also if its series began in it.

    `increase` misses the first count of a series, and with it the first failure of its kind. A series that
    only had a gap of less than an hour is not new.
    """
    before = f"last_over_time({metric}[1h] offset {window})"
    return f"(({metric} unless {before}) or increase({metric}[{window}]))"


def _burn(ratio: str, budget: float, rates: tuple[tuple[float, str, str], ...]) -> str:
    parts = (
        f"({ratio}{long} > {rate * budget:g} and {ratio}{short} > {rate * budget:g})"
        for rate, long, short in rates
    )
    return " or ".join(parts)


_ACCEPTANCE: Final = "interlink:acceptance_errors:ratio_rate"
_FIRST_ATTEMPTS: Final = "interlink:late_first_attempts:ratio_rate"
_RATIOS: Final = {
    # Rejected requests do not count: anybody can send them, and would hide an outage with them.
    _ACCEPTANCE: 'sum(rate(interlink_requests_total{{outcome=~"bus_unavailable|unavailable"}}[{window}])) / '
    'sum(rate(interlink_requests_total{{outcome=~"accepted|duplicate|bus_unavailable|unavailable"}}[{window}]))',
    _FIRST_ATTEMPTS: 'sum(rate(interlink_first_attempts_total{{outcome="late"}}[{window}])) / '
    "sum(rate(interlink_first_attempts_total[{window}]))",
}
_RECORDED: Final = {
    "interlink:consumer_lag:max": "max by (group, topic) (interlink_consumer_lag)",
    "interlink:handled:rate5m": "sum by (group, topic) (rate(interlink_handled_total[5m]))",
    "interlink:first_attempt_age:p99_5m": (
        "histogram_quantile(0.99, sum by (le) (rate(interlink_event_age_seconds_bucket[5m])))"
    ),
}
_FAILED_REFRESHES: Final = _recent('interlink_token_refreshes_total{outcome="failed"}', "30m")
_REFRESHES: Final = _recent("interlink_token_refreshes_total", "30m")
_FAILED_ACCOUNTS: Final = _recent('interlink_accounts_failed_total{status="error"}', "30m")

ALERTS: Final = (
    Alert(
        "InterlinkAcceptanceBurnRate",
        _burn(_ACCEPTANCE, ACCEPTANCE_BUDGET, _PAGE),
        "1m",
        "page",
        "Authentic webhooks get 503: at this rate the month's budget of 0.1 % lasts for days only",
    ),
    Alert(
        "InterlinkAcceptanceBurnRate",
        _burn(_ACCEPTANCE, ACCEPTANCE_BUDGET, _TICKET),
        "15m",
        "ticket",
        "Authentic webhooks get 503: at this rate the month's budget of 0.1 % does not last",
    ),
    Alert(
        "InterlinkFirstAttemptBurnRate",
        _burn(_FIRST_ATTEMPTS, FIRST_ATTEMPT_BUDGET, _PAGE),
        "1m",
        "page",
        "First attempts start late: at this rate the month's budget of 1 % lasts for days only",
    ),
    Alert(
        "InterlinkFirstAttemptBurnRate",
        _burn(_FIRST_ATTEMPTS, FIRST_ATTEMPT_BUDGET, _TICKET),
        "15m",
        "ticket",
        "First attempts start late: at this rate the month's budget of 1 % does not last",
    ),
    Alert(
        "InterlinkNoProgress",
        "min_over_time(interlink_consumer_lag[10m]) > 0 and changes(interlink_consumer_position[10m]) == 0",
        "5m",
        "page",
        "The group {{ $labels.group }} handles nothing of {{ $labels.topic }}, though records wait",
    ),
    Alert(
        "InterlinkConsumerLag",
        "interlink:consumer_lag:max > <10000>",
        "10m",
        "ticket",
        "The group {{ $labels.group }} is more than 10,000 records behind on {{ $labels.topic }}",
    ),
    Alert(
        "InterlinkDeadLetters",
        f"sum by (group, topic, reason) ({_recent('interlink_dead_lettered_total', '15m')}) > 0",
        "0s",
        "ticket",
        "The group {{ $labels.group }} dead-letters records of {{ $labels.topic }}: {{ $labels.reason }}",
    ),
    Alert(
        "InterlinkOldestDue",
        "max(interlink_oldest_due_seconds) > <300>",
        "5m",
        "page",
        "Due deliveries wait for the hub for more than 5 minutes",
    ),
    Alert(
        "InterlinkRefreshFailures",
        f"sum by (provider) ({_FAILED_REFRESHES}) >= 3 and sum by (provider) ({_FAILED_REFRESHES}) "
        f"/ sum by (provider) ({_REFRESHES}) > 0.2",
        "15m",
        "ticket",
        "More than a fifth of the token refreshes at {{ $labels.provider }} fail",
    ),
    Alert(
        "InterlinkAccountErrors",
        f"sum by (provider) ({_FAILED_ACCOUNTS}) >= 3",
        "0s",
        "ticket",
        "Accounts of {{ $labels.provider }} turned to error",
    ),
    Alert(
        "InterlinkEncryptionKeyAge",
        "time() - min(interlink_encryption_key_first_used_timestamp_seconds != 0) > 365 * 86400",
        "1h",
        "ticket",
        "The encryption key is in use for more than a year",
    ),
    Alert(
        "InterlinkCertificateExpiry",
        "min by (setting) (interlink_certificate_expiry_timestamp_seconds) - time() < 21 * 86400",
        "1h",
        "ticket",
        "The certificates of {{ $labels.setting }} end within three weeks",
    ),
    Alert(
        "InterlinkWebhooksUnreadable",
        "max(interlink_webhooks_unreadable) > 0",
        "1m",
        "page",
        "The secrets of outgoing webhooks cannot be decrypted: their deliveries wait",
    ),
    Alert(
        "InterlinkBrokerUnavailable",
        "max(interlink_broker_unavailable) > 0",
        "1m",
        "page",
        "Kafka does not answer a process of the hub",
    ),
    Alert(
        "InterlinkDatabaseUnavailable",
        "max(interlink_configuration_unchecked) > 0",
        "1m",
        "page",
        "MongoDB does not answer a process of the hub",
    ),
    Alert(
        "InterlinkServiceAbsent",
        " or ".join(f'absent(interlink_build_info{{service="{name}"}})' for name in SERVICES),
        "2m",
        "page",
        "No process of the service {{ $labels.service }} is scraped",
    ),
)


def rules(*, factor: float = 1.0) -> dict[str, Any]:
    """Return the document of the rules, with all durations times `factor`."""
    return {
        "groups": [
            {"name": "interlink-recorded", "rules": list(_recording_rules(factor))},
            {"name": "interlink-alerts", "rules": [_alert_rule(item, factor) for item in ALERTS]},
        ]
    }


def alerts_by_metric() -> dict[str, list[Alert]]:
    """Return which alerts use a metric, by its name, each once; also by way of a recorded series."""
    recorded = {rule["record"]: rule["expr"] for rule in _recording_rules(1.0)}
    used: dict[str, list[Alert]] = {}
    for alert in {item.name: item for item in ALERTS}.values():
        text = alert.expression
        for name, expression in recorded.items():
            if name in text:
                text += expression
        for metric in sorted(set(re.findall(r"\binterlink_[a-z_]+", text))):
            used.setdefault(metric, []).append(alert)
    return used


def _recording_rules(factor: float) -> Iterator[Rule]:
    for name, expression in _RATIOS.items():
        for window in _WINDOWS:
            yield {"record": name + window, "expr": scaled(expression.format(window=window), factor)}
    for name, expression in _RECORDED.items():
        yield {"record": name, "expr": scaled(expression, factor)}


def _alert_rule(alert: Alert, factor: float) -> Rule:
    return {
        "alert": alert.name,
        "expr": scaled(alert.expression, factor),
        "for": scaled(alert.hold, factor),
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook_url": alert.runbook_url},
    }


def scaled(text: str, factor: float) -> str:
    """Return an expression or a duration with durations, and numbers in angle brackets, times `factor`."""

    def duration(match: re.Match[str]) -> str:
        return match[0] if factor == 1 else f"{int(int(match[1]) * _SECONDS_OF[match[2]] * factor * 1000)}ms"

    text = _DURATION.sub(duration, text)
    return _SECONDS.sub(lambda match: f"{int(match[1]) * factor:g}", text)
