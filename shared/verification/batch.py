"""Batches: one request that carries several events becomes one document for each, and none is dropped.

A path (`entry[*].messaging[*]`, or `[*]` for a body that is a list) names lists whose elements are events.
Each event keeps the shape of the platform's document, with the one element alone in its lists; the element
of a body that is a list is a document by itself. What no path reaches into stays whole. Pure and bounded.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from shared.contracts.errors import Malformed, TooLarge
from shared.wire.bodies import dump_json

MAX_EVENTS: Final = 2000
"""Of one request."""

MAX_DOCUMENTS_BYTES: Final = 16 * 1024 * 1024
"""Of all the documents of one request: each repeats what is around its element."""

_MIN_SIZE_LIMIT: Final = 1024 * 1024
_MAX_COPIES: Final = 4


def documents_size_limit(size: int) -> int:
    """Return how many bytes the documents of a body of `size` bytes may have together."""
    return min(MAX_DOCUMENTS_BYTES, max(_MIN_SIZE_LIMIT, _MAX_COPIES * size))


_LIST_STEP: Final = "[*]"

_PathTree = dict[str, Any]


class Batch:
    """Compiled paths."""

    __slots__ = ("_tree",)

    def __init__(self, paths: Sequence[str]) -> None:
        """Raises `ValueError` for a path that does not end in a list."""
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

    def documents(self, payload: Any, most_bytes: int = MAX_DOCUMENTS_BYTES) -> list[tuple[bytes, Any, Any]]:
        """Return each event as JSON text, as a value, and its element.

        The texts have at most `documents_size_limit` bytes together.
        Raises `Malformed` for an element that is no object or too deep, `TooLarge` over the bounds.
        """
        found: list[tuple[bytes, Any, Any]] = []
        size = 0
        for document, element in _split_document(payload, self._tree):
            if not isinstance(document, dict) or not isinstance(element, dict):
                raise Malformed("an element of the batch is not an object")
            text = dump_json(document)
            size += len(text)
            if len(found) >= MAX_EVENTS or size > most_bytes:
                raise TooLarge(f"the batch has more than {MAX_EVENTS} events or {most_bytes} bytes of them")
            found.append((text, document, element))
        return found


def _path_steps(path: str) -> Iterator[str]:
    for step in path.split("."):
        name = step.removesuffix(_LIST_STEP)
        if name:
            yield name
        if step.endswith(_LIST_STEP):
            yield _LIST_STEP


def _split_document(value: Any, tree: _PathTree) -> Iterator[tuple[Any, Any]]:
    """Each document that is `value` with one element, and the element."""
    if _LIST_STEP in tree and isinstance(value, list):
        for element in value:
            yield from _split_document(element, tree[_LIST_STEP])
        return
    reached = [name for name in tree if name in value] if isinstance(value, dict) else []
    reached = [
        name for name in reached if isinstance(value[name], list if _LIST_STEP in tree[name] else dict)
    ]
    whole = True
    for name in reached:
        around = {key: each for key, each in value.items() if key not in tree}
        for document, element in _split_document(value[name], tree[name]):
            if document is value[name]:
                continue  # nothing was reached inside it
            whole = False
            yield {**around, name: [document] if _LIST_STEP in tree[name] else document}, element
        whole = whole and _LIST_STEP not in tree[name]
    if whole:
        yield value, value
