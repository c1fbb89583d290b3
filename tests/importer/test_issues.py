"""The list of an import's issues: complete, in order, and page by page also where positions have gaps."""

import pytest

from services.importer.store.issues import IssueRecord, Issues
from shared.contracts.errors import Malformed
from shared.runtime.mongo import Mongo
from tests.importer.import_places import run_with
from tests.support.backends import Store


def test_issues_are_listed_in_order_page_by_page(store: Store) -> None:
    positions = [*range(30), *range(200, 230), 9_999]

    async def test(mongo: Mongo) -> None:
        issues = Issues(mongo)
        await issues.store(
            [
                IssueRecord(
                    id=f"imp_1:{position}", import_id="imp_1", workspace="w", place=str(position),
                    reason="no time", position=position,
                )
                for position in reversed(positions)
            ]
        )  # fmt: skip
        for limit in (1, 7, 50, 500):
            seen: list[int] = []
            cursor = None
            while True:
                found = await issues.page("imp_1", listed=10_000, limit=limit, cursor=cursor)
                assert len(found.items) <= limit
                seen += [item.position for item in found.items]
                if (cursor := found.next_cursor) is None:
                    break
            assert seen == positions, limit
        assert (await issues.page("imp_2", listed=0, limit=50, cursor=None)).items == []
        with pytest.raises(Malformed, match="next_cursor"):
            await issues.page("imp_1", listed=10_000, limit=50, cursor="imp_1:7")

    run_with(store, test)
