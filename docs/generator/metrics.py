"""The page of the metrics, from the metrics themselves."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY

from docs.generator.alerts import alerts_by_metric
from docs.generator.markdown import table
from shared.runtime import metrics

_PREFIX: Final = "interlink_"
_INTRODUCTION: Final = """\
# Metrics

Generated from the metrics themselves. Every service answers them at `/metrics`, for Prometheus. A counter's
name ends in `_total`; a histogram has `_bucket`, `_sum` and `_count`, in seconds. The alerts are those of
[the rules](../how-to/monitor.md).

Of `interlink_workspace_usage_total`, each process has the 50 workspaces by name that use most, compared every
five minutes, and all others together as `other`: a label for each of any number of workspaces has no bound.
The sum over processes and workers has all of a workspace's use only while each of them has it by name.
"""


def metrics_page() -> str:
    """Return the page: every metric of the hub with its type, its labels, its meaning and its alerts."""
    head = ("metric", "type", "labels", "meaning", "alerts")
    return f"{_INTRODUCTION}\n{table(head, sorted(_rows()))}"


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    alerts = alerts_by_metric()
    labels = {
        # Private names: the client has no public way to ask for them.
        metric._name: metric._labelnames
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    for family in REGISTRY.collect():
        if family.name.startswith(_PREFIX):
            suffix = "_total" if family.type == "counter" else ""
            names = labels.get(family.name) or getattr(family, "_labelnames", None) or ()
            name = f"{family.name}{suffix}"
            used_by = ", ".join(f"[{alert.name}](../{alert.runbook})" for alert in alerts.get(name, ()))
            listed = ", ".join(f"`{label}`" for label in names)
            yield f"`{name}`", family.type, listed, family.documentation, used_by
