"""A record reads what other releases wrote, and writes the stored names."""

from datetime import UTC, datetime

import pytest
from pydantic import Field

from shared.contracts.errors import Misconfigured
from shared.runtime.records import Record, StoredPart, stored_null

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Person(StoredPart):
    label: str
    avatar_url: str | None = None


class Account(Record):
    workspace: str
    created_at: datetime
    has_pending_events: bool = Field(default=False, alias="untold")
    owner: Person | None = None
    lease: str | None = stored_null()
    scopes: tuple[str, ...] = ()


DOCUMENT = {
    "_id": "int_1",
    "workspace": "ws_1",
    "created_at": NOW,
    "untold": True,
    "owner": {"label": "Ada"},
    "lease": None,
    "scopes": ["read"],
}


def test_a_record_is_stored_as_it_was_read() -> None:
    assert Account.from_document(DOCUMENT).document() == DOCUMENT


def test_fields_of_a_newer_release_are_ignored() -> None:
    newer = DOCUMENT | {"colour": "green", "owner": {"label": "Ada", "age": 36}}
    assert Account.from_document(newer) == Account.from_document(DOCUMENT)


def test_fields_that_an_older_release_did_not_write_have_their_defaults() -> None:
    account = Account.from_document({"_id": "int_1", "workspace": "ws_1", "created_at": NOW})
    assert (account.has_pending_events, account.owner, account.lease, account.scopes) == (
        False,
        None,
        None,
        (),
    )


def test_a_field_without_a_value_is_stored_as_null_only_where_it_has_to_be() -> None:
    account = Account(id="int_1", workspace="ws_1", created_at=NOW)
    assert account.document() == {
        "_id": "int_1",
        "workspace": "ws_1",
        "created_at": NOW,
        "untold": False,
        "lease": None,
        "scopes": [],
    }


def test_changes_have_the_stored_names() -> None:
    changes = {"has_pending_events": False, "owner": Person(label="Bob")}
    assert Account.stored_fields(changes) == {"untold": False, "owner": {"label": "Bob"}}
    with pytest.raises(KeyError):
        Account.stored_fields({"unknown": 1})


def test_a_broken_document_is_named_without_its_values() -> None:
    with pytest.raises(Misconfigured, match=r"stored Account 'int_1' .*workspace: .*created_at: ") as caught:
        Account.from_document({"_id": "int_1", "created_at": "secret", "workspace": 5})
    assert "secret" not in str(caught.value)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Account.from_document(DOCUMENT).workspace = "ws_2"  # type: ignore[misc]
