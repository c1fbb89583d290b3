"""The durability tests' own instruments: journals, the report of them, and crash points."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.errors import Misconfigured
from shared.runtime.failpoints import FAILPOINT_VARIABLE, FAILPOINTS, failpoint, failpoint_for
from tests.support.journal import Fact, Journal, Reading
from tests.support.report import recovery, report

WANTED = {"a": ("x", "y"), "b": ("x",)}
SERVICES = Path(__file__).parents[2] / "services"
SHARED = Path(__file__).parents[2] / "shared"


def published(*events: str, kind: str = "x", outcome: str = "acknowledged") -> list[Fact]:
    """Intent and outcome of events that are called `<conversation>.<number>`."""
    facts: list[Fact] = []
    for event in events:
        conversation, _, number = event.partition(".")
        fact = {"event": event, "type": kind, "conversation": conversation, "number": int(number)}
        facts += [{"at": 1.0, "what": "intent", **fact}, {"at": 2.0, "what": outcome, **fact}]
    return facts


def answered(to: str, *events: str, status: int = 200, at: float = 3.0) -> list[Fact]:
    """What a path answered, in this order; the delivery of an event to it is `<path>/<event>`."""
    return [
        {"at": at, "to": to, "event": event, "delivery": f"{to}/{event}", "status": status}
        for event in events
    ]


def test_what_was_acknowledged_and_not_taken_is_lost_where_it_is_owed() -> None:
    facts = published("c.1", "c.2") + published("d.1", kind="y")
    answers = [*answered("a", "c.1", "d.1"), *answered("a", "c.2", status=503), *answered("b", "c.1", "c.2")]
    found = report(facts, answers, WANTED, {})
    assert found.lost == {"a": {"c.2"}, "b": set()}
    assert (found.acknowledged, found.lost_count, found.undecided) == (3, 1, 0)


def test_what_was_never_acknowledged_is_not_owed_and_not_invented() -> None:
    facts = published("c.1") + published("c.2", "c.3", outcome="failed")
    found = report(facts, answered("a", "c.1", "c.2") + answered("b", "c.1"), WANTED, {})
    assert (found.lost_count, found.undecided) == (0, 2)
    assert not found.invented


def test_an_event_that_was_sent_again_until_it_was_acknowledged_is_one_event() -> None:
    facts = published("c.1", outcome="failed") + published("c.1")
    found = report(facts, answered("a", "c.1") + answered("b", "c.1"), WANTED, {})
    assert (found.acknowledged, found.undecided, found.lost_count) == (1, 0, 0)


def test_what_nobody_published_or_wanted_there_is_invented() -> None:
    facts = published("c.1", kind="y")
    found = report(facts, answered("a", "c.1", "c.9") + answered("b", "c.1"), WANTED, {})
    assert found.invented == {"c.9", "c.1"}


def test_repeats_are_counted_and_are_not_disorder() -> None:
    facts = published("c.1", "c.2", "c.3")
    answers = answered("a", "c.1", "c.2", "c.1", "c.2", "c.3") + answered("b", "c.1", "c.2", "c.3")
    found = report(facts, answers, WANTED, {"a": ["a/c.1", "a/c.2", "a/c.1", "a/c.2", "a/c.3"]})
    assert found.duplicated == {"a": 2, "b": 0}
    assert found.out_of_order == {"a": set()}


def test_what_overtakes_in_its_conversation_or_on_the_topic_is_out_of_order() -> None:
    facts = published("c.1", "c.2", "d.1")
    order = {"a": ["a/c.1", "a/d.1", "a/c.2"]}
    within = report(facts, answered("a", "d.1", "c.2", "c.1"), WANTED, order)
    assert within.jumped == {"a": {"c.1"}}
    assert within.overtaking == {"a": {"d.1", "c.2"}}
    across = report(facts, answered("a", "c.1", "c.2", "d.1"), WANTED, order)
    assert across.jumped == {"a": set()}
    assert across.out_of_order == {"a": {"c.2"}}


def test_an_attempt_before_the_refused_head_is_taken_is_out_of_order_even_if_it_is_refused_too() -> None:
    facts, order = published("c.1", "c.2"), {"a": ["a/c.1", "a/c.2"]}
    refused = answered("a", "c.1", status=503)
    waits = refused + answered("a", "c.1", "c.2")
    overtakes = refused + answered("a", "c.2", status=503) + answered("a", "c.1", "c.2")
    assert report(facts, waits, WANTED, order).out_of_order == {"a": set()}
    assert report(facts, overtakes, WANTED, order).out_of_order == {"a": {"c.2"}}


def test_what_is_lost_does_not_make_all_that_follows_it_disorder() -> None:
    facts, order = published("c.1", "c.2", "c.3"), {"a": ["a/c.1", "a/c.2", "a/c.3"]}
    found = report(facts, answered("a", "c.2", "c.3"), WANTED, order)
    assert found.lost["a"] == {"c.1"}
    assert found.out_of_order == {"a": set()}


def test_recovery_counts_from_the_return_and_the_first_time_only() -> None:
    facts = published("c.1", "c.2")
    answers = [
        *answered("a", "c.1", at=4.0),
        *answered("a", "c.2", status=503, at=11.0),
        *answered("a", "c.2", at=13.0),
        *answered("a", "c.1", at=19.0),
    ]
    assert recovery(facts, answers, back=10.0) == (1.0, 3.0)
    assert recovery(facts, answers, back=14.0) == (5.0, 0.0)
    with pytest.raises(ValueError, match="nothing"):
        recovery(facts, answers, back=20.0)


def test_a_journal_survives_kill_9_of_its_writer_and_is_read_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writes = "import sys, os; from pathlib import Path; from tests.support.journal import Journal; "
    dies = f"j = Journal(Path({str(path)!r})); j.write('intent', event='e1'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", writes + dies], check=False).returncode == -signal.SIGKILL
    reading = Reading(path)
    assert [fact["event"] for fact in reading.look()] == ["e1"]
    Journal(path).write("intent", event="e2")
    with path.open("ab") as file:
        file.write(b'{"at": 1, "what": "int')
    assert [fact["event"] for fact in reading.look()] == ["e1", "e2"]
    with path.open("ab") as file:
        file.write(b'ent", "event": "e3"}\n')
    assert [fact["event"] for fact in reading.look()] == ["e1", "e2", "e3"]


def start_delivery(crash_at: str) -> subprocess.CompletedProcess[bytes]:
    """Start it with this crash point and nothing else that it needs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "MONGODB_"))}
    command = [sys.executable, "-m", "interlink", "serve", "delivery"]
    return subprocess.run(
        command, env=env | {FAILPOINT_VARIABLE: crash_at}, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize("setting", ["attempt.never", "attempt.sent:0", "attempt.sent:x", "attempt.sent:-1"])
def test_a_crash_point_that_there_is_not_stops_the_start_with_one_line(setting: str) -> None:
    with pytest.raises(Misconfigured, match=FAILPOINT_VARIABLE):
        failpoint_for(setting)


def test_the_start_says_which_crash_points_there_are() -> None:
    done = start_delivery("attempt.never")
    assert done.returncode != 0
    message = " ".join(done.stderr.decode().split())
    assert "Traceback" not in message
    assert FAILPOINT_VARIABLE in message
    assert "attempt.never" in message
    assert "schedule.written" in message


def test_without_the_variable_a_crash_point_is_nothing_at_all() -> None:
    assert failpoint is failpoint_for(None) is failpoint_for("")
    assert failpoint.__code__.co_code == (lambda _reached: None).__code__.co_code


def test_each_crash_point_stands_in_the_code_once() -> None:
    files = [*SERVICES.rglob("*.py"), *SHARED.rglob("*.py")]
    code = "\n".join(path.read_text("utf-8") for path in files if path.name != "failpoints.py")
    assert {name: code.count(f'failpoint("{name}")') for name in FAILPOINTS} == dict.fromkeys(FAILPOINTS, 1)
    assert code.count("failpoint(") == len(FAILPOINTS)


def test_a_crash_point_kills_at_the_given_time_it_is_reached(capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "from shared.runtime.failpoints import failpoint as reached\n"
        "for turn in (1, 2, 3): print(turn, flush=True); reached('attempt.read'); reached('attempt.sent')"
    )
    env: dict[str, Any] = os.environ | {FAILPOINT_VARIABLE: "attempt.sent:2"}
    assert subprocess.run([sys.executable, "-c", program], env=env, check=False).returncode == -signal.SIGKILL
    assert capfd.readouterr().out.split() == ["1", "2"]
