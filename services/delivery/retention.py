"""List the retention of the records of delivery."""

from collections.abc import Sequence
from datetime import timedelta

from services.delivery.log import statistics, unmatched
from services.delivery.settings import DeliverySettings
from shared.runtime.jobs import JOB_TTL
from shared.runtime.web.retention import Retention


def retentions(settings: DeliverySettings) -> Sequence[Retention]:
    """Return the retention of each kind of records, as the settings say."""
    delivered = timedelta(days=settings.delivered_days)
    dead_letters = timedelta(days=settings.dead_letter_days)
    return (
        Retention("Successful deliveries", delivered, "delivered_days", since="finished"),
        Retention("Dead letters, cancelled deliveries", dead_letters, "dead_letter_days", since="finished"),
        Retention("Hourly statistics of attempts", timedelta(days=statistics.RETENTION_DAYS)),
        Retention("Events without a delivery", unmatched.RETENTION),
        Retention("Jobs", JOB_TTL, since="finished"),
    )
