"""Svix (Rust): a message is answered when PostgreSQL has it and the queue in Redis its delivery."""

import os
import re
from collections.abc import Collection
from typing import Final

from bench.peers import stores
from bench.peers.engine import Engine, Started, Stopwatch, event, template
from bench.peers.processes import Api, Processes, answers
from bench.remote import Failed
from tests.support.ports import free_port

VARIABLE: Final = "BENCH_SVIX"
_TOKEN: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")


class Svix(Engine):
    name = "Svix"
    version = os.environ.get(f"{VARIABLE}_VERSION", "unknown")
    durability = "PostgreSQL (no fsync), Redis (append-only file)"
    store_words: Collection[str] = ()

    def missing(self) -> str | None:
        if not os.environ.get(VARIABLE):
            return f"{VARIABLE} does not name its binary"
        return stores.missing_postgres() or stores.missing_redis()

    def start(self, processes: Processes, sink: str) -> Started:
        binary = os.environ[VARIABLE]
        postgres, redis = stores.start_postgres(processes, "svix"), stores.start_redis(processes)
        port = free_port()
        env = {
            "SVIX_JWT_SECRET": "bench-jwt-secret-bench-jwt-secret",
            "SVIX_DB_DSN": f"postgresql://postgres@127.0.0.1:{postgres}/svix",
            "SVIX_REDIS_DSN": f"redis://127.0.0.1:{redis}",
            "SVIX_QUEUE_TYPE": "redis",
            "SVIX_CACHE_TYPE": "redis",
            # By default it refuses to deliver to this machine.
            "SVIX_WHITELIST_SUBNETS": "[127.0.0.1/32]",
            "SVIX_LISTEN_ADDRESS": f"127.0.0.1:{port}",
            "SVIX_LOG_LEVEL": "info",
            "RUST_LOG": "warn",
            "SVIX_WHITELABEL_HEADERS": "true",
        }
        processes.run([binary, "migrate"], env)
        found = _TOKEN.search(processes.run([binary, "jwt", "generate"], env))
        if found is None:
            raise Failed("svix jwt generate printed no token")
        stopwatch = Stopwatch()
        processes.start("svix", [binary], env, cwd=processes.folder)
        base = f"http://127.0.0.1:{port}/api/v1"
        processes.wait(self.name, 40, lambda: answers(f"{base}/health"))
        ready_s = stopwatch.seconds
        api = Api(base, found[0])
        api.call("POST", "/event-type", {"name": "push", "description": "a push"})
        app = api.call("POST", "/app", {"name": "bench"})["id"]
        api.call("POST", f"/app/{app}/endpoint", {"url": sink, "version": 1})
        content = {"eventType": "push", "payload": event()}
        authorization = {"Authorization": f"Bearer {found[0]}"}
        return Started(ready_s, template(port, f"/api/v1/app/{app}/msg", content, authorization), None)
