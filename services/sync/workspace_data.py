"""The part of a deletion that is sync's: mappings and person links."""

from services.sync.store.mappings import MappingRepository
from services.sync.store.people_links import PersonLinkRepository


class SyncData:
    """Deletes what sync stores of a workspace."""

    def __init__(self, mappings: MappingRepository, links: PersonLinkRepository) -> None:
        self._mappings = mappings
        self._links = links

    async def delete(self, workspace: str) -> None:
        """Delete the mappings, so that nothing is forwarded any more, then the links. Safe to repeat."""
        await self._mappings.delete_all(workspace)
        await self._links.delete_all(workspace)
