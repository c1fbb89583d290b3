"""The page of the metrics, from the metrics themselves."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY

from docs.generator.markdown import table
from shared.runtime import metrics

_PREFIX: Final = "interlink_"
_INTRODUCTION: Final = """\
# Metrics

Generated from the metrics themselves. Every service answers them at `/metrics`, for Prometheus. A counter's
name ends in `_total`; a histogram has `_bucket`, `_sum` and `_count`, in seconds.
"""


def metrics_page() -> str:
    """Return the page: every metric of the hub with its type, its labels and its meaning."""
    return f"{_INTRODUCTION}\n{table(('metric', 'type', 'labels', 'meaning'), sorted(_rows()))}"


def _rows() -> Iterator[tuple[str, str, str, str]]:
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
            meaning = family.documentation
            yield f"`{family.name}{suffix}`", family.type, ", ".join(f"`{name}`" for name in names), meaning
