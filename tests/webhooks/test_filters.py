"""Filters: each criterion on events of several producers, what is missing, and settings from anybody."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.webhooks.filters import EventFilter, FilterSettings
from shared.wire.expressions import MAX_CONDITION_STEPS, BudgetExceeded, Expression, ExpressionError
from tests.webhooks.test_event_fields import CHATWOOT, NCHAT, PROVIDER, event_fields

BY_BOT = CHATWOOT | {"sender": {"id": 8, "name": "Helper", "type": "agent_bot"}}
JOINED = {"userId": "u1", "workspaceId": "acme"}
OURS = NCHAT | {"origin": {"integration_id": "int_1", "endpoint_id": "ep_1"}}


def outcome(settings: dict[str, Any], data: Any, own: str = "") -> tuple[bool, str]:
    event_filter = EventFilter.from_stored(settings)
    assert event_filter is not None
    event = event_fields(data)
    passes, reason = event_filter.explain(event, own)
    assert event_filter.matches(event, own) is passes
    assert passes is not bool(reason), "there is a reason only if the event does not pass"
    return passes, reason


@pytest.mark.parametrize(
    ("settings", "data", "passes"),
    [
        ({"channels": ["c1", "c7"]}, NCHAT, True),
        ({"channels": ["c1"]}, NCHAT, False),
        ({"channels": ["3"]}, CHATWOOT, True),
        ({"channels": ["c7"]}, JOINED, False),
        ({"conversations": ["t3"]}, NCHAT, True),
        ({"conversations": ["42"]}, CHATWOOT, True),
        ({"conversations": ["4"]}, CHATWOOT, False),
        ({"conversations": ["general"]}, PROVIDER, True),
        ({"users": ["u1"]}, NCHAT, True),
        ({"users": ["ada"]}, NCHAT, True),
        ({"users": ["5"]}, CHATWOOT, True),
        ({"users": ["Ada"]}, CHATWOOT, True),
        ({"users": ["u1"]}, JOINED, True),
        ({"users": ["u1"]}, PROVIDER, False),
        ({"mentions": ["grace"]}, NCHAT, True),
        ({"mentions": ["u3", "nobody"]}, NCHAT, True),
        ({"mentions": ["Grace Hopper"]}, CHATWOOT, True),
        ({"mentions": ["lin"]}, {"content": "@lin: done"}, True),
        ({"mentions": ["li"]}, {"content": "@lin: done"}, False),
        ({"mentions": ["4"]}, CHATWOOT, False),
        ({"mentions": ["u1"]}, JOINED, False),
        ({"content": r"(?i)\bDEPLOY\b"}, NCHAT, True),
        ({"content": "^deploy"}, CHATWOOT, False),
        ({"content": ".*"}, JOINED, False),
        ({"has_attachments": True}, NCHAT, True),
        ({"has_attachments": True}, CHATWOOT, False),
        ({"has_attachments": False}, NCHAT, False),
        ({"has_attachments": False}, CHATWOOT, True),
        ({"has_attachments": False}, JOINED, True),
        ({"exclude_bots": True}, CHATWOOT, True),
        ({"exclude_bots": True}, BY_BOT, False),
        ({"exclude_bots": True}, PROVIDER, True),
        ({"condition": "data.author.username == 'ada'"}, NCHAT, True),
        ({"condition": "actor.id == `5` && data.private"}, CHATWOOT, True),
        (
            {"condition": "origin.provider == 'forge' && data.payload.ref == 'refs/heads/main'"},
            PROVIDER,
            True,
        ),
        ({"condition": "type == 'message.deleted'"}, NCHAT, False),
        ({"condition": "data.nothing"}, NCHAT, False),
        ({"condition": "data.mentions[?id == 'u3']"}, NCHAT, True),
        ({"condition": "data.mentions[?id == 'u4']"}, NCHAT, False),
        (
            {"channels": ["c7"], "users": ["ada"], "condition": "starts_with(data.content, 'deploy')"},
            NCHAT,
            True,
        ),
        ({"channels": ["c7"], "users": ["grace"]}, NCHAT, False),
        ({"channels": ["c7"], "content": "rollback"}, NCHAT, False),
    ],
)
def test_criteria(settings: dict[str, Any], data: Any, passes: bool) -> None:
    assert outcome(settings, data)[0] is passes


@pytest.mark.parametrize(("own", "passes"), [("int_1", False), ("ep_1", False), ("int_2", True), ("", True)])
def test_events_of_ones_own_integration(own: str, passes: bool) -> None:
    assert outcome({"exclude_own": True}, OURS, own)[0] is passes
    assert outcome({"exclude_own": True}, NCHAT, own)[0] is True


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"channels": ["c1"], "users": ["u9"]}, "channels: the event is in none of them"),
        ({"users": ["u9"], "content": "x"}, "users: none of them is the actor"),
        ({"has_attachments": False}, "has_attachments: there are some"),
        ({"content": "rollback"}, "content: the pattern is not in the text"),
        ({"condition": "!data"}, "condition: is false for this event"),
        ({"condition": "length(data.nothing) > `1`"}, "condition: length() met a value of type null"),
        (
            {"condition": "abs(data.content) > `1`"},
            "condition: abs() met a value of type string, it takes number",
        ),
        ({"channels": ["c1"], "condition": "abs(data.content)"}, "channels: "),
    ],
)
def test_the_first_criterion_that_is_not_met_is_reported(settings: dict[str, Any], reason: str) -> None:
    passes, actual = outcome(settings, NCHAT)
    assert not passes
    assert actual.startswith(reason)


def test_a_condition_over_its_budget_is_never_silently_false() -> None:
    wide = NCHAT | {"rows": [{"a": 1}] * 30_000}
    for condition in ("data.rows[?a == `1`]", "data.rows[?a == `2`]", "length(data.rows) == `30000`"):
        checked = EventFilter.from_stored({"condition": condition})
        assert checked is not None
        with pytest.raises(BudgetExceeded, match=f"condition: takes more than {MAX_CONDITION_STEPS} steps"):
            checked.evaluate(event_fields(wide), "")
        passes, actual = outcome({"condition": condition}, wide)
        assert (passes, actual.partition(":")[0]) == (False, "condition_too_expensive")


ROWS = [
    {
        "id": f"u{number}",
        "name": f"user {number}",
        "count": number,
        "emoji": "+1",
        "active": number % 2 == 0,
        "labels": ["urgent", "later"],
        "author": {"id": f"u{number}", "username": "ada"},
        "text": "deploy the api " * 3,
        "added": ["README.md"] * 5,
    }
    for number in range(100)
]
HUNDREDS = {
    "n": 5,
    "user": "usr_1",
    "webhook_id": "wh_1",
    "content": "deploy the api " * 20,
    "author": {"id": "u1", "username": "ada"},
    "labels": [f"label {number}" for number in range(99)] + ["urgent"],
    "mentions": ROWS,
    "reactions": ROWS,
    "payload": {"ref": "refs/heads/main", "commits": ROWS},
}
"""An event whose every list has a hundred elements."""

CONDITIONS = [
    "data.user == 'usr_1'",
    "data.n > `3` && contains(data.labels, 'urgent')",
    "actor.id == 'u1'",
    "data.author.username == 'ada'",
    "origin.provider == 'forge' && data.payload.ref == 'refs/heads/main'",
    "data.mentions[?id == 'u99']",
    "starts_with(data.content, 'deploy')",
    "data.reactions[?count > `2`].emoji",
    "sort_by(data.reactions, &count)[0].emoji == '+1'",
    "max_by(data.reactions, &count).count > `10`",
    "contains(data.mentions[].author.username, 'bob')",
    "data.reactions[*].emoji | join(', ', @) | contains(@, 'eyes')",
    "data.payload.commits[?contains(added, 'docs/index.md')]",
    "data.payload.commits[].added[] | contains(@, 'docs/index.md')",
    "length(data.payload.commits[?active && contains(text, 'deploy') && author.username == 'ada']) > `3`",
    "data.mentions == data.reactions",
    "data.mentions[?labels[?@ == 'urgent']]",
]
"""As the documents and tests have them, and what a list of a hundred is usually asked for."""


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_budget_is_twice_what_a_condition_on_hundreds_takes(condition: str) -> None:
    assert (
        Expression(condition, max_steps=MAX_CONDITION_STEPS // 2).holds(event_fields(HUNDREDS).document)
        is not None
    )


@pytest.mark.parametrize("settings", [{}, {"channels": []}, {"exclude_bots": False, "condition": None}])
def test_a_filter_that_asks_for_nothing_is_none(settings: dict[str, Any]) -> None:
    assert EventFilter.from_stored(settings) is None


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ({"channels": ["c"] * 201}, "channels", "at most 200 items"),
        ({"users": ["u" * 201]}, "users.0", "at most 200 characters"),
        ({"mentions": [""]}, "mentions.0", "at least 1 character"),
        ({"conversations": "42"}, "conversations", "valid list"),
        ({"content": "(a"}, "content", "not a valid RE2 pattern: missing )"),
        ({"content": r"(a)\1"}, "content", "not a valid RE2 pattern: invalid escape sequence"),
        ({"content": "(?=a)"}, "content", "not a valid RE2 pattern: invalid perl operator"),
        ({"content": "(?:a?){1000}(?:a){1000}"}, "content", "too large"),
        ({"content": r"(?i)(\pL\pN){0,50}z"}, "content", "pattern too large"),
        ({"content": "a" * 501}, "content", "at most 500 characters"),
        ({"content": ""}, "content", "at least 1 character"),
        ({"content": "\ud800"}, "content", "valid string"),
        ({"condition": "data.author ="}, "condition", "not JMESPath at character 13"),
        ({"condition": "lower(data.content)"}, "condition", "no function lower(), there are abs"),
        ({"condition": "length(a, b)"}, "condition", "length() takes 1 arguments, not 2"),
        ({"condition": ""}, "condition", "at least 1 character"),
        ({"condition": "a" * 4001}, "condition", "at most 4000 characters"),
        ({"has_attachments": "perhaps"}, "has_attachments", "valid boolean"),
        ({"channel": ["c1"]}, "channel", "not permitted"),
    ],
)
def test_settings_are_checked_and_the_field_is_named(settings: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ValidationError) as error:
        FilterSettings.model_validate(settings)
    first = error.value.errors()[0]
    assert ".".join(map(str, first["loc"])) == field
    assert says in first["msg"]
    with pytest.raises(ExpressionError, match=rf"^filter: {field}: "):
        EventFilter.from_stored(settings)


def test_settings_come_back_from_the_store_as_they_were() -> None:
    settings = FilterSettings(channels=["c7"], content="deploy", exclude_own=True, condition="data")
    for stored in (settings.model_dump(), settings.model_dump(exclude_defaults=True)):
        again = EventFilter.from_stored(stored)
        assert again is not None
        assert again.matches(event_fields(NCHAT), "int_1")
        assert not again.matches(event_fields(OURS), "int_1")


def test_a_pattern_is_looked_for_at_the_beginning_of_long_words() -> None:
    assert outcome({"content": "needle"}, {"content": "x" * 9_990 + "needle"})[0]
    assert not outcome({"content": "needle"}, {"content": "x" * 10_001 + "needle"})[0]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "pattern",
    ["(a+a+)+c", "(a|aa)+$c", "(.*a){30}c", "[ab]*a[ab]{200}c", "(?:a?){400}(?:a){400}c", "(.|a){0,200}c"],
)
def test_no_pattern_takes_long(pattern: str) -> None:
    """Each would keep a backtracking matcher busy for longer than anybody waits."""
    event_filter = EventFilter.from_stored({"content": pattern})
    assert event_filter is not None
    for _ in range(20):
        assert not event_filter.matches(event_fields({"content": "ab" * 500 + "a" * 1_000_000}), "")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["ada", "c7", "deploy", ""]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["author", "channelId", "content", "id", "mentions", "origin", "attachments"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    )
)
def test_a_filter_never_raises_and_always_tells(data: Any) -> None:
    for settings in (
        {"channels": ["c7"], "users": ["ada"], "mentions": ["ada"], "content": "deploy"},
        {"has_attachments": False, "exclude_bots": True, "exclude_own": True},
        {"condition": "sort_by(data.attachments, &id)[0].id > `0` || join('', data.mentions) == 'ada'"},
    ):
        outcome(settings, data, "c7")
