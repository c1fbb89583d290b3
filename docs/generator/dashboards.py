"""The Grafana dashboards of `deploy/monitoring`: an overview, one per service, one for workspaces."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from docs.generator.alerts import SERVICES

_WIDTH: Final = 8
_PER_ROW: Final = 3
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_RANKED: Final = 'interlink_workspace_usage_total{kind!="stored_byte"}'
_PROMQL: Final = re.compile(r"^```promql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A graph. `queries` are expressions with the legends of their series; `unit` is a unit of Grafana."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]


def _rate(title: str, metric: str, *labels: str) -> Panel:
    """Return a panel of a counter's rate per second, by labels."""
    query = f"sum by ({', '.join(labels)}) (rate({metric}[5m]))" if labels else f"sum(rate({metric}[5m]))"
    return Panel(title, "ops", [(query, " ".join(f"{{{{{label}}}}}" for label in labels) or "all")])


def _quantiles(title: str, metric: str, *labels: str) -> Panel:
    """Return a panel with the median and the 99th percentile of a histogram, by labels."""
    by = ", ".join(("le", *labels))
    legend = "".join(f" {{{{{label}}}}}" for label in labels)
    queries = [
        (f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket[5m])))", name + legend)
        for share, name in ((0.5, "p50"), (0.99, "p99"))
    ]
    return Panel(title, "s", queries)


def _of_service(query: str, service: str) -> str:
    """Return what a query has of the processes of one service."""
    return f'{query} and on (instance) interlink_build_info{{service="{service}"}}'


def _process_panels(service: str) -> list[Panel]:
    """Return the panels that every service has."""
    return [
        Panel(
            "Processes",
            "short",
            [(f'count by (version) (interlink_build_info{{service="{service}"}})', "{{version}}")],
        ),
        Panel("CPU", "none", [(_of_service("rate(process_cpu_seconds_total[5m])", service), "{{instance}}")]),
        Panel("Memory", "bytes", [(_of_service("process_resident_memory_bytes", service), "{{instance}}")]),
        Panel("Open files", "short", [(_of_service("process_open_fds", service), "{{instance}}")]),
        Panel(
            "Kafka or MongoDB does not answer",
            "none",
            [
                (_of_service("interlink_broker_unavailable", service), "Kafka {{instance}}"),
                (_of_service("interlink_configuration_unchecked", service), "MongoDB {{instance}}"),
            ],
        ),
    ]


def _group_panels(service: str) -> list[Panel]:
    """Return the panels of a service's consumer groups."""
    groups = f'{{group=~"{service}-.*"}}'
    return [
        Panel(
            "Lag",
            "short",
            [(f"max by (group, topic) (interlink_consumer_lag{groups})", "{{group}} {{topic}}")],
        ),
        _rate("Handled", f"interlink_handled_total{groups}", "group", "topic"),
        _rate("Batches tried again", f"interlink_batch_retries_total{groups}", "group"),
        _rate("Dead letters", f"interlink_dead_lettered_total{groups}", "group", "reason"),
    ]


_OVERVIEW: Final = (
    Panel("Alerts", "none", [('ALERTS{alertname=~"Interlink.*",alertstate="firing"}', "{{alertname}}")]),
    Panel("Processes", "short", [("count by (service) (interlink_build_info)", "{{service}}")]),
    Panel(
        "Kafka or MongoDB does not answer",
        "none",
        [
            ("sum(interlink_broker_unavailable)", "processes without Kafka"),
            ("sum(interlink_configuration_unchecked)", "processes without MongoDB"),
        ],
    ),
    Panel(
        "503 to authentic webhooks",
        "percentunit",
        [
            ("interlink:acceptance_errors:ratio_rate5m", "5 minutes"),
            ("interlink:acceptance_errors:ratio_rate6h", "6 hours"),
            ("interlink:acceptance_errors:ratio_rate3d", "3 days"),
        ],
    ),
    Panel(
        "Late first attempts",
        "percentunit",
        [
            ("interlink:late_first_attempts:ratio_rate5m", "5 minutes"),
            ("interlink:late_first_attempts:ratio_rate6h", "6 hours"),
            ("interlink:late_first_attempts:ratio_rate3d", "3 days"),
        ],
    ),
    Panel("Oldest due delivery", "s", [("max(interlink_oldest_due_seconds)", "oldest")]),
    _rate("Webhooks in", "interlink_requests_total", "outcome"),
    Panel("Clock ahead by", "s", [("max(abs(interlink_clock_difference_seconds))", "most")]),
    _rate("Attempts out", "interlink_deliveries_total", "outcome"),
    Panel("Lag", "short", [("interlink:consumer_lag:max", "{{group}} {{topic}}")]),
    _rate("Dead letters", "interlink_dead_lettered_total", "group", "reason"),
    _rate("Accounts that failed", "interlink_accounts_failed_total", "provider", "status"),
    Panel(
        "Who uses most",
        "ops",
        [
            (
                f"topk(10, sum by (workspace) (rate({_RANKED}[5m])))",
                "{{workspace}}",
            )
        ],
    ),
)
_OWN: Final[dict[str, tuple[Panel, ...]]] = {
    "gateway": (
        _rate("Requests by outcome", "interlink_requests_total", "outcome"),
        _rate("Requests by route", "interlink_requests_total", "route"),
        _rate("Refused over a quota", "interlink_quota_refusals_total", "quota"),
        _rate("Wrong signatures", "interlink_signature_failures_total", "provider", "reason"),
        _quantiles("Acknowledgement by Kafka", "interlink_produce_seconds", "topic"),
        _rate("Not acknowledged", "interlink_produce_failures_total", "topic"),
        _rate("Events of accounts that nobody connected", "interlink_unconnected_events_total", "provider"),
        _rate("Executions not stored", "interlink_executions_dropped_total"),
    ),
    "delivery": (
        _rate("Attempts by state after them", "interlink_deliveries_total", "outcome"),
        _quantiles("Attempt", "interlink_attempt_seconds"),
        _rate("First attempts", "interlink_first_attempts_total", "outcome"),
        Panel("Oldest due delivery", "s", [("interlink_oldest_due_seconds", "{{instance}}")]),
        _quantiles("Age of events at the first attempt", "interlink_event_age_seconds"),
        Panel("In flight", "short", [("sum(interlink_attempts_in_flight)", "attempts")]),
        Panel(
            "Results that MongoDB has not acknowledged",
            "short",
            [("sum(interlink_results_unacknowledged)", "results and leases")],
        ),
        _rate("Events without a delivery", "interlink_unmatched_events_total", "reason"),
        _rate("Events beyond the fair share", "interlink_deferred_events_total"),
        _rate("Requests without the topic", "interlink_direct_requests_total"),
        Panel("Unreadable webhooks", "short", [("max(interlink_webhooks_unreadable)", "webhooks")]),
    ),
    "sync": (
        _rate("Webhook events by outcome", "interlink_relayed_total", "outcome"),
        _rate("Sent", "interlink_sync_sent_total", "provider"),
        _rate("Given up", "interlink_sync_failed_total", "provider"),
        _rate("Perhaps sent", "interlink_sync_unknown_total", "provider"),
        _rate("Answers 429", "interlink_sync_rate_limited_total", "provider"),
        _rate("Waits", "interlink_sync_waits_total", "provider", "reason"),
        _quantiles("Age at the target", "interlink_sync_age_seconds", "provider"),
        _rate("Own changes that came back", "interlink_sync_echoes_total"),
    ),
    "oauth": (
        _rate("Callbacks", "interlink_connections_total", "provider", "outcome"),
        _rate("Token refreshes", "interlink_token_refreshes_total", "provider", "outcome"),
        _rate("Accounts that failed", "interlink_accounts_failed_total", "provider", "status"),
        _rate("Calls with accounts", "interlink_account_calls_total", "provider", "outcome"),
        _rate("Polls", "interlink_polls_total", "provider", "outcome"),
        _rate("Provider subscriptions", "interlink_watches_total", "provider", "outcome"),
        Panel(
            "Age of the encryption key",
            "s",
            [("time() - interlink_encryption_key_first_used_timestamp_seconds", "{{instance}}")],
        ),
        Panel(
            "Certificates end in",
            "s",
            [("min by (setting) (interlink_certificate_expiry_timestamp_seconds) - time()", "{{setting}}")],
        ),
    ),
    "importer": (),
    "console": (),
}
_USE: Final = 'interlink_workspace_usage_total{workspace=~"$workspace"'
_ALL_USE: Final = "sum by (kind) (rate(interlink_workspace_usage_total[5m]))"
_WORKSPACE: Final = (
    *(
        _rate(title, f'{_USE},kind="{kind}"}}', "workspace")
        for title, kind in (
            ("Requests with events", "request"),
            ("Events in", "event"),
            ("Delivery attempts", "attempt"),
            ("Messages sent", "message"),
            ("Calls with accounts", "account_call"),
            ("Refused over a quota", "refusal"),
        )
    ),
    Panel(
        "Stored",
        "Bps",
        [(f'sum by (workspace) (rate({_USE},kind="stored_byte"}}[5m]))', "{{workspace}}")],
    ),
    Panel(
        "In a day",
        "short",
        [(f'sum by (kind) (increase({_USE},kind!="stored_byte"}}[1d]))', "{{kind}}")],
    ),
    Panel(
        "Share of all",
        "percentunit",
        [(f"sum by (kind) (rate({_USE}}}[5m])) / {_ALL_USE}", "{{kind}}")],
    ),
)


def dashboards() -> dict[str, Json]:
    """Return every dashboard by its name."""
    found = {"overview": _dashboard("overview", "Interlink", _OVERVIEW)}
    for service in SERVICES:
        groups = [] if service in ("gateway", "console") else _group_panels(service)
        panels = [*_OWN[service], *groups, *_process_panels(service)]
        found[service] = _dashboard(service, f"Interlink: {service}", panels)
    workspace = {
        "name": "workspace",
        "label": "Workspace",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": "label_values(interlink_workspace_usage_total, workspace)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "sort": 1,
    }
    found["workspace"] = _dashboard("workspace", "Interlink: workspaces", _WORKSPACE, workspace)
    return found


def dashboard_text(dashboard: Json) -> str:
    """Return a dashboard as the file that Grafana imports."""
    return json.dumps(dashboard, indent=1) + "\n"


def queries(dashboard: Json) -> Iterator[str]:
    """Yield the expressions of a dashboard."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def runbook_queries(page: str) -> list[str]:
    """Return the expressions of a runbook, from its blocks of PromQL."""
    return [block.strip() for block in _PROMQL.findall(page)]


def _dashboard(name: str, title: str, panels: Sequence[Panel], *variables: Json) -> Json:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"interlink-{name}",
        "title": title,
        "tags": ["interlink"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source, *variables]},
        "links": [
            {
                "title": "Interlink",
                "type": "dashboards",
                "tags": ["interlink"],
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> Json:
    row, column = divmod(number, _PER_ROW)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _WIDTH, "w": _WIDTH, "h": _WIDTH},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": expression,
                "legendFormat": legend,
                "datasource": _DATASOURCE,
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }
