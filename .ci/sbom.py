"""Write the bill of materials of the image: `make sbom`.

`build/sbom.cdx.json` (CycloneDX 1.6) has each package of `requirements.lock` with its version, the hashes of
its published files, and its license; `build/licenses.md` is the same as a table for people. What Debian
brings with the base image is not in it: an image scanner lists that.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL
from packaging.markers import Marker

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
_NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX identifiers of the names that packages without a license expression give."""
_IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
"""The system that the image is for: the lock has packages of others, too."""


def packages(lock: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name, the version and the SHA-256 hashes of each package of a lock file."""
    for entry in re.split(r"\n(?=[a-z0-9])", lock.read_text(encoding="utf-8")):
        found = re.match(r"([a-z0-9._-]+)==([^\s;]+)(?: ; ([^\\\n]+))?", entry)
        if found and (not found[3] or Marker(found[3]).evaluate(_IMAGE)):
            yield found[1], found[2], re.findall(r"sha256:([0-9a-f]{64})", entry)


def license_of(name: str) -> str:
    """Return the SPDX expression of an installed package's license; empty if it is not known."""
    try:
        described = metadata(name)
    except PackageNotFoundError:  # of another system, such as Windows
        return ""
    classifiers = [item.rpartition(" :: ")[2] for item in described.get_all("Classifier") or []]
    candidates = [
        described.get("License-Expression"),
        _NAMES.get(described.get("License") or "", described.get("License")),
        " OR ".join(_NAMES[item] for item in classifiers if item in _NAMES),
    ]
    for candidate in filter(None, candidates):
        try:
            return str(get_spdx_licensing().parse(candidate, validate=True))
        except ExpressionError:  # a sentence instead of an identifier
            continue
    return ""


def bill(lock: Path = LOCK) -> Bom:
    """Return the bill of materials of what a lock file installs."""
    bom = Bom()
    bom.metadata.component = Component(
        name="interlink", version=version("interlink"), type=ComponentType.APPLICATION, bom_ref="interlink"
    )
    spdx = LicenseFactory()
    for name, locked, hashes in packages(lock):
        expression = license_of(name)
        url = PackageURL("pypi", None, name, locked)
        files = [
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(f"https://pypi.org/project/{name}/{locked}/"),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=item) for item in hashes],
            )
        ]
        component = Component(
            name=name,
            version=locked,
            type=ComponentType.LIBRARY,
            bom_ref=str(url),
            purl=url,
            licenses=[spdx.make_with_expression(expression)] if expression else (),
            external_references=files,
        )
        bom.components.add(component)
        bom.register_dependency(bom.metadata.component, [component])
    return bom


def table(lock: Path = LOCK) -> str:
    """Return packages, versions and licenses as a table of Markdown."""
    rows = [f"| {name} | {locked} | {license_of(name) or 'unknown'} |" for name, locked, _ in packages(lock)]
    return "\n".join(("| package | version | license |", "|---|---|---|", *rows, ""))


def main(folder: Path) -> None:
    """Write both files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sbom.cdx.json").write_text(JsonV1Dot6(bill()).output_as_string(indent=2), encoding="utf-8")
    (folder / "licenses.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build")
