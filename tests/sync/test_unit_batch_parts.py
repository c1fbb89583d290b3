"""What a message costs that goes to as many legs as a workspace may have."""

from typing import Any

import structlog

from services.sync.mapping_rings import MAX_PER_CONVERSATION
from services.sync.model.mapping import CHAT, MAX_LEGS, Leg, Mapping
from services.sync.store.mapping_index import MappedLeg
from services.sync.translate.context import Context
from services.sync.translate.incoming import Incoming
from services.sync.translate.text import People
from services.sync.translate.translator import Translator
from shared.connections.channel_accounts import AccountRef
from shared.contracts.chat import ChatAuthor
from shared.contracts.envelope import Event, now
from shared.manifests.channel_types import ConversationMoved, MessageDeleted
from shared.richtext.tree import Document, Paragraph, UserMention
from shared.runtime.clock import utcnow

_MESSAGES = 200
_TEXT = 40_000


class Index:
    """Mappings of one channel of the chat, which is called `current`."""

    def __init__(self, mappings: int, legs: int) -> None:
        times: dict[str, Any] = {"created_at": utcnow(), "changed_at": utcnow()}
        places = [
            Leg(id=str(number), provider=CHAT, account="ws", conversation=f"c{number}")
            for number in range(legs)
        ]
        self.found = [
            MappedLeg(Mapping(id=str(number), workspace="ws", legs=tuple(places), **times), places[0])
            for number in range(mappings)
        ]
        self.current = "c0"

    def find(self, _workspace: str, _provider: str, _account: str, conversation: str) -> list[MappedLeg]:
        return self.found if conversation == self.current else []


def translator(index: Index) -> Translator:
    parts: list[Any] = [None, None, index, *[None] * 7, structlog.get_logger()]
    return Translator(*parts)


def incoming(change: Any, size: int) -> Incoming:
    event = Event("evt_1", "message.created", "/chat", "ws", now(), b"x" * size, "c0", "")
    return Incoming(event, AccountRef("ws", CHAT, "ws"), change, utcnow())


def test_what_a_hostile_workspace_has_published_at_a_time_is_bounded() -> None:
    index = Index(MAX_PER_CONVERSATION, MAX_LEGS)
    changes = [incoming(MessageDeleted(str(number), "c0"), _TEXT) for number in range(_MESSAGES)]
    parts = list(translator(index)._parts(changes))
    assert [item for part in parts for item, _ in part] == changes
    assert max(map(len, parts)) * MAX_PER_CONVERSATION * MAX_LEGS * _TEXT <= 8 * 1024 * 1024
    usual = Index(1, 3)
    assert len(list(translator(usual)._parts([incoming(item.change, 2_000) for item in changes]))) == 1


def test_a_text_with_mentions_is_rendered_once_for_each_account() -> None:
    rendered = 0

    def name(_ref: AccountRef, _person: str) -> str:
        nonlocal rendered
        rendered += 1
        return "Ada"

    index = Index(1, MAX_LEGS)
    mapping, _ = index.found[0]
    slack = [Leg(id=account, provider="slack", account=account, conversation="C") for account in ("T1", "T2")]
    ref, author = AccountRef("ws", "slack", "T0"), ChatAuthor(id="U0")
    parts: list[Any] = [None, index, People({}, {}), name, None, None, None]
    body = Document((Paragraph((UserMention("U1", ""),)),))
    text_of = Context(*parts).texts(ref, body, mapping, author)
    assert {text_of(leg) for leg in (*mapping.legs, *slack)} == {r"\@Ada"}
    assert rendered == 3


def test_what_follows_a_move_is_looked_up_after_it() -> None:
    index = Index(1, 2)
    moved = incoming(ConversationMoved("c0", "new"), 10)
    after = incoming(MessageDeleted("m", "new"), 10)
    parts = iter(translator(index)._parts([moved, after]))
    assert [item for item, _ in next(parts)] == [moved]
    index.current = "new"
    assert [item for item, _ in next(parts)] == [after]
