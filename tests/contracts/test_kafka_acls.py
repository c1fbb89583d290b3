"""The ACLs of Kafka have what the code uses. That they suffice is shown on a real cluster (tests/faults)."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from docs.generator.acls import acls_page
from shared.contracts import topics
from shared.contracts.kafka_acls import INIT, OPERATOR, SERVICES, USERS, Acl, acls_of
from shared.contracts.topics import INTEGRATION_EVENTS, TOPICS, Topic

_ROOT: Final = Path(__file__).parents[2]
_MODULES: Final = (
    "shared.contracts.topics",
    "shared.connections.integrations",
    "shared.runtime.secret_rotations",
)
_PUBLISHING: Final = frozenset({"IntegrationRepository", "rotation_record"})
"""What publishes on `integration.events` for a service that uses it."""


def _names(service: str) -> Iterator[str]:
    """The names that a service's code imports."""
    for file in (_ROOT / "services" / service).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in _MODULES:
                yield from (name.name for name in node.names)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_use_the_topics_that_its_code_names(service: str) -> None:
    names = set(_names(service))
    used = {name for name in names if isinstance(getattr(topics, name, None), Topic)}
    allowed = {acl.name for acl in acls_of(service) if acl.resource == "topic"}
    assert {getattr(topics, name).name for name in used} <= allowed
    if names & _PUBLISHING:
        assert Acl("Write", "topic", INTEGRATION_EVENTS.name) in acls_of(service)


def test_only_init_creates_and_only_the_operator_writes_everywhere() -> None:
    every = {topic.name for topic in TOPICS}
    for user in USERS:
        acls = acls_of(user)
        assert len(acls) == len(set(acls))
        assert any(acl.operation == "Create" for acl in acls) == (user == INIT)
        written = {acl.name for acl in acls if acl.operation == "Write"}
        assert (written == every) == (user == OPERATOR)


def test_the_page_has_every_acl() -> None:
    page = acls_page()
    for user in USERS:
        for acl in acls_of(user):
            place = f"--{acl.resource}" if acl.resource == "cluster" else f"--{acl.resource} {acl.name}"
            assert any(
                f"--operation {acl.operation}" in command and place in command
                for command in page.split("kafka-acls ")
                if f"User:{user} " in command
            ), (user, acl)
