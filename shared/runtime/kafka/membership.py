"""Remove the group member that a killed process left behind, so that its partitions are reassigned at once.

A broker notices a killed member only when its session ends, after 10 s by default. Until then no other member
gets its partitions. A consumer's client id names its process by the group, the host and the address that it
listens on, and no two running processes share these. So a member that has this client id when the process
starts belongs to its predecessor, which is dead.

Static membership (KIP-345) would do the same, with three disadvantages. aiokafka does not leave a group with
it, so a clean stop would cost a session. Two processes of the same name would displace each other for ever.
And the embedded broker takes 6 s to admit such a member again. Here a second process of the same name costs
the first process one rebalance, once.
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
    """Remove the members with this client id from the group, while the caller joins it inside the context.

    Failures are logged, not raised: the group then waits for the end of the dead member's session. Errors of
    the caller's block pass through.
    """
    # Apache Kafka: remove the member once the new one has begun to join. A group that is empty in between
    # would wait for further members (`group.initial.rebalance.delay.ms`).
    # The embedded broker does not finish a rebalance that a member leaves: remove the member before the join,
    # and only from a stable group without other members.
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
    """Return the group's state and its members. Raises `KafkaError`."""
    [response] = await admin.describe_consumer_groups([group])
    [description] = response.groups  # error code, group, state, protocol type, protocol, members, ...
    return description[2], description[5]


def _members_of_client(members: Sequence[Any], client_id: str) -> Sequence[str]:
    """Return the ids of the members that have this client id.

    Compares member ids, which consist of the client id and a UUID: the embedded broker does not report the
    client id itself.
    """
    pattern = re.compile(f"{re.escape(client_id)}-{_UUID}")
    return [member[0] for member in members if pattern.fullmatch(member[0])]


async def _remove(admin: AIOKafkaAdminClient, group: str, members: Sequence[str]) -> None:
    coordinator = await admin.find_coordinator(group) if members else 0
    for member in members:
        await admin._send_request(LeaveGroupRequest(group, member), coordinator)


async def _remove_in_rebalance(
    admin: AIOKafkaAdminClient, group: str, members: Sequence[str], log: Log
) -> None:
    """Wait until the group rebalances for the member that joins, then remove `members`."""
    try:
        async with asyncio.timeout(_REBALANCE_TIMEOUT_S):
            while (await _describe(admin, group))[0] == _STABLE:  # noqa: ASYNC110 -- the broker's state
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError:
        pass  # it may have rebalanced between two looks at its state
    except (KafkaError, OSError) as error:
        log.warning("consumer.predecessor_not_removed", error=str(error) or type(error).__name__)
        return
    try:
        await _remove(admin, group, members)
    except (KafkaError, OSError) as error:
        log.warning("consumer.predecessor_not_removed", error=str(error) or type(error).__name__)
