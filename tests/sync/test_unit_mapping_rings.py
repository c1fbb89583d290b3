"""Rings of mappings: found in one direction, over any number of mappings, at a bounded cost."""

from collections.abc import Sequence
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sync.mapping_rings import MAX_PER_CONVERSATION, ring_problem
from services.sync.model.mapping import Direction, Leg
from services.sync.store.mappings import MappingEdges

Legs = Sequence[tuple[str, Direction]]


def legs(*named: tuple[str, Direction]) -> tuple[Leg, ...]:
    return tuple(
        Leg(id=f"leg_{number}", provider="chat", account="default", conversation=name, direction=direction)
        for number, (name, direction) in enumerate(named)
    )


def stored(*mappings: Legs) -> list[MappingEdges]:
    return [edges(f"map_{number}", legs(*named)) for number, named in enumerate(mappings)]


def edges(mapping_id: str, made: Sequence[Leg]) -> MappingEdges:
    places = ((leg.provider, leg.conversation, leg.direction) for leg in made)
    return MappingEdges.of(mapping_id, "", places)


@pytest.mark.parametrize(
    ("named", "others", "culprits"),
    [
        ((("a", "both"), ("b", "both")), [], []),
        ((("a", "both"), ("c", "both")), [(("a", "both"), ("b", "both"))], []),
        ((("a", "in"), ("b", "out")), [(("a", "both"), ("b", "both"))], ["map_0"]),
        ((("b", "in"), ("a", "out")), [(("a", "in"), ("b", "out"))], ["map_0"]),
        ((("a", "in"), ("b", "out")), [(("a", "in"), ("b", "in"), ("c", "out"))], []),
        (
            (("c", "in"), ("a", "out")),
            [(("a", "in"), ("b", "out")), (("b", "in"), ("c", "out"))],
            ["map_0", "map_1"],
        ),
        (
            (("c", "out"), ("a", "in")),
            [(("a", "in"), ("b", "out")), (("b", "in"), ("c", "out"))],
            [],
        ),
        (
            (("c", "both"), ("a", "both")),
            [(("a", "both"), ("b", "both")), (("b", "both"), ("c", "both"))],
            ["map_0", "map_1"],
        ),
    ],
)
def test_a_ring_names_its_mappings(named: Legs, others: Sequence[Legs], culprits: list[str]) -> None:
    problem = ring_problem(legs(*named), stored(*others))
    assert [name for name in ("map_0", "map_1") if name in problem] == culprits
    assert bool(problem) is bool(culprits)


def test_two_accounts_in_one_conversation_are_one_place() -> None:
    def shared(account: str) -> Leg:
        return Leg(id="leg_s", provider="slack", account=account, conversation="C1")

    other = [edges("map_0", (shared("T1"), *legs(("a", "both"))))]
    assert "map_0" in ring_problem((shared("T2"), *legs(("a", "both"))), other)


@st.composite
def mappings(draw: st.DrawFn) -> list[Legs]:
    names = st.sampled_from("abcdef")
    directions: st.SearchStrategy[Direction] = st.sampled_from(("both", "in", "out"))
    one = st.dictionaries(names, directions, min_size=2, max_size=4).map(lambda found: tuple(found.items()))
    return draw(st.lists(one, min_size=1, max_size=8))


@given(mappings())
def test_messages_never_come_back_by_mappings_that_were_accepted(candidates: list[Legs]) -> None:
    """Follow a message from mapping to mapping: it never gets to where it was written."""
    accepted: dict[str, tuple[Leg, ...]] = {}
    for number, named in enumerate(candidates):
        made = legs(*named)
        if not ring_problem(made, [edges(name, other) for name, other in accepted.items()]):
            accepted[f"map_{number}"] = made
    for start in "abcdef":
        waiting: list[tuple[str, str]] = [(start, "")]
        seen = {start}
        while waiting:
            place, came_by = waiting.pop()
            for name, mapping in accepted.items():
                if name == came_by:
                    continue
                senders = [leg for leg in mapping if leg.sends and leg.conversation == place]
                for leg in mapping if senders else ():
                    if leg.receives and leg.conversation != place:
                        assert leg.conversation != start, accepted
                        if leg.conversation not in seen:
                            seen.add(leg.conversation)
                            waiting.append((leg.conversation, name))


def test_the_check_of_a_full_workspace_takes_little_time() -> None:
    """A workspace has 1,000 mappings, and every message of the service waits for a check."""
    chain: list[Legs] = [
        [(f"c{9 * number + position}", "both") for position in range(10)] for number in range(1000)
    ]
    others = stored(*chain)
    everywhere = legs(*((f"c{900 * number}", "out") for number in range(9)), ("new", "in"))
    times: list[float] = []
    for _ in range(3):
        started = process_time()
        assert ring_problem(everywhere, others) == ""
        times.append(process_time() - started)
    assert min(times) < 0.5


def test_a_conversation_sends_to_a_bounded_number_of_mappings() -> None:
    others = [stored((("a", "in"), (f"b{number}", "out")))[0] for number in range(MAX_PER_CONVERSATION)]
    assert "20 mappings already" in ring_problem(legs(("a", "in"), ("c", "out")), others)
    assert ring_problem(legs(("c", "in"), ("a", "out")), others) == ""
    assert ring_problem(legs(("a", "in"), ("c", "out")), others[1:]) == ""
