"""The settings of the sync service."""

from pydantic import Field

from shared.runtime.settings import EgressSettings


class SyncSettings(EgressSettings):
    """The `INTERLINK_*` environment variables that only the sync service reads."""

    mappings_per_workspace: int = Field(
        default=1_000, ge=1, le=10_000, description="The maximum number of mappings of one workspace."
    )
    people_links_per_workspace: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="The maximum number of links between persons and users of one workspace.",
    )
