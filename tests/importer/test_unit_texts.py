"""What `interlink import` shows of questions that an export leaves open."""

from interlink.imports.texts import choice_lines


def choice(values: list[str], answer: str | None) -> dict[str, object]:
    return {
        "id": "time_zone",
        "text": "In which time zone are the times?",
        "answer": answer,
        "options": [{"value": value, "text": value.lower()} for value in values],
    }


def test_a_few_answers_are_shown_each_with_the_chosen_one_marked() -> None:
    assert list(choice_lines(choice(["A", "B"], "B"))) == [
        "In which time zone are the times? (--answer time_zone=VALUE)",
        "    A: a",
        "  * B: b",
    ]


def test_of_many_answers_the_chosen_one_and_the_range_are_shown() -> None:
    values = [f"Zone/{number}" for number in range(60)]
    assert list(choice_lines(choice(values, "Zone/7")))[1:] == [
        "  * Zone/7",
        "    one of 60 values, from Zone/0 to Zone/59",
    ]
