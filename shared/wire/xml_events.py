"""XML of strangers, read with expat: bounded, without document types and entities. Pure.

Nothing is expanded, and nothing else is loaded. Namespaces are resolved here: expat would copy the whole name
of a namespace into the name of each element and attribute, which makes hours of work, or tens of gigabytes,
of 2 MiB. The caller bounds bytes, elements, depth and texts.
"""

from collections.abc import Mapping
from typing import Final, Protocol
from xml.parsers import expat

from shared.contracts.errors import Malformed

_MAX_TAG_BYTES: Final = 256 * 1024
"""Of one tag, and of one comment."""
_MAX_NAMESPACES: Final = 100
"""That are declared at one place of the document."""
_MAX_NAMESPACE_LENGTH: Final = 200
"""Characters that are kept of a name, to be compared for every element."""
_CHUNK_BYTES: Final = 64 * 1024
"""That expat reads at a time: after an error of a handler it goes on to the end of what it was given."""
_XMLNS: Final = "xmlns"


class XmlReader(Protocol):
    """What is called for the parts of a document, in their order. An error ends the parsing."""

    def start(self, namespace: str, local: str, attributes: Mapping[str, str]) -> None:
        """Begin an element. The names of attributes have their prefixes, as in `rdf:about`."""

    def end(self) -> None:
        """End the element that began last."""

    def text(self, data: str) -> None:
        """Read a part of a text."""


def parse_xml(body: bytes, reader: XmlReader, name: str) -> None:
    """Parse a document. `name` is what errors call it, such as "the feed".

    Raises `Malformed` if it is not well-formed, has a document type, or exceeds a bound; and what `reader`
    raises.
    """
    scopes: list[Mapping[str, str]] = [{}]

    def start(tag: str, attributes: dict[str, str]) -> None:
        scopes.append(_in_scope(scopes[-1], attributes, name))
        prefix, _, local = tag.rpartition(":")
        reader.start(scopes[-1].get(prefix, ""), local, attributes)

    def end(_tag: str) -> None:
        scopes.pop()
        reader.end()

    def refuse_document_type(*_: object) -> None:
        raise Malformed(f"{name} has a document type, which is not accepted")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse_document_type
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = reader.text
    try:
        for offset in range(0, len(body), _CHUNK_BYTES):
            chunk = body[offset : offset + _CHUNK_BYTES]
            parser.Parse(chunk, False)
            if offset + len(chunk) - parser.CurrentByteIndex > _MAX_TAG_BYTES:
                raise Malformed(f"a tag of {name} is too long")
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Malformed(f"{name} is not well-formed XML: {error}") from None


def _in_scope(outer: Mapping[str, str], attributes: Mapping[str, str], name: str) -> Mapping[str, str]:
    """Return the namespaces inside an element, by prefix. Raises `Malformed` if they are too many."""
    declared = {
        attribute.partition(":")[2]: value[:_MAX_NAMESPACE_LENGTH]
        for attribute, value in attributes.items()
        if attribute == _XMLNS or attribute.startswith(f"{_XMLNS}:")
    }
    if not declared:
        return outer
    if len(outer) + len(declared) > _MAX_NAMESPACES:
        raise Malformed(f"{name} declares too many namespaces")
    return {**outer, **declared}
