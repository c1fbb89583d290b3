"""Build the documentation site in `build/docs/site`, without a network."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from docs.generator.site import SiteError, find_external_resources, stage

PROJECT: Final = Path(__file__).parents[2]


def build_site(project: Path, build: Path) -> int:
    """Build the site in `build/site`, and return the number of its pages.

    Raises `SiteError` if a link leads nowhere, or a page would load something from another host.
    """
    pages = stage(project, build)
    zensical = Path(sys.executable).with_name("zensical")
    command = [str(zensical), "build", "--strict", "--clean", "-f", str(build / "mkdocs.yml")]
    if subprocess.run(command, check=False).returncode:
        raise SiteError("the site generator has found faults, see above")
    if external := find_external_resources(build / "site"):
        raise SiteError("\n".join(external))
    return pages


def main() -> int:
    """Build the site of this project; return the exit status."""
    build = PROJECT / "build" / "docs"
    try:
        pages = build_site(PROJECT, build)
    except SiteError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    site = (build / "site").relative_to(PROJECT)
    print(f"{pages} pages in {site}; with search: python -m http.server --directory {site}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
