"""What a role is shown on pages, and which of it the role may not use: links that are refused, and forms."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urljoin, urlsplit

from tests.console.person import Answer, Person

_ID: Final = re.compile(r"[a-z]{2,4}_[0-9a-f]{32}|[0-9a-f]{64}")
_LAST: Final = ("delete", "remove", "revoke", "disconnect", "undo", "cancel", "end")
"""Ends of forms that end what others need."""
_MOMENT: Final = "2030-01-01T00:00"


class Controls:
    """Opens pages as a role, and collects the links and forms that they show."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._forms: dict[str, tuple[str, dict[str, str]]] = {}
        self._seen: set[str] = set()
        self.refused: list[str] = []
        """Links and forms that were shown and answered 403 or failed."""
        self.opened: dict[str, Answer] = {}
        """The given pages that the role may see."""

    def open(self, paths: Iterable[str]) -> None:
        """Open pages, and of every link that they show one of its kind."""
        links: dict[str, str] = {}
        for path in paths:
            page = self._person.open(f"/console{path}")
            self._seen.add(_kind_of(page.path))
            if page.status == 403:
                continue
            self.opened[path] = page
            links |= dict.fromkeys(self._read(page), page.path)
        while links:
            link = next(iter(links))
            shown_on = links.pop(link)
            if _kind_of(link) in self._seen:
                continue
            self._seen.add(_kind_of(link))
            page = self._person.open(link)
            if page.status == 403 or page.status >= 500:
                self.refused.append(f"{link}, a link of {shown_on}: {page.status}")
            elif link.partition("?")[0].count("/do/"):
                self._read(page)

    def send(self) -> int:
        """Send every form that was shown, those that delete last; return how many there were."""
        ends = sorted(self._forms, key=lambda action: action.rpartition("/")[2] in _LAST)
        for action in ends:
            shown_on, data = self._forms[action]
            answer = self._person.client.post(
                action, data=data, headers={"origin": self._person.base}, follow_redirects=False
            )
            if answer.status_code in (401, 403) or answer.status_code >= 500:
                self.refused.append(f"{action}, a form of {shown_on}: {answer.status_code}")
        return len(ends)

    def _read(self, page: Answer) -> list[str]:
        """Collect the forms of a page; return the console's pages that it leads to."""
        types = {str(found.get("name")): found.get("type") for tag, found in page.elements if tag == "input"}
        for form in page.forms:
            action = form.action or page.path.partition("?")[0]
            # The others end the session that this test needs.
            if form.method != "post" or action.startswith(("/console/sign-out", "/console/sessions/")):
                continue
            fill = {name: _MOMENT if types.get(name) == "datetime-local" else "1" for name in form.named}
            filled = fill | {name: value for name, value in form.fields.items() if value}
            self._forms.setdefault(action, (page.path, filled))
        links = [urljoin(page.path, link) for link in page.links]
        return [link for link in links if link.startswith("/console") and "/static/" not in link]


def shape(page: Answer) -> list[tuple[str, ...]]:
    """Return the elements of a page's main part without texts: pages of one shape look alike."""
    start = next(place for place, (tag, _) in enumerate(page.elements) if tag == "main")
    return [(tag, found.get("class") or "", *found) for tag, found in page.elements[start:]]


def _kind_of(link: str) -> str:
    """Return the path without ids, so that of many objects' pages one is opened."""
    path = _ID.sub("one", urlsplit(link).path)
    for part in ("event-types", "catalogue", "endpoints/new"):
        path = re.sub(rf"/{part}/[^/]+", f"/{part}/one", path)
    return path
