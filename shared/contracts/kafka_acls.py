"""What each service may do on a Kafka cluster with an authorizer: its ACLs, derived from the topics.

A cluster with ACLs has a user for each service. The page `docs/reference/kafka-acls.md` is generated from
this table, and a test runs the hub on a real cluster with exactly these ACLs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.contracts.topics import (
    CHAT_EVENTS,
    CHAT_INBOUND,
    DELIVERY_REQUESTED,
    INTEGRATION_EVENTS,
    SYNC_REQUESTED,
    TOPICS,
    WEBHOOKS_RECEIVED,
    Topic,
)

INIT: Final = "init"
OPERATOR: Final = "operator"
SERVICES: Final = ("gateway", "delivery", "sync", "oauth", "importer", "console")
CHAT: Final = "chat"
_CONSUMING: Final = ("delivery", "sync", "importer", CHAT)
"""The members of consumer groups. The names of a service's groups begin with the service's name."""
_NAMES: Final[Mapping[str, str]] = {CHAT: "chat services", OPERATOR: "operators"}
"""Users that the table of topics calls otherwise."""
_READ_WITHOUT_GROUP: Final[Mapping[str, Sequence[Topic]]] = {
    "gateway": (WEBHOOKS_RECEIVED,),  # the record of an execution, to show or replay it
    "console": (WEBHOOKS_RECEIVED, CHAT_EVENTS, INTEGRATION_EVENTS, CHAT_INBOUND),  # live events
}
_DESCRIBED: Final[Mapping[str, Sequence[Topic]]] = {
    INIT: TOPICS,
    OPERATOR: TOPICS,
    "importer": (WEBHOOKS_RECEIVED, DELIVERY_REQUESTED, CHAT_INBOUND, SYNC_REQUESTED),  # live traffic
}


@dataclass(frozen=True, slots=True)
class Acl:
    """One permission. `is_prefix` if it is for all resources whose names begin with `name`."""

    operation: Literal["Read", "Write", "Create", "Describe", "IdempotentWrite"]
    resource: Literal["topic", "group", "cluster"]
    name: str
    is_prefix: bool = False


def acls_of(user: str) -> tuple[Acl, ...]:
    """Return the ACLs of a user: of a service, of `INIT`, of `OPERATOR`, or of the chat.

    `Read` and `Write` include `Describe`.
    """
    name = _NAMES.get(user, user)
    reads = {topic.name for topic in (*_READ_WITHOUT_GROUP.get(user, ()), *_consumed(name))}
    writes = {topic.name for topic in TOPICS if name in topic.producers or user == OPERATOR}
    describes = {topic.name for topic in _DESCRIBED.get(user, ())} - reads - writes
    acls = [Acl("Read", "topic", topic) for topic in sorted(reads)]
    acls += [Acl("Write", "topic", topic) for topic in sorted(writes)]
    acls += [Acl("Describe", "topic", topic) for topic in sorted(describes)]
    if user == INIT:
        return (*acls, *(Acl("Create", "topic", topic.name) for topic in TOPICS))
    if not writes:
        # Each service has an idempotent producer; the right to write to any topic includes this one.
        acls.append(Acl("IdempotentWrite", "cluster", "kafka-cluster"))
    if user in _CONSUMING:
        acls.append(Acl("Read", "group", f"{user}-", is_prefix=True))
    return tuple(acls)


def _consumed(name: str) -> list[Topic]:
    return [topic for topic in TOPICS if name in topic.consumers]


USERS: Final = (*SERVICES, INIT, OPERATOR, CHAT)
