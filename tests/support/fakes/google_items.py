"""What Gmail, Google Calendar, Drive and Sheets answer to whoever asks for changes.

https://developers.google.com/workspace/gmail/api/guides/sync (history, 404 for one that is too old)
https://developers.google.com/workspace/calendar/api/guides/sync (syncToken, nextSyncToken, 410)
https://developers.google.com/workspace/drive/api/guides/manage-changes (page tokens)
https://developers.google.com/workspace/sheets/api/reference/rest/v4/spreadsheets.values/get (rows, the grid)
From memory: the exact words of errors.

- A page has `page_size` items at most, whatever is asked for.
- A parameter that the real API does not know is a fault.
- An empty list is left out of an answer, as Google does.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, Final
from urllib.parse import unquote

from tests.support.fakes.google import Google
from tests.support.fakes.tokens import bearer
from tests.support.provider_hosts import Handler, HostRequest, Reply

_SCOPE: Final = "https://www.googleapis.com/auth/"
_RANGE: Final = re.compile(r"'([^'!]+)'!A(\d+):ZZ(\d+)")
_CALENDAR: Final = "/calendar/v3/calendars/primary/events"


def error(status: int, reason: str = "", name: str = "") -> Reply:
    """An error as Google's APIs write it."""
    shown: dict[str, Any] = {"code": status, "message": "Wrong."}
    shown |= {"errors": [{"domain": "global", "reason": reason, "message": "Wrong."}]} if reason else {}
    shown |= {"status": name} if name else {}
    return Reply.json({"error": shown}, status)


@dataclass
class GoogleItems:
    """One mailbox, calendar, drive and spreadsheet. A test puts things in; the hub asks for them."""

    google: Google
    page_size: int = 2
    history: int = 1000
    oldest_history: int = 0
    """Before it, Gmail does not know the history any more."""
    mails: list[dict[str, Any]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    """Ids of mails that are in the history, and were deleted since."""
    labels: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    token_era: int = 1
    """When it changes, Calendar does not know its sync tokens any more."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    grid: int = 1000
    sheets: list[dict[str, Any]] = field(
        default_factory=lambda: [{"sheetId": 0, "title": "Sheet1", "index": 0}]
    )
    refuse: list[Reply] = field(default_factory=list)
    """Answered before anything else, in order."""
    asked: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> dict[str, Handler]:
        me, sheets = "/gmail/v1/users/me", "/v4/spreadsheets/{}"
        return {
            "gmail.googleapis.com": self._on(
                {
                    f"GET {me}/profile": self._profile,
                    f"GET {me}/history": self._history,
                    f"GET {me}/messages": self._messages,
                    f"GET {me}/messages/{{}}": self._message,
                    f"GET {me}/labels": lambda _: Reply.json({"labels": self.labels}),
                },
                "gmail.modify",
            ),
            "www.googleapis.com": self._on(
                {
                    f"GET {_CALENDAR}": self._events,
                    "GET /drive/v3/changes/startPageToken": self._start_page_token,
                    "GET /drive/v3/changes": self._changes,
                    # The hub has no address that Google could call.
                    f"POST {_CALENDAR}/watch": lambda _: error(400, "push.webhookUrlUnauthorized"),
                    "POST /drive/v3/changes/watch": lambda _: error(400, "push.webhookUrlUnauthorized"),
                },
                "calendar",
                "drive",
            ),
            "sheets.googleapis.com": self._on(
                {f"GET {sheets}/values/{{}}": self._values, f"GET {sheets}": self._spreadsheet},
                "spreadsheets",
            ),
        }

    def _on(self, routes: Mapping[str, Handler], *scopes: str) -> Handler:
        def checked(handler: Handler) -> Callable[[HostRequest], Reply]:
            def handle(request: HostRequest) -> Reply:
                token = self.google.access(bearer(request))
                if token is None:
                    return error(401, name="UNAUTHENTICATED")
                if not {f"{_SCOPE}{scope}" for scope in scopes} & set(token.grant.scopes):
                    return error(403, name="PERMISSION_DENIED")
                self.asked.append(request.path)
                if self.refuse and request.method == "GET":
                    return self.refuse.pop(0)
                return handler(request)

            return handle

        return self.google.on({name: checked(handler) for name, handler in routes.items()})

    # Gmail

    def mail(self, subject: str, *, attachment: str = "", labels: tuple[str, ...] = ("INBOX",)) -> str:
        """A mail comes in; its id."""
        self.history += 1
        mail_id = f"m{self.history}"
        parts: list[dict[str, Any]] = [{"filename": "", "mimeType": "text/plain", "body": {"size": 5}}]
        if attachment:
            body = {"attachmentId": f"a{self.history}", "size": 7}
            parts.append({"filename": attachment, "mimeType": "application/pdf", "body": body})
        headers = [{"name": "From", "value": "Bob <bob@example.com>"}, {"name": "Subject", "value": subject}]
        self.mails.append(
            {
                "id": mail_id,
                "threadId": mail_id,
                "labelIds": list(labels),
                "snippet": f"About {subject}",
                "internalDate": str(int(time() * 1000)),
                "payload": {"headers": headers, "parts": parts},
                "history": self.history,
            }
        )
        return mail_id

    def _profile(self, request: HostRequest) -> Reply:
        assert not request.query, "there is a query"
        return Reply.json({"emailAddress": "ada@example.com", "historyId": str(self.history)})

    def _history(self, request: HostRequest) -> Reply:
        query = request.params()
        self.google.check(
            query, {"startHistoryId"}, {"historyTypes", "labelId", "maxResults", "pageToken"}, "the history"
        )
        assert query.get("historyTypes") == "messageAdded"
        start = int(query["startHistoryId"])
        if start < self.oldest_history:
            return error(404, "notFound")
        found = [
            mail for mail in self.mails if mail["history"] > start and query["labelId"] in mail["labelIds"]
        ]
        records = [
            {
                "id": str(mail["history"]),
                "messagesAdded": [{"message": {name: mail[name] for name in ("id", "threadId", "labelIds")}}],
            }
            for mail in found
        ]
        return self._page(query.get("pageToken"), records, "history", {"historyId": str(self.history)})

    def _messages(self, request: HostRequest) -> Reply:
        query = request.params()
        self.google.check(query, {"q"}, {"labelIds", "maxResults", "pageToken"}, "the list")
        assert re.fullmatch(r"after:\d{10}", query["q"]), f"the search is {query['q']}"
        after_ms = int(query["q"].removeprefix("after:")) * 1000
        listed = [
            {"id": mail["id"], "threadId": mail["threadId"]}
            for mail in self.mails
            if query["labelIds"] in mail["labelIds"] and int(mail["internalDate"]) >= after_ms
        ]
        return self._page(query.get("pageToken"), listed, "messages", {"resultSizeEstimate": len(listed)})

    def _message(self, request: HostRequest) -> Reply:
        query = request.params()
        self.google.check(query, (), {"format", "fields", "metadataHeaders"}, "the message")
        mail_id = request.path.rpartition("/")[2]
        if mail_id in self.gone:
            return error(404, "notFound")
        [mail] = [item for item in self.mails if item["id"] == mail_id]
        return Reply.json({name: value for name, value in mail.items() if name != "history"})

    # Calendar

    def event(self, summary: str, *, created_ago_s: float = 0, **more: Any) -> dict[str, Any]:
        """An event is created; change it with `touch`."""
        created = datetime.now(UTC) - timedelta(seconds=created_ago_s)
        made = {
            "id": f"e{len(self.events)}",
            "status": "confirmed",
            "summary": summary,
            "htmlLink": "https://www.google.com/calendar/event?eid=1",
            "created": _time(created),
            "updated": _time(created),
            "start": {"dateTime": "2026-05-04T10:00:00+02:00"},
            "seq": self._sequence(),
        }
        self.events.append({**made, **more})
        return self.events[-1]

    def touch(self, event: dict[str, Any], **changed: Any) -> None:
        """An event is changed."""
        event.update({**changed, "updated": _time(datetime.now(UTC)), "seq": self._sequence()})

    def _sequence(self) -> int:
        return 1 + max((event["seq"] for event in self.events), default=0)

    def _events(self, request: HostRequest) -> Reply:
        query = request.params()
        known = {"maxResults", "showDeleted", "syncToken", "pageToken", "fields", "updatedMin"}
        self.google.check(query, (), known, "the list of events")
        assert not {"syncToken", "updatedMin"} <= query.keys(), "updatedMin beside a syncToken"
        era, _, after = query.get("syncToken", f"{self.token_era}-0").partition("-")
        if int(era) != self.token_era:
            return error(410, "fullSyncRequired")
        found = sorted(
            (event for event in self.events if event["seq"] > int(after)), key=lambda event: event["seq"]
        )
        if since := query.get("updatedMin"):
            found = [event for event in found if event["updated"] >= since]
        items = [{name: value for name, value in event.items() if name != "seq"} for event in found]
        last = {"nextSyncToken": f"{self.token_era}-{self._sequence() - 1}"}
        return self._page(query.get("pageToken"), items, "items", last if not since else {}, last_only=True)

    # Drive

    def file(self, name: str, *, created_ago_s: float = 0, **more: Any) -> None:
        """A file is created or, with an earlier creation, changed."""
        now = datetime.now(UTC)
        number = len(self.changes)
        file = {
            "id": f"f{name}",
            "name": name,
            "createdTime": _time(now - timedelta(seconds=created_ago_s)),
            "modifiedTime": _time(now),
            "webViewLink": f"https://drive.google.com/file/d/f{name}/view",
            "trashed": False,
        }
        time = _time(now + timedelta(milliseconds=number))
        self.changes.append({"fileId": f"f{name}", "time": time, "removed": False, "file": {**file, **more}})

    def _start_page_token(self, request: HostRequest) -> Reply:
        assert not request.query, "there is a query"
        return Reply.json({"startPageToken": str(len(self.changes))})

    def _changes(self, request: HostRequest) -> Reply:
        query = request.params()
        self.google.check(query, {"pageToken"}, {"pageSize", "includeRemoved", "fields"}, "the changes")
        start = int(query["pageToken"])
        part = self.changes[start : start + self.page_size]
        end = start + len(part)
        last = end >= len(self.changes)
        answer: dict[str, Any] = {"newStartPageToken": str(end)} if last else {"nextPageToken": str(end)}
        return Reply.json({**answer, "changes": part})

    # Sheets

    def _values(self, request: HostRequest) -> Reply:
        query = request.params()
        self.google.check(query, (), {"majorDimension"}, "the values")
        match = _RANGE.fullmatch(unquote(request.path.rpartition("/")[2]))
        assert match, f"the range is {request.path}"
        if match[1] not in {sheet["title"] for sheet in self.sheets} or int(match[2]) > self.grid:
            return error(400, name="INVALID_ARGUMENT")
        rows = self.rows[int(match[2]) - 1 : int(match[3])]
        while rows and not rows[-1]:
            rows = rows[:-1]
        answer: dict[str, Any] = {"range": match[0], "majorDimension": "ROWS"}
        return Reply.json({**answer, "values": rows} if rows else answer)

    def _spreadsheet(self, request: HostRequest) -> Reply:
        assert request.params() == {"fields": "sheets.properties"}
        return Reply.json({"sheets": [{"properties": sheet} for sheet in self.sheets]})

    def _page(
        self, token: str | None, items: list[Any], name: str, more: dict[str, Any], *, last_only: bool = False
    ) -> Reply:
        start = int(token.removeprefix("p")) if token else 0
        end = start + self.page_size
        is_last = end >= len(items)
        answer: dict[str, Any] = dict(more) if is_last or not last_only else {}
        if part := items[start:end]:
            answer[name] = part
        return Reply.json(answer if is_last else {**answer, "nextPageToken": f"p{end}"})


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
