"""Batches: one request that carries several events becomes one document for each, and none is dropped.

A path (`entry[*].messaging[*]`, or `[*]` for a body that is a list) names lists whose elements are events.
Each event keeps the shape of the platform's document, with the one element alone in its lists; the element
of a body that is a list is a document by itself. What no path reaches into stays whole. Pure and bounded.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from shared.contracts.errors import Malformed, TooLarge
from shared.wire.bodies import json_text

MOST_EVENTS: Final = 2000
"""Of one request."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""Of all the documents of one request: each repeats what is around its element."""

_SMALL: Final = 1024 * 1024
_MOST_COPIES: Final = 4


def most_bytes(size: int) -> int:
    """Return how many bytes the documents of a body of `size` bytes may have together."""
    return min(MOST_BYTES, max(_SMALL, _MOST_COPIES * size))


_ALL: Final = "[*]"

_Tree = dict[str, Any]


class Batch:
    """Compiled paths."""

    __slots__ = ("_tree",)

    def __init__(self, paths: Sequence[str]) -> None:
        """Raises `ValueError` for a path that does not end in a list."""
        self._tree: _Tree = {}
        for path in paths:
            if not path.endswith(_ALL):
                raise ValueError(f"the path of a batch ends with {_ALL}: {path!r}")
            node = self._tree
            for step in _steps(path):
                node = node.setdefault(step, {})

    def __bool__(self) -> bool:
        return bool(self._tree)

    def first(self, payload: Any) -> tuple[Any, Any]:
        """Return the document and the element of the first event; the payload itself if there is none."""
        return next(_pieces(payload, self._tree), (payload, payload))

    def documents(self, payload: Any, most_bytes: int = MOST_BYTES) -> list[tuple[bytes, Any, Any]]:
        """Each event as JSON text, as a value, and its element; together at most `most_bytes` of text.

        Raises `Malformed` for an element that is no object or too deep, `TooLarge` over the bounds.
        """
        found: list[tuple[bytes, Any, Any]] = []
        size = 0
        for document, element in _pieces(payload, self._tree):
            if not isinstance(document, dict) or not isinstance(element, dict):
                raise Malformed("an element of the batch is not an object")
            text = json_text(document)
            size += len(text)
            if len(found) >= MOST_EVENTS or size > most_bytes:
                raise TooLarge(f"the batch has more than {MOST_EVENTS} events or {most_bytes} bytes of them")
            found.append((text, document, element))
        return found


def _steps(path: str) -> Iterator[str]:
    for step in path.split("."):
        name = step.removesuffix(_ALL)
        if name:
            yield name
        if step.endswith(_ALL):
            yield _ALL


def _pieces(value: Any, tree: _Tree) -> Iterator[tuple[Any, Any]]:
    """Each document that is `value` with one element, and the element."""
    if _ALL in tree and isinstance(value, list):
        for element in value:
            yield from _pieces(element, tree[_ALL])
        return
    reached = [name for name in tree if name in value] if isinstance(value, dict) else []
    reached = [name for name in reached if isinstance(value[name], list if _ALL in tree[name] else dict)]
    whole = True
    for name in reached:
        around = {key: each for key, each in value.items() if key not in tree}
        for document, element in _pieces(value[name], tree[name]):
            if document is value[name]:
                continue  # nothing was reached inside it
            whole = False
            yield {**around, name: [document] if _ALL in tree[name] else document}, element
        whole = whole and _ALL not in tree[name]
    if whole:
        yield value, value
