"""What the polls of one workspace may use of a process."""

from contextlib import ExitStack

from services.oauth.polling.budget import (
    MAX_BYTES_PER_MINUTE,
    MAX_CONCURRENT_POLLS,
    MAX_POLLS_PER_MINUTE,
    PollBudget,
)


def test_polls_at_a_time() -> None:
    budget = PollBudget()
    with ExitStack() as stack:
        for _ in range(MAX_CONCURRENT_POLLS):
            assert budget.wait_s("one") == 0
            stack.enter_context(budget.poll("one"))
        assert budget.wait_s("one") > 0
        assert budget.wait_s("other") == 0
    assert budget.wait_s("one") == 0


def test_polls_per_minute() -> None:
    budget = PollBudget()
    for _ in range(MAX_POLLS_PER_MINUTE):
        assert budget.wait_s("one") == 0
        with budget.poll("one"):
            pass
    assert 0 < budget.wait_s("one") <= 60
    assert budget.wait_s("other") == 0


def test_bytes_per_minute() -> None:
    budget = PollBudget()
    with budget.poll("one"):
        budget.read("one", MAX_BYTES_PER_MINUTE - 1)
        assert budget.wait_s("one") == 0
        budget.read("one", 1)
    assert 0 < budget.wait_s("one") <= 60
    assert budget.wait_s("other") == 0
