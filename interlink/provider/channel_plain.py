"""Changes, calls and results of channels as plain values of YAML, and arguments of operations from them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final

from shared.manifests.channel_types import (
    Account,
    ExternalFile,
    Outgoing,
    OutgoingFile,
    Person,
    Place,
)
from shared.richtext import tree
from shared.richtext.tree import Document

_CONTAINERS: Final = (
    tree.Paragraph,
    tree.Quote,
    tree.Bold,
    tree.Italic,
    tree.Strike,
    tree.Underline,
    tree.Spoiler,
)
_BY_NAME: Final[Mapping[str, Any]] = {
    name: node for name, node in vars(tree).items() if isinstance(node, type) and is_dataclass(node)
}
_ARGUMENTS: Final[Mapping[str, Any]] = {"place": Place, "file": ExternalFile}


def plain(value: Any) -> Any:
    """Return a value of the channel's types as YAML has it: without defaults, nodes by their name."""
    if isinstance(value, Document):
        return [plain(block) for block in value.blocks]
    if isinstance(value, tree.Text):
        return value.text
    if isinstance(value, tree.LineBreak):
        return "\n"
    if isinstance(value, _CONTAINERS):
        return {type(value).__name__: [plain(child) for child in value.children]}
    if is_dataclass(value) and not isinstance(value, type):
        given = {
            field.name: plain(getattr(value, field.name))
            for field in fields(value)
            if field.default is MISSING or getattr(value, field.name) != field.default
        }
        given = {name: item for name, item in given.items() if item not in ({}, [])}
        return {type(value).__name__: given} if type(value).__name__ in _BY_NAME else given
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def change(value: Any) -> dict[str, Any]:
    """Return a change as plain values, with the name of its class in `is`."""
    return {"is": type(value).__name__, **plain(value)}


def document(values: Sequence[Any]) -> Document:
    """Return the document that `plain` made values of. Raises `KeyError` for an unknown node."""
    return Document(tuple(_node(value) for value in values))


def _node(value: Any) -> Any:
    if isinstance(value, str):
        return tree.LineBreak() if value == "\n" else tree.Text(value)
    [(name, given)] = value.items()
    node = _BY_NAME[name]
    if isinstance(given, list):
        return node(tuple(_node(child) for child in given))
    given = dict(given)
    for field in ("children", "blocks"):
        if field in given:
            given[field] = tuple(_node(child) for child in given[field])
    if "items" in given:
        given["items"] = tuple(tuple(_node(child) for child in item) for item in given["items"])
    return node(**given)


def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation. Raises `TypeError` or `KeyError` if one is wrong."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name == "message":
            given[name] = _outgoing(value)
        elif name in _ARGUMENTS:
            given[name] = _ARGUMENTS[name](**value)
        else:
            given[name] = value
    return given


def _outgoing(value: Mapping[str, Any]) -> Outgoing:
    return Outgoing(
        **{
            **value,
            "place": Place(**value["place"]),
            "body": document(value["body"]),
            "author": Person(**value["author"]),
            "files": tuple(OutgoingFile(**file) for file in value.get("files", ())),
        }
    )


def account(value: Mapping[str, Any]) -> Account:
    """Return the account of a fixture."""
    return Account(**value)
