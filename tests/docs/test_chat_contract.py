"""The page of the contract with the chat: an example of every type, each as the models have it."""

import json
import re
from typing import Any, Final

import pytest
from pydantic import BaseModel

from docs.generator.__main__ import PROJECT
from shared.contracts.chat import SIGNAL, ChatMessage, ChatSignal
from shared.contracts.chat_shapes import normalise
from shared.contracts.event_types import EVENT_TYPES
from shared.contracts.history import HISTORY_STORED
from shared.contracts.topics import CHAT_EVENTS, CHAT_HISTORY, CHAT_INBOUND

PAGE: Final = PROJECT.joinpath("docs/reference/chat-contract.md").read_text("utf-8")
_EXAMPLE: Final = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _examples() -> list[tuple[str, dict[str, Any]]]:
    """Return the examples below the headings of types, in the order of the page."""
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE):
        for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
            name = part.partition("\n")[0].strip("`")
            found += [(name, json.loads(text)) for text in _EXAMPLE.findall(part)]
    return found


EXAMPLES: Final = _examples()
IDS: Final = [name for name, _ in EXAMPLES]


def _model(event_type: str, data: dict[str, Any]) -> BaseModel:
    """Return the canonical object of an example."""
    if event_type == SIGNAL:
        return ChatSignal.model_validate(data)
    if event_type in CHAT_EVENTS.types and event_type != HISTORY_STORED:
        return normalise(event_type, data)
    model: Any = EVENT_TYPES[event_type].payload
    validated: BaseModel = model.model_validate(data)
    return validated


def _is_part_of(example: Any, whole: Any) -> bool:
    """Return whether a model has everything that an example shows, by the same names."""
    if isinstance(example, dict):
        return all(name in whole and _is_part_of(value, whole[name]) for name, value in example.items())
    if isinstance(example, list):
        return all(_is_part_of(*pair) for pair in zip(example, whole, strict=True))
    return bool(example == whole)


def test_every_type_has_an_example() -> None:
    assert set(IDS) == {*CHAT_EVENTS.types, *CHAT_INBOUND.types, *CHAT_HISTORY.types, SIGNAL}


@pytest.mark.parametrize(("event_type", "data"), EXAMPLES, ids=IDS)
def test_an_example_is_as_the_model_has_it(event_type: str, data: dict[str, Any]) -> None:
    assert _is_part_of(data, _model(event_type, data).model_dump(mode="json"))


def test_the_other_shapes_are_the_same_message() -> None:
    section = PAGE.partition("\n## Other shapes\n")[2]
    flat, nested, chatwoot = (
        normalise("message.created", json.loads(text)) for text in _EXAMPLE.findall(section)
    )
    assert flat == nested
    for message in (flat, chatwoot):
        assert isinstance(message, ChatMessage)
        assert message.text == "Hello!"
