"""Every URL that a provider's template puts into a message is found as it was, by two CommonMark parsers."""

import re
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import unquote

import orjson
import pytest

from shared.manifests.message_templates import RenderedMessage
from shared.wire.message_template import MessageTemplateError
from tests.providers.recorded import WITH_WEBHOOKS, payloads, provider
from tests.support.markdown import shown

each_provider = pytest.mark.parametrize("name", WITH_WEBHOOKS)

PLANTED = "https://planted.example/o/r(x)/*a*/~b~.py?c=[1]&d=2#issuecomment"
"""Without `_` and `-`, which templates change in a provider's names and amounts."""
_MAX_PLANTED = 80
"""Payloads of one provider with the URL in one of their texts."""


def flaws(message: RenderedMessage) -> Iterator[str]:
    """What is wrong with the links of a message, and with the plain text of its title."""
    for text in (message.text, *(card.description or "" for card in message.embeds)):
        for seen in shown(text).values():
            for _visible, href in seen.links:
                if not re.match(r"https?://|mailto:", href, re.IGNORECASE) or "\\" in href:
                    yield f"a link to {href}"
            if seen.nested:
                yield f"a link in a link: {text}"
    for card in message.embeds:
        if re.search(r"\\[!-/:-@\[-`{-~]", card.title or ""):
            yield f"a backslash in the title {card.title}"


def lost(message: RenderedMessage) -> Iterator[str]:
    """Where the planted URL is seen, and is no link to it."""
    for text in (message.text, *(card.description or "" for card in message.embeds)):
        for seen in shown(text).values():
            found = [*(href for _visible, href in seen.links), *(visible for visible, _href in seen.links)]
            if "planted.example" in seen.text and not any(unquote(PLANTED) in each for each in found):
                yield f"the URL is no link in {text}"


def texts_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """The object or list that has a text, and its key."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        if isinstance(inner, str):
            yield value, key
        else:
            yield from texts_of(inner)


@each_provider
def test_the_links_of_recorded_events_are_found_intact(name: str) -> None:
    found = {
        f"{fixture}: {flaw}"
        for fixture, event, text in payloads(name)
        for flaw in flaws(provider(name).messages[event].message(orjson.loads(text)))
    }
    assert not found, "\n".join(sorted(found))


@each_provider
def test_a_url_in_any_text_of_a_payload_is_found_intact(name: str) -> None:
    """Where a template shows the text at all; what it only compares or counts shows nothing of the URL."""
    places = [
        (fixture, event, text, position)
        for fixture, event, text in payloads(name)
        for position, _ in enumerate(texts_of(orjson.loads(text)))
    ]
    if len(places) > _MAX_PLANTED:
        places = Random(name).sample(places, _MAX_PLANTED)  # noqa: S311 -- a sample
    found: set[str] = set()
    for fixture, event, text, position in places:
        for value in (PLANTED, f"see ({PLANTED}), <!here> `x`"):
            payload = orjson.loads(text)
            container, key = list(texts_of(payload))[position]
            container[key] = value
            try:
                message = provider(name).messages[event].message(payload)
            except MessageTemplateError:
                continue
            found |= {f"{fixture}: {key}: {flaw}" for flaw in (*flaws(message), *lost(message))}
    assert not found, "\n".join(sorted(found))
