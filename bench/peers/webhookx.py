"""WebhookX (Go): a source writes events to PostgreSQL before it answers; Redis has the queue."""

import os
from collections.abc import Collection
from time import sleep
from typing import Final

from bench.peers import stores
from bench.peers.engine import SECRET, Engine, Started, Stopwatch, event, template
from bench.peers.processes import Api, Processes, answers
from tests.support.ports import free_port

VARIABLE: Final = "BENCH_WEBHOOKX"
_RELOAD_S: Final = 2.5
"""Its router reads new sources once a second."""


class WebhookX(Engine):
    name = "WebhookX"
    version = os.environ.get(f"{VARIABLE}_VERSION", "unknown")
    durability = "PostgreSQL (no fsync), Redis (append-only file)"
    store_words: Collection[str] = ()

    def missing(self) -> str | None:
        if not os.environ.get(VARIABLE):
            return f"{VARIABLE} does not name its binary"
        return stores.missing_postgres() or stores.missing_redis()

    def start(self, processes: Processes, sink: str) -> Started:
        binary = os.environ[VARIABLE]
        postgres, redis = stores.start_postgres(processes, "webhookx"), stores.start_redis(processes)
        proxy, admin = free_port(), free_port()
        env = {
            "WEBHOOKX_DATABASE_HOST": "127.0.0.1",
            "WEBHOOKX_DATABASE_PORT": str(postgres),
            "WEBHOOKX_DATABASE_USERNAME": "postgres",
            "WEBHOOKX_DATABASE_DATABASE": "webhookx",
            "WEBHOOKX_REDIS_HOST": "127.0.0.1",
            "WEBHOOKX_REDIS_PORT": str(redis),
            "WEBHOOKX_PROXY_QUEUE_REDIS_HOST": "127.0.0.1",
            "WEBHOOKX_PROXY_QUEUE_REDIS_PORT": str(redis),
            "WEBHOOKX_PROXY_LISTEN": f"127.0.0.1:{proxy}",
            "WEBHOOKX_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "WEBHOOKX_STATUS_LISTEN": f"127.0.0.1:{free_port()}",
            # By default it refuses to deliver to this machine.
            "WEBHOOKX_WORKER_DELIVERER_ACL_DENY": "203.0.113.0/24",
            "WEBHOOKX_ANONYMOUS_REPORTS": "false",
            "WEBHOOKX_ACCESS_LOG_ENABLED": "false",
            "WEBHOOKX_LOG_LEVEL": "warn",
        }
        processes.run([binary, "db", "up"], env)
        stopwatch = Stopwatch()
        processes.start("webhookx", [binary, "start"], env, cwd=processes.folder)
        base = f"http://127.0.0.1:{admin}"
        processes.wait(self.name, 30, lambda: answers(f"{base}/workspaces/default/endpoints"))
        ready_s = stopwatch.seconds
        api = Api(base)
        _subscribe(api, sink)
        _add_source(api, "plain")
        github = _add_source(api, "github")
        verify = {
            "hash": "sha-256",
            "encoding": "hex",
            "signature_header": "X-Hub-Signature-256",
            "secret": SECRET,
        }
        plugin = {"name": "hmac-auth", "source_id": github, "config": verify}
        api.call("POST", "/workspaces/default/plugins", plugin)
        sleep(_RELOAD_S)
        content = {"event_type": "push", "data": event()}
        return Started(
            ready_s,
            template(proxy, "/plain", content),
            # It compares bare hex, and its own envelope is around the body: a little less work than with
            # GitHub's form.
            template(
                proxy,
                "/github",
                content,
                {"X-GitHub-Event": "push", "X-GitHub-Delivery": "@ID@"},
                {"header": "X-Hub-Signature-256", "prefix": "", "secret": SECRET},
            ),
        )


def _subscribe(api: Api, sink: str) -> None:
    """Create an endpoint whose requests are signed."""
    endpoint = {
        "name": "sink",
        "request": {"url": sink, "method": "POST", "timeout": 10_000},
        "events": ["push"],
        "retry": {"strategy": "fixed", "config": {"attempts": [0, 3600, 3600]}},
    }
    api.call("POST", "/workspaces/default/endpoints", endpoint)
    [created] = api.call("GET", "/workspaces/default/endpoints")["data"]
    plugin = {
        "name": "webhookx-signature",
        "endpoint_id": created["id"],
        "config": {"signing_secret": SECRET},
    }
    api.call("POST", "/workspaces/default/plugins", plugin)


def _add_source(api: Api, name: str) -> str:
    """Create a source that answers once the event is stored; return its id."""
    source = {
        "name": name,
        "type": "http",
        "async": False,
        "config": {"http": {"path": f"/{name}", "methods": ["POST"]}},
    }
    source_id: str = api.call("POST", "/workspaces/default/sources", source)["id"]
    return source_id
