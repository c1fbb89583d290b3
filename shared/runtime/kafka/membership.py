"""Remove the group member that a killed process left behind, so that its partitions need not wait for it.

A broker notices a killed member only when its session ends, 10 s by default, and until then nobody gets its
partitions. A consumer's client id names its process: the service's group, the host and the address it listens
on, which no two live processes share. So a member that has this client id when the process starts is its
predecessor, and is dead.

Static membership (KIP-345) would do the same, but aiokafka does not leave a group of its own accord with it
(a clean stop would cost a session), two processes of one name would displace each other for ever, and the
embedded broker takes 6 s to let such a member in again. Here a second process of the same name costs the
first one rebalance, once.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from shared.runtime.kafka.connection import connection
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

_REMOVAL_TIMEOUT_S: Final = 5.0
_POLL_INTERVAL_S: Final = 0.02
_REBALANCE_TIMEOUT_S: Final = 2.0
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STABLE: Final = "Stable"


def consumer_client_id(group: str, instance: str) -> str:
    """Return the client id of a group's consumer in the process that `instance` names."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"interlink-{group}@{instance}")


@asynccontextmanager
async def remove_predecessor(
    settings: KafkaSettings, group: str, client_id: str, log: Log
) -> AsyncIterator[None]:
    """Remove what a killed process of this client id left in the group, while the caller joins it.

    Apache Kafka is asked when the new member has begun to join: a group that is empty in between would be
    made to wait for further members (`group.initial.rebalance.delay.ms`). The embedded broker does not finish
    a rebalance that a member leaves: it is asked before, and only about a stable group that has no other
    member. If it cannot be done, the group waits for the dead member's session; the caller's own errors are
    raised as they are.
    """
    admin = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=int(_REMOVAL_TIMEOUT_S * 1000))
    removal: asyncio.Task[None] | None = None
    try:
        dead: Sequence[str] = ()
        try:
            async with asyncio.timeout(_REMOVAL_TIMEOUT_S):
                await admin.start()
                state, members = await _describe(admin, group)
                dead = _members_of_client(members, client_id)
                if settings.is_embedded:
                    dead = dead if state == _STABLE and len(dead) == len(members) else ()
                    await _remove(admin, group, dead)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("consumer.predecessor_not_removed", error=str(error) or type(error).__name__)
        else:
            if dead:
                log.info("consumer.predecessor_found", members=len(dead))
            if dead and not settings.is_embedded:
                removal = asyncio.create_task(_remove_in_rebalance(admin, group, dead, log))
        yield
    finally:
        if removal:
            removal.cancel()
            await asyncio.gather(removal, return_exceptions=True)
        await admin.close()


async def _describe(admin: AIOKafkaAdminClient, group: str) -> tuple[str, Sequence[Any]]:
    """Return the group's state and its members; raise `KafkaError`."""
    [answer] = await admin.describe_consumer_groups([group])
    [described] = answer.groups  # error code, group, state, protocol type, protocol, members, ...
    return described[2], described[5]


def _members_of_client(members: Sequence[Any], client_id: str) -> Sequence[str]:
    """Return the ids of the members that have this client id.

    Brokers make a member's id of its client id and a UUID; the embedded one does not tell the client id.
    """
    form = re.compile(f"{re.escape(client_id)}-{_UUID}")
    return [member[0] for member in members if form.fullmatch(member[0])]


async def _remove(admin: AIOKafkaAdminClient, group: str, members: Sequence[str]) -> None:
    coordinator = await admin.find_coordinator(group) if members else 0
    for member in members:
        await admin._send_request(LeaveGroupRequest(group, member), coordinator)


async def _remove_in_rebalance(
    admin: AIOKafkaAdminClient, group: str, members: Sequence[str], log: Log
) -> None:
    """Wait until the group rebalances for the member that joins, then remove these."""
    try:
        async with asyncio.timeout(_REBALANCE_TIMEOUT_S):
            while (await _describe(admin, group))[0] == _STABLE:  # noqa: ASYNC110 -- the broker's state
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError:
        pass
    except (KafkaError, OSError) as error:
        log.warning("consumer.predecessor_not_removed", error=str(error) or type(error).__name__)
        return
    try:
        await _remove(admin, group, members)
    except (KafkaError, OSError) as error:
        log.warning("consumer.predecessor_not_removed", error=str(error) or type(error).__name__)
