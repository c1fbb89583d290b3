"""What the repository of integrations writes: the fields that were given, by the names that are stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from bson import json_util
from pydantic import SecretStr
from pymongo import MongoClient

from services.oauth.authorization.state_record import StoredState
from shared.connections.integration_record import COLLECTION, Account, Integration, SelectedResource
from shared.connections.integrations import IntegrationRepository
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.mongo import Document, Mongo
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

NOW = utcnow()
EARLIER = sorted((Path(__file__).parents[1] / "upgrade").glob("records-*.json"))
UNFINISHED: Document = {
    "_id": "int_1",
    "workspace": "ws_1",
    "provider": "oidc",
    "kind": "oauth2",
    "name": "",
    "status": "pending",
    "account": None,
    "created_at": NOW,
    "changed_at": NOW,
    "deleted_at": None,
    "version": 0,
    "fence": 0,
    "settled_fence": 0,
    "open": True,
    "due_at": NOW,
}


class Stored:
    """The repository, and its collection as it is."""

    def __init__(self, uri: str) -> None:
        log, nobody = structlog.get_logger(), cast("Producer", None)
        self.mongo = Mongo(MongoSettings(uri=SecretStr(uri)), app="test")
        vault = Vault(LocalKeyProvider([b"k" * 32]))
        self.integrations = IntegrationRepository(self.mongo, vault, nobody, log)
        self.client: MongoClient[Document] = MongoClient(uri, tz_aware=True)

    def document(self) -> Document:
        return dict(self.client.get_default_database()[COLLECTION].find_one({"_id": "int_1"}) or {})

    def put(self, document: Document) -> Integration:
        self.client.get_default_database()[COLLECTION].insert_one(dict(document))
        return Integration.from_document(document)


@pytest.fixture
def stored(store: Store) -> Iterator[Stored]:
    made = Stored(store.uri())
    yield made
    made.mongo.close()
    made.client.close()


async def test_a_new_integration_has_the_fields_that_were_given_and_no_others(stored: Stored) -> None:
    await stored.integrations.add(Integration.from_document(UNFINISHED))
    assert stored.document() == UNFINISHED


async def test_a_change_writes_single_fields_by_their_stored_names(stored: Stored) -> None:
    before = stored.put(UNFINISHED | {"field_of_a_later_release": 1})
    account = Account(
        id="ada", label="Ada", attributes={"site": "s1"}, resource=SelectedResource(id="s1", label="One")
    )
    changed = await stored.integrations.change(
        before,
        condition={"status": frozenset(("pending", "error"))},
        account=account,
        needs_maintenance=False,
        is_partially_refreshed=True,
        rejected_app_revision=None,
        app=("ws_1", "client"),
    )
    assert changed is not None
    assert changed.account == account
    document = stored.document()
    assert document.pop("changed_at") >= NOW
    written: dict[str, Any] = {
        "account": {
            "id": "ada",
            "label": "Ada",
            "url": "",
            "kept": {"site": "s1"},
            "choice": {"id": "s1", "label": "One"},
        },
        "open": False,
        "halfway": True,
        "refused_app": None,
        "app": ["ws_1", "client"],
        "field_of_a_later_release": 1,
    }
    expected = UNFINISHED | written
    del expected["changed_at"]
    assert document == expected


@pytest.mark.parametrize(
    "other", [{"status": "connected"}, {"fence": 1}, {"version": 1}, {"deleted_at": NOW}]
)
async def test_a_change_of_what_another_process_changed_does_nothing(stored: Stored, other: Document) -> None:
    before = Integration.from_document(UNFINISHED)
    stored.put(UNFINISHED | other)
    condition = {"status": "pending", "fence": 0}
    assert await stored.integrations.change(before, condition=condition, name="Mine") is None
    assert stored.document() == UNFINISHED | other


async def test_a_misspelt_field_is_an_error(stored: Stored) -> None:
    before = stored.put(UNFINISHED)
    with pytest.raises(KeyError, match="retry_in"):
        await stored.integrations.change(before, retry_in=None)
    with pytest.raises(KeyError, match="fench"):
        await stored.integrations.change(before, condition={"fench": 0}, name="Mine")
    assert stored.document() == UNFINISHED


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_documents_of_earlier_releases_are_stored_as_they_were_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    records = json_util.loads(text, json_options=json_util.JSONOptions(tz_aware=True))["records"]
    assert records["integrations"]
    for document in records["integrations"]:
        integration = Integration.from_document(document)
        fields = {name: getattr(integration, name) for name in integration.model_fields_set}
        assert Integration.stored_fields(fields) == document
    states = [document for document in records["oauth_states"] if "sealed" in document]
    assert states
    for document in states:
        assert StoredState.from_document(document).document() == document


def test_what_an_earlier_release_stored_for_a_pending_selection_is_due_then() -> None:
    """It had one time for both: when the selection ends, and when maintenance is due after it."""
    earlier = Integration.from_document(UNFINISHED)
    assert earlier.due_after_selection == NOW
    assert Integration.from_document(UNFINISHED | {"due_once_chosen": None}).due_after_selection is None


async def test_an_account_is_found_by_each_of_its_ids(stored: Stored) -> None:
    account = {"id": "T1", "label": "team", "person": "U1", "choice": {"id": "site-1", "label": "site"}}
    other = {"id": "T2", "label": "another", "person": "U2"}
    for number, (workspace, of) in enumerate((("ws_1", account), ("ws_1", other), ("ws_2", account))):
        stored.put({**UNFINISHED, "_id": f"int_{number}", "workspace": workspace, "account": of})
    stored.put({**UNFINISHED, "_id": "int_gone", "account": account, "deleted_at": NOW})
    for account_id in ("T1", "site-1", "U1"):
        found = await stored.integrations.with_account_id("ws_1", account_id, limit=5)
        assert [item.id for item in found] == ["int_0"], account_id
    assert await stored.integrations.with_account_id("ws_2", "T2", limit=5) == []
