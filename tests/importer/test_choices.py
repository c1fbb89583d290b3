"""Choices of a reader: what a person answers before an export is read."""

from collections.abc import Mapping

import pytest

from shared.manifests.history_types import Option, Unreadable, answers_in_effect, choice

QUESTION = "In which order are the dates?"
ORDERS = (Option("dmy", "31.12.2024"), Option("mdy", "12/31/2024"))


@pytest.mark.parametrize(
    ("answers", "proposed", "expected"),
    [({}, None, {}), ({}, "dmy", {"order": "dmy"}), ({"order": "mdy"}, "dmy", {"order": "mdy"})],
)
def test_the_answer_of_a_person_goes_before_the_proposal(
    answers: Mapping[str, str], proposed: str | None, expected: Mapping[str, str]
) -> None:
    asked = choice("order", QUESTION, ORDERS, answers, proposed=proposed, required=False)
    assert answers_in_effect([asked]) == expected


def test_an_answer_that_is_no_option_is_refused_with_the_options() -> None:
    with pytest.raises(Unreadable, match="order: 'ymd' is no answer: choose one of dmy, mdy"):
        choice("order", QUESTION, ORDERS, {"order": "ymd"})


def test_a_required_choice_has_to_be_answered() -> None:
    with pytest.raises(Unreadable, match="order is not answered: In which order"):
        answers_in_effect([choice("order", QUESTION, ORDERS, {})])
