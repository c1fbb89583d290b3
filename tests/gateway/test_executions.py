"""Executions in process, over the real store: what is kept of a flood, and of a store that was away."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from secrets import token_hex
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from services.gateway.ingest.endpoint_records import COLLECTION as ENDPOINTS
from services.gateway.ingest.endpoint_records import EndpointRepository
from services.gateway.ingest.execution_records import COLLECTION as EXECUTIONS
from services.gateway.ingest.execution_records import ExecutionRepository
from services.gateway.ingest.executions import Execution, ExecutionEvent, Executions
from services.gateway.ingest.rate_limit import TokenBucket
from services.gateway.settings import GatewaySettings
from shared.runtime.hourly_counts import COLLECTION as HOURS
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.fixture
async def mongo(store: Store) -> AsyncIterator[Mongo]:
    opened = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    yield opened
    opened.close()


@pytest.fixture
def executions(mongo: Mongo) -> Executions:
    return _executions(mongo)


def _executions(mongo: Mongo) -> Executions:
    endpoints, log = EndpointRepository(mongo, GatewaySettings()), configure("test", "error")
    hours = HourlyCounts(mongo, log)
    return Executions(ExecutionRepository(mongo), endpoints, hours, log, retention_days=7)


async def _endpoint(mongo: Mongo) -> Any:
    name = f"ep_{token_hex(8)}"
    await mongo.collection(ENDPOINTS).insert_one({"_id": name})
    return SimpleNamespace(
        id=name, workspace="default", recorded_rejections=TokenBucket(60), keys=(), valid_keys=list
    )


def _note(executions: Executions, endpoint: Any, *, refused: bool = False, outcome: str = "") -> None:
    seen = [] if refused else [ExecutionEvent("push", "", ())]
    outcome = outcome or ("signature" if refused else "accepted")
    if executions.count(endpoint, outcome, len(seen), 0.002, rejected=refused, authenticated=True):
        status = 401 if refused else 202
        executions.add(Execution(endpoint, NOW, outcome, status, refused, 0.001, events=seen))


async def test_a_flood_is_counted_completely_and_stored_in_part(mongo: Mongo, executions: Executions) -> None:
    loud, quiet = await _endpoint(mongo), await _endpoint(mongo)
    for _ in range(1000):
        _note(executions, loud)
        _note(executions, loud, refused=True)
    _note(executions, quiet)
    _note(executions, quiet, refused=True, outcome="bus_unavailable")
    await executions.flush()
    counted = {item["_id"]: item async for item in mongo.collection(ENDPOINTS).find({})}
    assert counted[loud.id]["trigger_count"] == counted[loud.id]["error_count"] == 1000
    assert counted[loud.id]["error_streak"] == 1
    assert counted[quiet.id]["trigger_count"] == 1
    assert "error_count" not in counted[quiet.id]
    stored = [item async for item in mongo.collection(EXECUTIONS).find({"endpoint_id": loud.id})]
    assert sum(item["status"] == 202 for item in stored) == 100
    assert sum(item["status"] == 401 for item in stored) == 60
    assert await mongo.collection(EXECUTIONS).count_documents({"endpoint_id": quiet.id}) == 1
    await executions._hours.flush()
    by_hour = {item["kind"]: item["counts"] async for item in mongo.collection(HOURS).find({})}
    assert by_hour["requests_accepted"] == {loud.id: 1000, quiet.id: 1}
    assert by_hour["requests_refused"] == {loud.id: 1000}
    assert by_hour["requests_limited"] == {quiet.id: 1}
    assert by_hour["requests_ms"] == {loud.id: 4000, quiet.id: 2}


async def test_counts_outlive_a_store_that_is_away(mongo: Mongo) -> None:
    nowhere = Mongo(MongoSettings(uri=SecretStr("mongodb://127.0.0.1:9/x"), timeout_ms=200), app="test")
    executions = _executions(nowhere)
    endpoint = await _endpoint(mongo)
    _note(executions, endpoint)
    _note(executions, endpoint, refused=True)
    await executions.flush()
    _note(executions, endpoint, refused=True)
    await executions.flush()
    nowhere.close()
    repeat = _executions(mongo)
    repeat._counts = executions._counts
    await repeat.flush()
    counted = await mongo.collection(ENDPOINTS).find_one({"_id": endpoint.id})
    assert counted
    assert (counted["trigger_count"], counted["error_count"], counted["error_streak"]) == (1, 2, 2)
    assert abs((datetime.now(UTC) - counted["last_triggered"]).total_seconds()) < 60
