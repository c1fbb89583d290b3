"""List the retention of the records of sync."""

from collections.abc import Sequence
from datetime import timedelta

from services.sync.model import conflict
from services.sync.settings import SyncSettings
from services.sync.store import messages, queue
from shared.runtime.web.retention import Retention


def retentions(settings: SyncSettings) -> Sequence[Retention]:
    """Return the retention of each kind of records, as the settings say."""
    addresses = timedelta(days=settings.file_address_days)
    return (
        Retention("Messages, their traces and the links of their ids", messages.RETENTION),
        Retention("Failed changes of messages, for a retry", queue.RETENTION, since="failed"),
        Retention("Conflicts", conflict.RETENTION),
        Retention("Addresses of providers' files", addresses, "file_address_days", since="made"),
    )
