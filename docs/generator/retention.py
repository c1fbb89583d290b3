"""The page of retention: how long each topic and each collection keeps its records, and what that costs."""

from collections.abc import Iterator
from typing import Final

from docs.generator.markdown import table
from interlink.commands.common import ServiceName
from interlink.prepare import indexes
from shared.contracts.topics import TOPICS
from shared.runtime import configuration, encryption_keys

_HOUR_MS: Final = 3_600_000
_FOR_EVER: Final = "until it is deleted"
_WORK: Final = "until it is done"
_TOMBSTONE: Final = "until it is deleted, and a day more as a mark for the other processes"
_SESSION: Final = "until the session ends"
_IMPORT: Final = "30 days after the import finished"
_LEDGER: Final = "until the workspace is deleted"
_COLLECTIONS: Final = {
    "api_keys": ("API keys", _TOMBSTONE),
    "audit_entries": ("who changed what", "`INTERLINK_AUDIT_DAYS` (365)"),
    "chat_users": ("users of the chat, as `user.updated` names them, to match people of imports", _LEDGER),
    "configuration_version": ("the version of the configuration, one document", "for ever"),
    "console_embedded_sessions": ("sessions of embedded pages", _SESSION),
    "console_sessions": ("sessions of people", _SESSION),
    "console_sign_in_failures": ("failed sign-ins by address", "minutes"),
    "console_used_states": ("sign-ins that were completed", "minutes"),
    "console_views": ("saved filters", "180 days after the last use"),
    "daily_usage": ("what each workspace used, by day, for quotas", "90 days"),
    "deferred_events": ("events beyond a workspace's fair share", _WORK),
    "delivery_jobs": ("retries and erasures of many deliveries", "30 days after the job finished"),
    "delivery_queues": ("the queue of each webhook with something to send", _WORK),
    "delivery_stats": ("attempts by webhook and hour", "90 days"),
    "encryption_keys": ("ids of encryption keys, and since when each is used", "for ever"),
    "erased_events": ("marks of erased events", "as long as a topic may still have the event"),
    "event_types": ("event types with schemas", _TOMBSTONE),
    "hourly_counts": ("events and refusals by hour", "90 days"),
    "idempotency_keys": ("answers for repeated requests", "24 hours"),
    "import_batches": ("batches of an import that the chat has to confirm", "until it does, at most 30 days"),
    "import_channels": ("channels of an import", _IMPORT),
    "import_file_sets": ("stored files of imports, each once", "`INTERLINK_IMPORT_FILE_DAYS` (365)"),
    "import_files": ("files of imports", "`INTERLINK_IMPORT_FILE_DAYS` (365)"),
    "import_issues": ("records that an import could not take", _IMPORT),
    "import_marks": ("up to when conversations of connected accounts are imported", _LEDGER),
    "import_people": ("people of an import", _IMPORT),
    "import_report_rows": ("an import's counts by channel and day", _IMPORT),
    "import_units": ("parts of imports with the ids of their messages", f"{_LEDGER}; of a dry run {_IMPORT}"),
    "imports": ("imports", _IMPORT),
    "inbound_endpoints": ("endpoints, with sealed secrets", _TOMBSTONE),
    "integrations": ("connected accounts, with sealed tokens", _TOMBSTONE),
    "members": ("people with a role", _TOMBSTONE),
    "message_links": ("which message is which at each provider", "400 days"),
    "oauth_confirmations": ("confirmations of a connection", "an hour"),
    "oauth_states": ("connections that were started", "an hour after they ended"),
    "outgoing_webhooks": ("outgoing webhooks, with sealed secrets", _TOMBSTONE),
    "people_links": ("which person is which at each provider", _FOR_EVER),
    "platform_credentials": ("provider apps, with sealed secrets", _TOMBSTONE),
    "polling_locks": ("who polls", "an hour"),
    "polling_triggers": ("triggers that are polled, with their position", _FOR_EVER),
    "sync_conflicts": ("changes of a message at two places at once", "30 days"),
    "sync_lanes": ("conversations with something to send", _WORK),
    "sync_mappings": ("mappings of channels", _TOMBSTONE),
    "sync_queue": ("changes of messages that wait or failed", "until it is done, or failed 7 days ago"),
    "synced_messages": ("messages and their traces", "400 days"),
    "unmatched_events": ("events that no webhook wanted", "7 days"),
    "uploads": ("uploads", "`INTERLINK_UPLOAD_DAYS` (7)"),
    "watches": ("subscriptions at providers", _FOR_EVER),
    "webhook_deliveries": (
        "the log of deliveries, with bodies and attempts",
        (
            "`INTERLINK_DELIVERED_DAYS` (7) if delivered, else `INTERLINK_DEAD_LETTER_DAYS` (30); one of a "
            "stopped webhook ends after as long"
        ),
    ),
    "webhook_executions": (
        "requests to endpoints, with their bodies",
        "`INTERLINK_EXECUTIONS_DAYS` (7); 2 days if rejected",
    ),
    "webhook_health": ("state of each webhook", "until the webhook is deleted"),
    "workspace_deletions": ("deletions of workspaces", "30 days after all services have done their part"),
    "workspaces": ("workspaces", _FOR_EVER),
}
_WITHOUT_INDEXES: Final = {configuration.COLLECTION, encryption_keys.COLLECTION}
_PAGE: Final = """\
# Retention

Generated from the topics and the indexes. What a service keeps with the settings of now:
`GET /api/retention/gateway`, `delivery`, `sync` and `importer`, or Retention in the console.

## Topics

{topics}

## Collections

{collections}

## What a million events cost

Counted on Apache Kafka on 2026-11-25, with signed webhooks of 1.0 KB and 1.1 deliveries for each:

| record | bytes each | for a million |
|---|---|---|
| an event in `webhooks.received` | 1,506 | 1.5 GB, times the replicas |
| a request in `delivery.requested` | 1,111 | 1.1 GB, times the replicas |
| a delivery in `webhook_deliveries` | 2,719 | 2.7 GB, without indexes and before compression |
| an execution in `webhook_executions` | 595 | 0.6 GB |

The embedded database wrote 10,580 bytes to disk for a delivery of 3,042 bytes, with indexes and journal
([measurements](measurements.md)). Larger bodies cost their size in each record but the execution.

So a thousand events a second for seven days, 605 million, take 1.6 TB of `webhook_deliveries`, and 1.6 TB of
the two topics for each replica. `INTERLINK_DELIVERED_DAYS=1` divides the former by seven.
"""


class UnknownCollection(Exception):
    """A collection of the hub is not on the page, or the page has one that the hub does not have."""


def retention_page() -> str:
    """Return the page. Raises `UnknownCollection` if a collection has no retention here."""
    services = [name.value for name in ServiceName]
    existing = {name for group in indexes(services) for name in group} | _WITHOUT_INDEXES
    if different := existing ^ _COLLECTIONS.keys():
        raise UnknownCollection(f"docs/generator/retention.py: add or remove {', '.join(sorted(different))}")
    collections = [(f"`{name}`", *described) for name, described in sorted(_COLLECTIONS.items())]
    return _PAGE.format(
        topics=table(("topic", "partitions", "kept for", "of"), list(_topics())),
        collections=table(("collection", "of", "kept for"), collections),
    )


def _topics() -> Iterator[tuple[str, str, str, str]]:
    for topic in TOPICS:
        hours = topic.retention_ms / _HOUR_MS
        kept = f"{hours / 24:g} days" if hours >= 24 else f"{hours * 60:g} minutes"
        yield f"`{topic.name}`", str(topic.partitions), kept, topic.about
