"""The step of `make check` that holds code and documents to the glossary."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("vocabulary", ROOT / ".ci" / "vocabulary.py")
assert _SPEC
assert _SPEC.loader
vocabulary = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(vocabulary)


@pytest.mark.parametrize(
    "code",
    [
        "class Door: ...",
        "def tell_untold(): ...",
        "async def f(whose): ...",
        "MOST_EVENTS = 1",
        "self.keptSecret = 1",
        "for said in (): pass",
    ],
)
def test_a_replaced_word_in_an_identifier_is_a_fault(code: str) -> None:
    [fault] = vocabulary.faults("services/x.py", code)
    assert fault.startswith("services/x.py:1: ")
    assert len(list(vocabulary.faults("tests/x.py", code))) == 1
    assert list(vocabulary.faults("bench/x.py", code)) == []


@pytest.mark.parametrize("code", ["class Doorbell: ...", "always = almost = 1", "x.kept", "f(told=1)"])
def test_other_words_and_uses_are_not(code: str) -> None:
    assert list(vocabulary.faults("services/x.py", code)) == []


def test_the_name_of_a_test_is_a_sentence_with_a_few_words_more() -> None:
    assert list(vocabulary.faults("tests/x.py", "def test_the_most_that_fits(): ...")) == []
    assert list(vocabulary.faults("tests/x.py", "def test_what_is_told(): ...")) != []
    assert list(vocabulary.faults("tests/x.py", "def most(): ...")) != []


def test_stored_names_stay() -> None:
    for path, names in vocabulary.STORED.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert all(name in text for name in names)
        assert list(vocabulary.faults(path, text)) == []


def test_a_phrase_is_a_fault_in_code_and_documents() -> None:
    phrase = "made " + "anew"
    [fault] = vocabulary.faults("README.md", f"One.\n\nA token is {phrase}.\n")
    assert fault.startswith(f"README.md:3: {phrase!r}")
