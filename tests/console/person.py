"""A person at the console without script: follows links, fills in forms, and sends them as a browser does."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx


class Form:
    """A form of a page: where it is sent, and the fields with their values."""

    def __init__(self, method: str, action: str) -> None:
        self.method = method
        self.action = action
        self.fields: dict[str, str] = {}
        self.named: set[str] = set()
        """Fields that the form has, also those without a value."""


class _Page(HTMLParser):
    """Reads the forms, links, headings and elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._form: Form | None = None
        self._select = ""
        self._is_first = False
        self._area = ""
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        name = found.get("name") or ""
        match tag:
            case "a" if found.get("href") is not None:
                self.links.append(str(found["href"]))
            case "form":
                self._form = Form(found.get("method") or "get", found.get("action") or "")
                self.forms.append(self._form)
            case "input" if self._form and name:
                self._form.named.add(name)
                if found.get("type") != "checkbox" or "checked" in found:
                    self._form.fields[name] = found.get("value") or ""
            case "button" if self._form and name:
                self._form.named.add(name)
            case "select" | "textarea" if self._form:
                self._form.named.add(name)
                self._form.fields[name] = ""
                self._select = name if tag == "select" else ""
                self._is_first = True
                self._area = name if tag == "textarea" else ""
            case "option" if self._form and self._select:
                if "selected" in found or self._is_first:
                    self._form.fields[self._select] = found.get("value") or ""
                self._is_first = False
            case "script" | "style":
                self._skip += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag in ("script", "style"):
            self._skip -= 1
        elif tag in ("select", "textarea"):
            self._select = self._area = ""

    def handle_data(self, data: str) -> None:
        if self._form and self._area:
            self._form.fields[self._area] += data
        if not self._skip:
            self._texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._texts)).strip()


class Answer:
    """What a person sees after a request."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self.path = response.url.raw_path.decode()
        page = _Page(response.text)
        self.text = page.text
        self.links = page.links
        self.forms = page.forms
        self.elements = page.elements
        self.errors = [
            str(found["name"]) for _, found in page.elements if found.get("aria-invalid") and "name" in found
        ]
        """The fields that are marked as wrong."""

    def form(self, action: str) -> Form:
        """The form, not a search, whose address ends so."""
        here = self.path.partition("?")[0]
        posted = [form for form in self.forms if form.method == "post"]
        return next(form for form in posted if (form.action or here).endswith(action))

    def link(self, part: str) -> str:
        """The first link that has this in its address."""
        return next(link for link in self.links if part in link)


class Person:
    """A browser without script. Redirects are followed."""

    def __init__(self, base: str, *, address: str = "", client: httpx.Client | None = None) -> None:
        """`client` is a browser that finds more than the hub."""
        self.base = base
        self.client = client or httpx.Client(timeout=30)
        self.client.base_url, self.client.follow_redirects = httpx.URL(base), True
        if address:
            self.client.headers["x-forwarded-for"] = address

    def open(self, path: str) -> Answer:
        return Answer(self.client.get(path))

    def send(self, page: Answer, action: str, *, origin: str | None = None, **values: Any) -> Answer:
        """Fill in the form of a page, and send it. A value that is None takes the field out."""
        form = page.form(action)
        data = {**form.fields, **values}
        unknown = values.keys() - form.named
        assert not unknown, f"the form has no {unknown}"
        target = form.action or page.path
        headers = {"origin": self.base if origin is None else origin}
        filled = {name: value for name, value in data.items() if value is not None}
        return Answer(self.client.post(target, data=filled, headers=headers))

    def post(self, path: str, **values: str) -> Answer:
        """Send a form that no page shows, with the session's token."""
        token = self.open("/console").form("/sign-out").fields["token"]
        data = {"token": token, **values}
        return Answer(self.client.post(path, data=data, headers={"origin": self.base}))

    def sign_in(self, key: str) -> Answer:
        return self.send(self.open("/console/sign-in"), "/console/sign-in", key=key)

    def close(self) -> None:
        self.client.close()
