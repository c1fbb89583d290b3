"""The page of the ACLs of Kafka, from the table that the tests run the hub with."""

from collections.abc import Iterator
from typing import Final

from docs.generator.markdown import table
from shared.contracts.kafka_acls import CHAT, INIT, OPERATOR, USERS, Acl, acls_of

_INTRODUCTION: Final = f"""\
# Kafka ACLs

Generated from the table that the tests run the hub with, on three brokers with an authorizer. A cluster with
ACLs has a user for each service, and these are all the permissions that each needs. `{INIT}` is
`interlink init`. `{OPERATOR}` is for the commands `interlink doctor`, `send` and `dead-letters`. `{CHAT}` is
a service of the chat, whose groups begin with `{CHAT}-`.

`Read` and `Write` include `Describe`. Where a right is missing, the service logs `producer.not_authorized` or
`consumer.not_authorized` with the name of the right. Once it has the right, it goes on without a restart.

No service uses transactions, creates topics or changes configuration. The right to write to any topic
includes that to an idempotent producer. The console publishes nothing, and needs `IdempotentWrite`.
"""
_COMMANDS: Final = """
## Commands

With `BOOTSTRAP` and `ADMIN` set to a broker and the client configuration of an administrator. The users are
named like the services; with certificates, the principal is what `ssl.principal.mapping.rules` of the brokers
makes of the certificate's name.
"""


def acls_page() -> str:
    """Return the page: what each user may do, and the commands that allow it."""
    rows = [(f"`{user}`", *_cells(user)) for user in USERS]
    head = ("user", "reads topics", "writes topics", "other rights on topics", "groups and cluster")
    commands = "\n".join(f"```\n{command}\n```\n" for command in map(_commands, USERS))
    return f"{_INTRODUCTION}\n{table(head, rows)}{_COMMANDS}\n{commands}"


def _cells(user: str) -> Iterator[str]:
    acls = acls_of(user)
    topics = [acl for acl in acls if acl.resource == "topic"]
    for operation in ("Read", "Write"):
        yield ", ".join(f"`{acl.name}`" for acl in topics if acl.operation == operation)
    others: dict[str, list[str]] = {}
    for acl in topics:
        if acl.operation not in ("Read", "Write"):
            others.setdefault(acl.operation, []).append(f"`{acl.name}`")
    yield "; ".join(f"{operation}: {', '.join(names)}" for operation, names in others.items())
    yield ", ".join(
        f"{acl.operation} on {acl.resource} `{acl.name}{'*' if acl.is_prefix else ''}`"
        for acl in acls
        if acl.resource != "topic"
    )


def _commands(user: str) -> str:
    """Return a command for each set of operations, as one call takes several topics."""
    by_options: dict[str, list[str]] = {}
    for acl in acls_of(user):
        by_options.setdefault(_options(acl), []).append(f"--{acl.resource}" + _name(acl))
    lines = [
        "kafka-acls --bootstrap-server $BOOTSTRAP --command-config $ADMIN "
        f"--add --allow-principal User:{user} \\\n  {options} {' '.join(resources)}"
        for options, resources in by_options.items()
    ]
    return "\n".join(lines)


def _options(acl: Acl) -> str:
    pattern = " --resource-pattern-type prefixed" if acl.is_prefix else ""
    return f"--operation {acl.operation}{pattern}"


def _name(acl: Acl) -> str:
    return "" if acl.resource == "cluster" else f" {acl.name}"
