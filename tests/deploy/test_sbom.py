"""The bill of materials: complete, valid, and with a license of every package that one may ship."""

import importlib.util
import json
from pathlib import Path

from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.deploy.test_containers import ROOT, locked

_SPEC = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
assert _SPEC
assert _SPEC.loader
sbom = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sbom)

OF_WINDOWS = {"colorama"}
PERMISSIVE = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0")


def test_it_is_valid_and_names_every_locked_package_with_hashes_and_license() -> None:
    text = JsonV1Dot6(sbom.bill()).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    assert {item["name"] for item in components} == set(locked("requirements.lock")) - OF_WINDOWS
    for item in components:
        assert item["externalReferences"][0]["hashes"], item["name"]
        [described] = item["licenses"]
        expression = described["expression"]
        for name in expression.replace("(", " ").replace(")", " ").split():
            assert name in (*PERMISSIVE, "AND", "OR"), f"{item['name']}: {expression}"


def test_the_table_for_people_has_no_unknown_license(tmp_path: Path) -> None:
    sbom.main(tmp_path)
    rows = (tmp_path / "licenses.md").read_text("utf-8").splitlines()[2:]
    assert len(rows) == len(locked("requirements.lock")) - len(OF_WINDOWS)
    assert not [row for row in rows if "unknown" in row]
