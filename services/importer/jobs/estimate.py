"""Estimate the remaining time of an import, in seconds and in words."""

from typing import Final

from services.importer.jobs.import_job import ImportJob

_UNITS: Final = ((86_400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


def remaining_s(job: ImportJob) -> int | None:
    """Return the seconds that a running import still takes; None if unknown.

    With a connected account, its rate limit decides; else the pace until now.
    """
    if job.state != "running" or not job.total:
        return None
    if job.walk is not None:
        estimated_s = job.walk.estimated_s(job.total)
        return None if estimated_s is None else round(estimated_s)
    return job.estimated_s


def in_words(seconds: float | None) -> str | None:
    """Return a time as people say it: "about 3 days"."""
    if seconds is None:
        return None
    for length_s, name in _UNITS:
        if seconds >= length_s:
            number = round(seconds / length_s)
            return f"about {number} {name}{'' if number == 1 else 's'}"
    return "less than a minute"
