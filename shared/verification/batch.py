"""Batches: a request that carries several events is split into one document per event. Pure and bounded.

A path (`entry[*].messaging[*]`, or `[*]` for a body that is a list) names lists whose elements are events.
Each event's document has the shape of the provider's, with this element alone in its lists. The element of
a body that is a list is a document by itself. A document without an element on any path is one event.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from shared.contracts.errors import Malformed, TooLarge
from shared.wire.bodies import dump_json

MAX_EVENTS: Final = 2000
"""Events in one request."""

MAX_DOCUMENTS_BYTES: Final = 16 * 1024 * 1024
"""All documents of one request together. Each repeats what is around its element."""

_MIN_SIZE_LIMIT: Final = 1024 * 1024
_MAX_COPIES: Final = 4


def documents_size_limit(size: int) -> int:
    """Return how many bytes all documents of a body of `size` bytes may have together."""
    return min(MAX_DOCUMENTS_BYTES, max(_MIN_SIZE_LIMIT, _MAX_COPIES * size))


_LIST_STEP: Final = "[*]"

_PathTree = dict[str, Any]


class Batch:
    """The compiled batch paths of a webhook definition; false if there are none."""

    __slots__ = ("_tree",)

    def __init__(self, paths: Sequence[str]) -> None:
        """Raise `ValueError` for a path that does not end with `[*]`."""
        self._tree: _PathTree = {}
        for path in paths:
            if not path.endswith(_LIST_STEP):
                raise ValueError(f"the path of a batch ends with {_LIST_STEP}: {path!r}")
            node = self._tree
            for step in _path_steps(path):
                node = node.setdefault(step, {})

    def __bool__(self) -> bool:
        return bool(self._tree)

    def first(self, payload: Any) -> tuple[Any, Any]:
        """Return the document and the element of the first event; the payload itself if there is none."""
        return next(_split_document(payload, self._tree), (payload, payload))

    def documents(self, payload: Any, size_limit: int = MAX_DOCUMENTS_BYTES) -> list[tuple[bytes, Any, Any]]:
        """Return each event as JSON text, as a value, and its element.

        Raises `Malformed` for an element that is not an object or is nested too deep, `TooLarge` for more
        than `MAX_EVENTS` events or more than `size_limit` bytes of JSON text in all.
        """
        documents: list[tuple[bytes, Any, Any]] = []
        size = 0
        for document, element in _split_document(payload, self._tree):
            if not isinstance(document, dict) or not isinstance(element, dict):
                raise Malformed("an element of the batch is not an object")
            text = dump_json(document)
            size += len(text)
            if len(documents) >= MAX_EVENTS or size > size_limit:
                raise TooLarge(f"the batch has more than {MAX_EVENTS} events or {size_limit} bytes of them")
            documents.append((text, document, element))
        return documents


def _path_steps(path: str) -> Iterator[str]:
    for step in path.split("."):
        name = step.removesuffix(_LIST_STEP)
        if name:
            yield name
        if step.endswith(_LIST_STEP):
            yield _LIST_STEP


def _split_document(value: Any, tree: _PathTree) -> Iterator[tuple[Any, Any]]:
    """Yield each document, which is `value` with one element left in its lists, and the element."""
    if _LIST_STEP in tree and isinstance(value, list):
        for element in value:
            yield from _split_document(element, tree[_LIST_STEP])
        return
    present = [name for name in tree if name in value] if isinstance(value, dict) else []
    present = [
        name for name in present if isinstance(value[name], list if _LIST_STEP in tree[name] else dict)
    ]
    # The document is an event itself unless an element is found inside it, so that none is dropped.
    whole = True
    for name in present:
        around = {key: part for key, part in value.items() if key not in tree}
        for document, element in _split_document(value[name], tree[name]):
            if document is value[name]:
                continue  # no path leads to an element inside it
            whole = False
            yield {**around, name: [document] if _LIST_STEP in tree[name] else document}, element
        whole = whole and _LIST_STEP not in tree[name]
    if whole:
        yield value, value
