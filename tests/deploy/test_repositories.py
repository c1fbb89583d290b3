"""Documents of MongoDB stay behind repositories: only these, and `shared/runtime`, handle them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER_NAMES = {"Document", "Collection"}
WITHOUT_INDEXES = {
    "interlink/doctor.py": "checks indexes and write access",
    "interlink/keys.py": "seals the secrets of every collection again",
    "services/delivery/log/delivery_ids.py": "reads ranges of delivery ids; indexes in deliveries.py",
    "services/delivery/log/delivery_changes.py": "changes of many deliveries; indexes in deliveries.py",
    "services/delivery/log/due_deliveries.py": "claims of due deliveries; indexes in deliveries.py",
    "services/delivery/log/key_search.py": "searches of the log's keys; indexes in deliveries.py",
    "services/delivery/log/log_slices.py": "slices of time for searches of the log; indexes in deliveries.py",
    "services/delivery/log/search.py": "searches of the log; indexes in deliveries.py",
    "services/gateway/ingest/quotas.py": "quotas in memory; indexes in shared/runtime/workspaces.py",
    "services/importer/store/chat_directory.py": "mappings and links of sync; indexes in the sync service",
    "services/importer/jobs/imports.py": "the states of imports; indexes in import_job.py",
    "services/sync/endpoint_messages.py": "descriptions of senders in memory; indexes in endpoint_records.py",
    "services/sync/store/queue_counts.py": "counts of waiting changes; indexes in queue.py",
    "services/sync/store/mapping_index.py": "mappings in memory; indexes in mappings.py",
    "shared/connections/channel_accounts.py": "accounts of subscriptions; indexes in the oauth service",
    "shared/connections/account_routes.py": "routes of accounts in memory; indexes in integration_record.py",
    "shared/connections/integrations.py": "the repository of integrations; indexes in integration_record.py",
}
"""Modules that handle documents without declaring indexes, with the reason."""


def handles_documents(text: str) -> bool:
    """Return whether a module imports the types of documents and collections, or uses a collection."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module="shared.runtime.mongo", names=names):
                if DRIVER_NAMES & {name.name for name in names}:
                    return True
            case ast.ImportFrom(module="shared.runtime", names=names):
                if "mongo" in {name.name for name in names}:
                    return True
            case ast.Import(names=names):
                if "shared.runtime.mongo" in {name.name for name in names}:
                    return True
            case ast.Attribute(attr="collection"):
                return True
    return False


def declares_indexes(text: str) -> bool:
    """Return whether a module assigns `INDEXES`."""
    return any(
        isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "INDEXES"
        for node in ast.parse(text).body
    )


def test_only_repositories_handle_documents() -> None:
    found = {
        path
        for root in ("services", "shared", "interlink")
        for file in (ROOT / root).rglob("*.py")
        if not (path := file.relative_to(ROOT).as_posix()).startswith("shared/runtime/")
        if "collection" in (text := file.read_text("utf-8")) or "mongo" in text  # parsing takes long
        if handles_documents(text) and not declares_indexes(text)
    }
    assert found == set(WITHOUT_INDEXES), "put queries into the repository of the collection"


@pytest.mark.parametrize(
    "code",
    [
        "from shared.runtime.mongo import Document",
        "from shared.runtime.mongo import Collection, Mongo",
        "from shared.runtime import mongo",
        "import shared.runtime.mongo",
        "things = mongo.collection('things')",
        "await lifecycle.collection.find_one({})",
    ],
)
def test_a_module_handles_documents(code: str) -> None:
    assert handles_documents(code)


@pytest.mark.parametrize(
    "code", ["from shared.runtime.mongo import Duplicate, Mongo", "from collections.abc import Collection"]
)
def test_a_module_does_not_handle_documents(code: str) -> None:
    assert not handles_documents(code)
