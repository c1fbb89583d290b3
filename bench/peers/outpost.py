"""Hookdeck Outpost (Go): RabbitMQ has an event before the answer; Redis has ids, PostgreSQL the log."""

import os
from collections.abc import Collection
from typing import Final

from bench.peers import stores
from bench.peers.engine import Engine, Started, Stopwatch, event, template
from bench.peers.processes import Api, Processes, answers
from tests.support.ports import free_port

VARIABLE: Final = "BENCH_OUTPOST"
_API_KEY: Final = "bench-key"


class Outpost(Engine):
    name = "Outpost"
    version = os.environ.get(f"{VARIABLE}_VERSION", "unknown")
    durability = "RabbitMQ (durable queue), Redis (append-only file), PostgreSQL (no fsync)"
    store_words: Collection[str] = ()

    def missing(self) -> str | None:
        if not os.environ.get(VARIABLE):
            return f"{VARIABLE} does not name its binary"
        return stores.missing_postgres() or stores.missing_redis() or stores.missing_rabbitmq()

    def start(self, processes: Processes, sink: str) -> Started:
        binary = os.environ[VARIABLE]
        postgres, redis = stores.start_postgres(processes, "outpost"), stores.start_redis(processes)
        rabbitmq = stores.start_rabbitmq(processes)
        port = free_port()
        env = {
            "API_PORT": str(port),
            "API_KEY": _API_KEY,
            "API_JWT_SECRET": "bench-jwt",
            "AES_ENCRYPTION_SECRET": "0123456789abcdef0123456789abcdef",
            "TOPICS": "push",
            "POSTGRES_URL": f"postgres://postgres@127.0.0.1:{postgres}/outpost?sslmode=disable",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis),
            "REDIS_DATABASE": "0",
            "RABBITMQ_SERVER_URL": f"amqp://guest:guest@127.0.0.1:{rabbitmq}",
            "DISABLE_TELEMETRY": "true",
            "DESTINATIONS_WEBHOOK_MODE": "standard",
            "LOG_LEVEL": "warn",
            "GIN_MODE": "release",
            "PUBLISH_MAX_CONCURRENCY": "100",
            "DELIVERY_MAX_CONCURRENCY": "100",
            "LOG_MAX_CONCURRENCY": "100",
            "LOG_BATCH_THRESHOLD_SECONDS": "1",
        }
        processes.run([binary, "migrate", "apply", "--yes"], env)
        stopwatch = Stopwatch()
        processes.start("outpost", [binary, "serve"], env, cwd=processes.folder)
        base = f"http://127.0.0.1:{port}/api/v1"
        processes.wait(self.name, 40, lambda: answers(f"{base}/healthz"))
        ready_s = stopwatch.seconds
        api = Api(base, _API_KEY)
        api.call("PUT", "/tenants/bench", {})
        destination = {"type": "webhook", "topics": ["*"], "config": {"url": sink}}
        api.call("POST", "/tenants/bench/destinations", destination)
        content = {"tenant_id": "bench", "topic": "push", "eligible_for_retry": True, "data": event()}
        authorization = {"Authorization": f"Bearer {_API_KEY}"}
        return Started(ready_s, template(port, "/api/v1/publish", content, authorization), None)
