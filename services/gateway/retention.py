"""List the retention of the records of the gateway."""

from collections.abc import Sequence
from datetime import timedelta

from services.gateway.ingest.executions import REJECTED_RETENTION_DAYS
from services.gateway.settings import GatewaySettings
from shared.runtime import daily_usage, hourly_counts
from shared.runtime.settings import HubSettings
from shared.runtime.web.retention import Retention


def retentions(settings: GatewaySettings, hub: HubSettings) -> Sequence[Retention]:
    """Return the retention of each kind of records, as the settings say."""
    executions = timedelta(days=settings.executions_days)
    rejected = min(executions, timedelta(days=REJECTED_RETENTION_DAYS))
    return (
        Retention("Executions", executions, "executions_days"),
        Retention("Executions of rejected requests", rejected),
        Retention("Hourly counts of events", timedelta(days=hourly_counts.RETENTION_DAYS)),
        Retention("Daily counts of use", timedelta(days=daily_usage.RETENTION_DAYS)),
        Retention("Audit entries", timedelta(days=hub.audit_days), "audit_days"),
    )
