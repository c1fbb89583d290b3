"""The rules of `deploy/monitoring`: as generated, sound for promtool, and each alert fires and clears."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from docs.generator.__main__ import PROJECT
from docs.generator.alerts import ALERTS
from docs.generator.monitoring import FOLDER, monitoring_files
from docs.generator.site import expand_nav
from tests.deploy.alert_cases import CASES, promtool_document

RUNBOOKS = PROJECT / "docs/runbooks"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: str) -> str:
    """Run promtool; return its output. Fails with it if promtool does."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_committed_is_what_is_generated() -> None:
    written = {
        file.relative_to(FOLDER).as_posix(): file.read_text("utf-8")
        for file in FOLDER.rglob("*")
        if file.is_file()
    }
    assert written == monitoring_files(), "run `python -m docs.generator.monitoring`"


@needs_promtool
def test_the_rules_are_sound() -> None:
    promtool("check", "rules", str(FOLDER / "rules.yaml"))


@needs_promtool
def test_each_alert_fires_and_clears_when_it_should(tmp_path: Path) -> None:
    for name, cases in CASES.items():
        firing = [bool(labels) for labels in cases[0].checks.values()]
        assert True in firing[1:-1], name
        assert (firing[0], firing[-1]) == (False, False), name
    found = {
        (name, labels.get("severity", alert.severity))
        for alert in ALERTS
        for name, cases in CASES.items()
        if name == alert.name
        for case in cases
        for firing in case.checks.values()
        for labels in firing
    }
    assert found == {(alert.name, alert.severity) for alert in ALERTS}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(promtool_document(str(FOLDER / "rules.yaml"))), "utf-8")
    promtool("test", "rules", str(file))


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    names = {alert.runbook: alert.name for alert in ALERTS}
    pages = {f"runbooks/{file.name}": file.read_text("utf-8") for file in RUNBOOKS.glob("*.md")}
    assert pages.keys() == names.keys()
    for path, text in pages.items():
        title, *sections = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert title == names[path]
        assert re.search(
            r"^```(promql|sh)$", text.partition("## Diagnosis")[2].partition("## Fix")[0], re.MULTILINE
        ), path
        assert sections == ["Symptom", "Impact", "Diagnosis", "Fix", "Verify", "Rehearsal"], path
    nav = expand_nav(yaml.safe_load((PROJECT / "mkdocs.yml").read_text("utf-8"))["nav"], pages)
    assert all(path in str(nav) for path in pages)
