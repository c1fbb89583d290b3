"""List the retention of the records of the importer."""

from collections.abc import Sequence
from datetime import timedelta

from services.importer.settings import ImporterSettings
from shared.runtime.jobs import JOB_TTL
from shared.runtime.web.retention import Retention


def retentions(settings: ImporterSettings) -> Sequence[Retention]:
    """Return the retention of each kind of records, as the settings say."""
    files = timedelta(days=settings.import_file_days)
    return (
        Retention("Uploads", timedelta(days=settings.upload_days), "upload_days", since="created"),
        Retention("Imports and their reports", JOB_TTL, since="finished"),
        Retention("Files of imports", files, "import_file_days", since="imported"),
    )
