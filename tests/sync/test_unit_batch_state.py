"""What a batch writes keeps what others have written since it read: two processes may have one partition."""

from collections.abc import AsyncIterator
from datetime import timedelta
from secrets import token_hex
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from services.sync.model.synced_message import PersonReaction, SyncedMessage, Target
from services.sync.store.messages import SyncedMessages, field_update, insertion, target_update
from services.sync.translate.batch_state import BatchState
from services.sync.translate.echoes import Echoes
from services.sync.translate.reactions import Reactions
from shared.connections.channel_accounts import AccountRef
from shared.contracts.chat import ChatAuthor
from shared.manifests.channel_types import MessageWritten, Person, Place, ReactionChanged
from shared.richtext.tree import Document
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store


@pytest.fixture
async def messages(store: Store) -> AsyncIterator[SyncedMessages]:
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    yield SyncedMessages(mongo)
    mongo.close()


def message(**fields: Any) -> SyncedMessage:
    now = utcnow()
    texts = {"message_id": "msg_1", "provider": "chat", "account": "ws", "conversation": "general"}
    times: dict[str, Any] = {"received_at": now, "expires_at": now + timedelta(days=1)}
    given: dict[str, Any] = {**texts, **times, "external_id": "m", **fields}
    return SyncedMessage(id=f"syn_{token_hex(8)}", workspace="ws", mapping_id="map_1", leg="chat", **given)


def target(**fields: Any) -> dict[str, Target]:
    return {"slack": Target(leg="slack", provider="slack", account="T1", conversation="C1", **fields)}


async def read(messages: SyncedMessages, synced_id: str) -> SyncedMessage:
    found = await messages.find(synced_id)
    assert found is not None
    return found


async def loaded(messages: SyncedMessages, synced_id: str) -> BatchState:
    state = BatchState(messages)
    await state.load({synced_id})
    return state


async def test_a_message_that_came_twice_is_not_to_be_sent_again(messages: SyncedMessages) -> None:
    """Its first owner was late: the second one has stored and sent the message."""
    expected = message(has_come=False)
    await messages.write([insertion(expected)])
    late, owner = [await loaded(messages, expected.id) for _ in range(2)]
    come = expected.model_copy(update={"has_come": True, "targets": target(), "excerpt": "hello"})
    owner.complete(come)
    await owner.save()
    await messages.write([target_update(come.id, "slack", {"state": "sent", "parts": ("1.0",)})])
    late.complete(come)
    await late.save()
    stored = await read(messages, come.id)
    assert (stored.has_come, stored.excerpt) == (True, "hello")
    assert (stored.targets["slack"].state, stored.targets["slack"].parts) == ("sent", ("1.0",))


async def test_a_reaction_that_is_stored_while_its_message_comes_stays(messages: SyncedMessages) -> None:
    expected = message(has_come=False)
    await messages.write([insertion(expected)])
    state = await loaded(messages, expected.id)
    reaction = PersonReaction(leg="slack", person="U1", emoji="👍", added=True, at=1.0)
    await messages.write([field_update(expected.id, {"reactions.x": reaction.document()})])
    state.complete(expected.model_copy(update={"has_come": True, "targets": target()}))
    await state.save()
    assert (await read(messages, expected.id)).reactions == {"x": reaction}


@pytest.mark.parametrize(
    ("sent_meanwhile", "expected"),
    [(("", "2.0"), ("1.0", "2.0")), (("9.0", "2.0"), ("9.0", "2.0")), ((), ())],
    ids=["another part was sent", "its id is known", "it was removed"],
)
async def test_the_id_of_a_part_replaces_nothing_that_was_stored_meanwhile(
    messages: SyncedMessages, sent_meanwhile: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    sent = message(targets=target(state="waiting", parts=("",)))
    await messages.write([insertion(sent)])
    state = await loaded(messages, sent.id)
    await messages.write([target_update(sent.id, "slack", {"state": "sent", "parts": sent_meanwhile})])
    incoming = SimpleNamespace(ref=AccountRef("ws", "slack", "T1"))
    context = SimpleNamespace(state=state, echoes=0)
    change = MessageWritten("1.0", Place("C1"), Person("U0"), Document(()), permalink="https://slack.test/1")
    read_before = state.message(sent.id)
    assert read_before is not None
    Echoes(cast("Any", context)).note_own(cast("Any", incoming), read_before, "slack", 0, change)
    await state.save()
    stored = (await read(messages, sent.id)).targets["slack"]
    assert (stored.parts, stored.permalink) == (expected, "https://slack.test/1")


@pytest.mark.parametrize("added", [False, True])
async def test_reactions_that_were_removed_make_room_for_others(
    messages: SyncedMessages, added: bool
) -> None:
    """One person can set and remove as many emoji as they like."""
    reactions = {
        f"k{number}": PersonReaction(leg="slack", person="U1", emoji=f"e{number}", added=added, at=number)
        for number in range(200)
    }
    stored = message(reactions=reactions)
    await messages.write([insertion(stored)])
    state = await loaded(messages, stored.id)
    context = SimpleNamespace(
        state=state,
        locate=lambda *_: (stored.id, None),
        author=lambda _, person: ChatAuthor(id=person.id, name=person.name),
    )
    mapping = SimpleNamespace(options=SimpleNamespace(reactions=True), legs=())
    mapped = cast("Any", (mapping, SimpleNamespace(id="slack", sends=True)))
    change = ReactionChanged("m", "C1", Person("U2"), "new", True, 300.0)
    incoming = SimpleNamespace(ref=AccountRef("ws", "slack", "T1"))
    Reactions(cast("Any", context)).react(cast("Any", incoming), change, mapped)
    await state.save()
    found = (await read(messages, stored.id)).reactions
    assert len(found) == 200
    assert ("k0" in found, "new" in {reaction.emoji for reaction in found.values()}) == (added, not added)
