"""The published documents: what callers were promised changes only on purpose.

`openapi.json` and `asyncapi.json` beside this module are the documents of the last accepted change, without
their texts. `names.json` has the names that others configure, watch or own: consumer groups, metrics with
their labels, settings and collections. After a change that is meant: announce it in CHANGELOG.md, and run
these tests once with `WRITE_PUBLISHED=1`.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from docs.generator.metrics import metrics_page
from interlink.prepare import indexes
from interlink.settings import render_page
from shared.contracts.routes import SERVICE_PATHS
from tests.support.backends import Bus, Store
from tests.support.hub import SERVICES, Hub
from tests.support.second_process import second_process

HERE = Path(__file__).parent
TEXTS = frozenset({"title", "description", "summary"})
"""Parts of a document that promise nothing."""


@pytest.fixture(scope="module")
def entrance(hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    peers = json.dumps({name: hub.url(name) for name in SERVICE_PATHS})
    folder = tmp_path_factory.mktemp("entrance")
    with second_process("gateway", hub, folder, bus, store, INTERLINK_PEERS=peers) as gateway:
        yield gateway


def _promised(value: Any, *, of_names: bool = False) -> Any:
    """Return a document without its texts. `of_names`: its keys are names of fields, not keywords."""
    if isinstance(value, list):
        return [_promised(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _promised(item, of_names=not of_names and name == "properties")
        for name, item in value.items()
        if of_names or name not in TEXTS
    }


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            place = f"{path}/{name}"
            if name not in after:
                yield f"{place} is gone"
            elif name not in before:
                yield f"{place} is new"
            else:
                yield from _differences(before[name], after[name], place)
    elif before != after:
        yield f"{path} was {json.dumps(before)[:100]}, is {json.dumps(after)[:100]}"


def _check(name: str, promised: Any) -> None:
    path = HERE / f"{name}.json"
    if os.environ.get("WRITE_PUBLISHED"):
        path.write_text(json.dumps(promised, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    published = json.loads(path.read_text(encoding="utf-8"))
    assert not list(_differences(published, promised))


@pytest.mark.parametrize("name", ["openapi", "asyncapi"])
def test_no_document_changes_unannounced(entrance: Hub, name: str) -> None:
    document = httpx.get(f"{entrance.url('gateway')}/api/{name}.json", timeout=60).raise_for_status().json()
    document["info"].pop("version", None)
    document.pop("servers", None)
    _check(name, _promised(document))


def test_no_name_changes_unannounced() -> None:
    groups = [
        f"{service}-{group}"
        for service in SERVICES
        for group in re.findall(r'group="([a-z]+)"', Path(f"services/{service}/app.py").read_text("utf-8"))
    ]
    metrics = re.findall(r"^\| `(interlink_\w+)` \| \w+ \| (.*?) \|", metrics_page(), re.MULTILINE)
    settings = re.findall(r"^\| `(\w+)` \|", render_page(SERVICES), re.MULTILINE)
    names = {
        "collections": sorted({name for owner in indexes(SERVICES) for name in owner}),
        "consumer groups": sorted(groups),
        "metrics": dict(metrics),
        "settings": sorted(set(settings)),
    }
    assert all(names.values())
    _check("names", names)
