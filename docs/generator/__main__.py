"""Build the documentation site in `build/site`, without a network."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from docs.generator.site import BUILD, SiteError, find_external_resources, stage

PROJECT: Final = Path(__file__).parents[2]


def main() -> int:
    """Stage the sources, run the site generator, check the result; return the exit status."""
    build = PROJECT / BUILD
    try:
        pages = stage(PROJECT, build)
    except SiteError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run([zensical, "build", "--strict", "--clean", "-f", build / "mkdocs.yml"], check=False)
    if done.returncode:
        return done.returncode
    external = find_external_resources(build / "site")
    for line in external:
        print(f"docs: {line}", file=sys.stderr)
    if external:
        return 1
    print(f"{pages} pages in {BUILD}/site: python -m http.server --directory {BUILD}/site")
    return 0


if __name__ == "__main__":
    sys.exit(main())
