"""How long delivery keeps its records."""

from collections.abc import Sequence
from datetime import timedelta

from services.delivery.log import statistics, unmatched
from services.delivery.settings import DeliverySettings
from shared.runtime.jobs import JOB_TTL
from shared.runtime.web.retention import Retention


def retentions(settings: DeliverySettings) -> Sequence[Retention]:
    """Return what delivery keeps, and for how long."""
    delivered = timedelta(days=settings.delivered_days)
    dead_letters = timedelta(days=settings.dead_letter_days)
    return (
        Retention("Successful deliveries", delivered, "delivered_days", since="finished"),
        Retention("Dead letters, cancelled deliveries", dead_letters, "dead_letter_days", since="finished"),
        Retention("Hourly statistics of attempts", timedelta(days=statistics.RETENTION_DAYS)),
        Retention("Events without a delivery", unmatched.RETENTION),
        Retention("Jobs", JOB_TTL, since="finished"),
    )
