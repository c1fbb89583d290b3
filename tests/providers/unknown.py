"""Recorded requests with an event that nobody has heard of: platforms add kinds, and must not be refused."""

import json
import re
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from shared.manifests.fixtures import Fixture
from shared.manifests.models import WebhookSpec
from shared.verification.batch import Batch
from shared.wire.bodies import FORM_CONTENT_TYPE, media_type

NEW: Final = "brand_new_kind"
NEW_NUMBER: Final = 9999
_SOURCE: Final = re.compile(r"\{(header|query|json|item|key):([^{}]*)\}")


def with_unknown_event(webhook: WebhookSpec, fixture: Fixture) -> Fixture | None:
    """The fixture with another name of its event, wherever it stands; None where nothing in it names one."""
    changed = _Changed(webhook, fixture)
    for text in webhook.event.source:
        for kind, argument in _SOURCE.findall(text):
            changed.name(kind, argument)
    return changed.fixture() if changed.is_other else None


class _Changed:
    def __init__(self, webhook: WebhookSpec, fixture: Fixture) -> None:
        self.is_other = False
        self._fixture = fixture
        self._headers = dict(fixture.headers)
        self._query = parse_qsl(fixture.query, keep_blank_values=True)
        self._form: list[tuple[str, str]] | None = None
        self._field = ""
        self._payload: Any = None
        kind = media_type(fixture.headers.get("content-type", "application/json"))
        if kind == FORM_CONTENT_TYPE:
            self._form = parse_qsl(fixture.body.decode(), keep_blank_values=True)
            self._field = webhook.body.form_field or ""
            inner = dict(self._form).get(self._field)
            self._payload = json.loads(inner) if inner else None
        elif kind.endswith("json") and fixture.body:
            self._payload = json.loads(fixture.body)
        self._items = [self._payload]
        if webhook.batch and self._payload is not None:
            self._items = [element for _, _, element in Batch(webhook.batch).documents(self._payload)]

    def name(self, kind: str, argument: str) -> None:
        """Exchange what this source says."""
        if kind == "header" and argument in self._headers:
            self._headers[argument] = NEW
            self.is_other = True
        elif kind == "query" and argument in dict(self._query):
            self._query = [(name, NEW if name == argument else value) for name, value in self._query]
            self.is_other = True
        elif kind == "key":
            for item in self._items:
                self._rename(item, argument.split("|"))
        elif kind in ("json", "item"):
            for holder in [self._payload] if kind == "json" else self._items:
                self._set(holder, argument.split("."))
            if self._form is not None and self._payload is None:
                first, *rest = argument.split(".")
                self._set_field(first + "".join(f"[{step}]" for step in rest))

    def _rename(self, item: Any, names: list[str]) -> None:
        """Exchange the first of these names, which is the one that names the event."""
        found = item if isinstance(item, dict) else dict(self._form or ())
        old = next((name for name in names if name in found), None)
        if old is None:
            return
        self.is_other = True
        if isinstance(item, dict):
            item[NEW] = item.pop(old)
        else:
            self._form = [(NEW if name == old else name, value) for name, value in self._form or ()]

    def _set(self, holder: Any, steps: list[str]) -> None:
        for step in steps[:-1]:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or steps[-1] not in holder:
            return
        old = holder[steps[-1]]
        if isinstance(old, str | int) and not isinstance(old, bool):
            holder[steps[-1]] = NEW if isinstance(old, str) else NEW_NUMBER
            self.is_other = True

    def _set_field(self, name: str) -> None:
        assert self._form is not None
        if name in dict(self._form):
            self._form = [(each, NEW if each == name else value) for each, value in self._form]
            self.is_other = True

    def fixture(self) -> Fixture:
        body = self._fixture.body
        if self._form is not None:
            text = json.dumps(self._payload)
            fields = [
                (name, text if self._payload and name == self._field else value) for name, value in self._form
            ]
            body = urlencode(fields).encode()
        elif self._payload is not None:
            body = json.dumps(self._payload).encode()
        return replace(self._fixture, headers=self._headers, query=urlencode(self._query), body=body)
