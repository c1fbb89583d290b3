"""The sources of the site: what is in the repository, what is generated, and how links between them change.

Everything is staged in a build folder first. There, links that are right in the repository are rewritten for
the site, Mermaid diagrams are replaced by SVG, and generated pages are added.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from docs.generator.acls import acls_page
from docs.generator.asyncapi import topics_page
from docs.generator.commands import commands_page
from docs.generator.diagrams import replace_diagrams
from docs.generator.documents import asyncapi_document, openapi_document
from docs.generator.manifest import manifest_page
from docs.generator.metrics import metrics_page
from docs.generator.openapi import rest_api_pages
from docs.generator.problems import problems_page
from docs.generator.retention import retention_page

_REPOSITORY_PAGES: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "shared/providers/manifest.schema.json": "reference/manifest.schema.json",
}
"""Documents outside `docs`, and where a link to them leads on the site."""
_STAGED_AS_IS: Final = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_COPIED: Final = ("shared/providers/manifest.schema.json",)
"""Documents that the site offers as they are."""
_GENERATED_LINKS: Final = {
    "reference/rest-api.md",
    "reference/topics.md",
    "reference/commands.md",
    "reference/manifest-fields.md",
    "reference/kafka-acls.md",
    "reference/metrics.md",
    "reference/problems.md",
    "reference/retention.md",
}
_NOTES: Final = "providers/notes"
"""The READMEs of the provider folders on the site."""
Replace = Callable[[re.Match[str]], str]

_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE: Final = re.compile(r"^( *)(```+|~~~+).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_EXTERNAL: Final = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|preload|icon|preconnect))[^>]*href=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:@import\s+|@font-face[^}]*)url\(["']?(?:https?:)?//[^)]+"""
)


class SiteError(Exception):
    """The sources of the site are not consistent."""


def stage(project: Path, build: Path) -> int:
    """Write `docs` and `mkdocs.yml` into the folder `build`, and return the number of pages.

    Raises `SiteError` if a link leads to a file that is not in the repository.
    """
    shutil.rmtree(build, ignore_errors=True)
    sources = dict(_find_pages(project))
    pages = {target: _rewrite(project, source, sources) for source, target in sources.items()}
    openapi, asyncapi = openapi_document(), asyncapi_document()
    pages |= rest_api_pages(openapi.document)
    pages["reference/topics.md"] = topics_page(asyncapi.document)
    pages["reference/commands.md"] = commands_page()
    pages["reference/manifest-fields.md"] = manifest_page()
    pages["reference/kafka-acls.md"] = acls_page()
    pages["reference/metrics.md"] = metrics_page()
    pages["reference/problems.md"] = problems_page()
    pages["reference/retention.md"] = retention_page()
    for target, text in pages.items():
        _write(build / "docs" / target, replace_diagrams(text))
    _write(build / "docs/reference/openapi.json", openapi.text)
    _write(build / "docs/reference/asyncapi.json", asyncapi.text)
    for source in _COPIED:
        shutil.copy(project / source, build / "docs" / _REPOSITORY_PAGES[source])
    shutil.copytree(project / "docs/assets", build / "docs/assets")
    for picture in project.glob("docs/console/*.webp"):
        shutil.copy(picture, build / "docs/console")
    config = yaml.safe_load(project.joinpath("mkdocs.yml").read_text("utf-8"))
    config |= {"docs_dir": "docs", "site_dir": "site", "nav": expand_nav(config["nav"], pages)}
    _write(build / "mkdocs.yml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return len(pages)


def _find_pages(project: Path) -> Iterator[tuple[str, str]]:
    """Return every page of the repository, with its path on the site."""
    for file in sorted(project.glob("docs/**/*.md")):
        source = file.relative_to(project).as_posix()
        yield source, source.removeprefix("docs/")
    for source in _STAGED_AS_IS:
        yield source, _REPOSITORY_PAGES[source]
    for file in sorted(project.glob("shared/providers/*/README.md")):
        yield file.relative_to(project).as_posix(), f"{_NOTES}/{file.parent.name}.md"


def _rewrite(project: Path, source: str, sources: Mapping[str, str]) -> str:
    """Return the text of a page with its links as they have to be on the site."""
    here = sources[source]

    def replace(link: re.Match[str]) -> str:
        image, text, address = link.groups()
        if re.match(r"[a-z]+:|#", address):
            return link[0]
        path, _, anchor = address.partition("#")
        target = os.path.normpath(PurePosixPath(source).parent / path)
        on_site = sources.get(target) or _REPOSITORY_PAGES.get(target) or _asset_or_generated(target)
        if on_site is None:
            if not project.joinpath(target).exists():
                raise SiteError(f"{source}: no such file: {address}")
            return text  # a file of the code: there is no page of it
        relative = os.path.relpath(on_site, PurePosixPath(here).parent)
        return f"{image}[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    return _outside_code(project.joinpath(source).read_text("utf-8"), replace)


def _asset_or_generated(target: str) -> str | None:
    name = target.removeprefix("docs/")
    return (
        name
        if name in _GENERATED_LINKS or name.startswith(("assets/", "console/", "reference/rest-api/"))
        else None
    )


def _outside_code(text: str, replace: Replace) -> str:
    """Replace links, but not in blocks of code and not in code within a line."""
    parts: list[str] = []
    end = 0
    for block in _FENCE.finditer(text):
        parts += [_in_prose(text[end : block.start()], replace), block[0]]
        end = block.end()
    return "".join([*parts, _in_prose(text[end:], replace)])


def _in_prose(text: str, replace: Replace) -> str:
    hidden: list[str] = []

    def hide(code: re.Match[str]) -> str:
        hidden.append(code[0])
        return f"\0{len(hidden) - 1}\0"

    changed = _LINK.sub(replace, _CODE.sub(hide, text))
    return re.sub("\0(\\d+)\0", lambda mark: hidden[int(mark[1])], changed)


def expand_nav(nav: Any, pages: Mapping[str, str]) -> list[Any]:
    """Replace each `folder/*` of a navigation by the pages of that folder that it does not name."""
    named = set(_named(nav))

    def expand(entry: Any) -> list[Any]:
        if isinstance(entry, dict):
            return [{title: expand_below(below) for title, below in entry.items()}]
        if not entry.endswith("/*"):
            return [entry]
        folder = PurePosixPath(entry).parent
        return sorted(page for page in pages if PurePosixPath(page).parent == folder and page not in named)

    def expand_below(below: Any) -> Any:
        return below if isinstance(below, str) else [page for entry in below for page in expand(entry)]

    return [page for entry in nav for page in expand(entry)]


def _named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(entry)


def find_external_resources(site: Path) -> list[str]:
    """Return a line for each script, style, font or picture that is loaded from another host."""
    return [
        f"{file.relative_to(site)}: loads {found[0]}"
        for file in sorted([*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")])
        for found in _EXTERNAL.finditer(file.read_text("utf-8"))
    ]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
