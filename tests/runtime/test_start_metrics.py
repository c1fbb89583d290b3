"""The age of keys and certificates, as a process that starts finds them."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex

from prometheus_client import REGISTRY

from shared.runtime.encryption_keys import first_used_at
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from shared.runtime.start_metrics import watch_authorities, watch_chain
from tests.support.backends import Store
from tests.support.certificates import Authority


async def test_processes_that_start_together_agree_on_the_first_use_of_a_key(store: Store) -> None:
    mongo = Mongo(MongoSettings(uri=store.uri()), app="test")
    try:
        found = await asyncio.gather(*(first_used_at(mongo, "key") for _ in range(20)))
        assert max(found) - min(found) < timedelta(seconds=5)
        first = await first_used_at(mongo, "key")
        await asyncio.sleep(0.01)
        assert await first_used_at(mongo, "key") == first
        assert await first_used_at(mongo, "other") > first
    finally:
        mongo.close()


def test_the_last_authority_and_the_first_link_of_a_chain_count(tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    file.write_text(Authority("old", days=10).pem + Authority("new", days=100).pem)
    for watch, days in ((watch_authorities, 100), (watch_chain, 10)):
        setting = token_hex(4)
        watch(setting, file)
        at = REGISTRY.get_sample_value("interlink_certificate_expiry_timestamp_seconds", {"setting": setting})
        assert at is not None
        assert round((at - datetime.now(UTC).timestamp()) / 86400) == days
    watch_chain("absent", tmp_path / "absent.pem")
    assert not REGISTRY.get_sample_value(
        "interlink_certificate_expiry_timestamp_seconds", {"setting": "absent"}
    )
