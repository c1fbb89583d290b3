"""What Airtable, Notion, Discord and Dropbox answer to whoever asks for what is new.

https://airtable.com/developers/web/api/list-records (formulas, offset; 422 for an offset that has ended)
https://developers.notion.com/reference/query-a-data-source (filter on timestamps, sorts, start_cursor)
https://discord.com/developers/docs/resources/message (after, limit; newest first) and topics/rate-limits
https://www.dropbox.com/developers/documentation/http/documentation (list_folder, list_revisions)
From memory: the exact words of errors.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Token, Why, bearer
from tests.support.provider_hosts import Handler, HostRequest, Reply
from tests.support.recorded_secrets import record_secret

_FORMULA: Final = re.compile(r"NOT\(IS_BEFORE\((CREATED|LAST_MODIFIED)_TIME\(\), '([0-9TZ:.-]+)'\)\)")


@dataclass
class AirtableRecords:
    """One table, for one personal access token."""

    token: str = field(default_factory=lambda: f"pat{secrets.token_hex(16)}")
    records: list[dict[str, Any]] = field(default_factory=list)
    page_size: int = 2
    expired: bool = False
    """Whether the next offset has ended."""

    def __post_init__(self) -> None:
        record_secret("a personal access token", self.token)

    def add(self, name: str, *, created_ago_s: float = 0) -> dict[str, Any]:
        """A record is created."""
        now = datetime.now(UTC) - timedelta(seconds=created_ago_s)
        record = {
            "id": f"rec{len(self.records):014d}",
            "createdTime": _time(now),
            "fields": {"Name": name},
            "modified": datetime.now(UTC),
        }
        self.records.append(record)
        return record

    def change(self, record: dict[str, Any], name: str) -> None:
        record["fields"], record["modified"] = {"Name": name}, datetime.now(UTC)

    def handle(self, request: HostRequest) -> Reply:
        if bearer(request) != self.token:
            return Reply.json({"error": {"type": "AUTHENTICATION_REQUIRED", "message": "Wrong"}}, 401)
        if request.path == "/v0/meta/whoami":
            return Reply.json({"id": "usr1", "email": "ada@example.com"})
        if request.path != "/v0/appExampleExample1/tblExampleExample1":
            return Reply.json({"error": "NOT_FOUND"}, 404)
        query = request.params()
        assert set(query) <= {"filterByFormula", "pageSize", "offset"}, f"the query is {query}"
        formula = _FORMULA.fullmatch(query["filterByFormula"])
        assert formula, f"the formula is {query['filterByFormula']}"
        since = datetime.fromisoformat(formula[2])
        found = [
            {name: value for name, value in record.items() if name != "modified"}
            for record in self.records
            if (
                record["modified"]
                if formula[1] != "CREATED"
                else datetime.fromisoformat(record["createdTime"])
            )
            >= since
        ]
        offset = query.get("offset", "")
        if offset and self.expired:
            self.expired = False
            return Reply.json({"error": {"type": "LIST_RECORDS_ITERATOR_NOT_AVAILABLE"}}, 422)
        start = int(offset.partition("/")[2]) if offset else 0
        end = start + self.page_size
        answer: dict[str, Any] = {"records": found[start:end]}
        return Reply.json({**answer, "offset": f"itr/{end}"} if end < len(found) else answer)


@dataclass
class NotionPages:
    """One data source, for one internal token. Times are rounded down to minutes, as Notion's are."""

    token: str = field(default_factory=lambda: f"ntn_{secrets.token_hex(20)}")
    pages: list[dict[str, Any]] = field(default_factory=list)
    page_size: int = 2
    era: int = 1
    """When it changes, a `start_cursor` of before has ended."""

    source: ClassVar[str] = "2f26ee68-df30-4251-aad4-8ddc420cba3d"

    def __post_init__(self) -> None:
        record_secret("an internal token", self.token)

    def add(self, title: str, *, created_ago_s: float = 0) -> dict[str, Any]:
        """A page is created."""
        created = _minute(datetime.now(UTC) - timedelta(seconds=created_ago_s))
        page = {
            "object": "page",
            "id": f"00000000-0000-4000-8000-{len(self.pages):012d}",
            "created_time": created,
            "last_edited_time": created,
            "url": f"https://www.notion.so/{len(self.pages)}",
            "properties": {
                "Done": {"type": "checkbox", "checkbox": False},
                "Name": {"type": "title", "title": [{"plain_text": title}]},
            },
        }
        self.pages.append(page)
        return page

    def handle(self, request: HostRequest) -> Reply:
        assert request.headers.get("notion-version"), "there is no Notion-Version"
        if bearer(request) != self.token:
            return Reply.json({"object": "error", "status": 401, "code": "unauthorized"}, 401)
        if request.path == "/v1/users/me":
            return Reply.json({"object": "user", "id": "bot-1", "name": "Bot", "bot": {}})
        if request.path != f"/v1/data_sources/{self.source}/query":
            return Reply.json({"object": "error", "status": 404, "code": "object_not_found"}, 404)
        body = request.json()
        assert set(body) <= {"filter", "sorts", "page_size", "start_cursor"}, f"the body is {body}"
        assert body.get("start_cursor", "x"), "the start_cursor is empty"
        name = body["filter"]["timestamp"]
        assert set(body["filter"]) == {"timestamp", name}
        assert body["sorts"] == [{"timestamp": name, "direction": "ascending"}]
        since = body["filter"][name]["on_or_after"]
        found = sorted((page for page in self.pages if page[name] >= since), key=lambda page: page[name])
        era, _, start_text = body.get("start_cursor", f"{self.era}.0").partition(".")
        if int(era) != self.era:
            return Reply.json({"object": "error", "status": 400, "code": "validation_error"}, 400)
        start = int(start_text)
        end = start + self.page_size
        more = end < len(found)
        answer = {"object": "list", "results": found[start:end], "has_more": more}
        return Reply.json({**answer, "next_cursor": f"{self.era}.{end}" if more else None})


@dataclass
class DiscordMessages:
    """One channel, for one bot. `refuse` is answered first."""

    token: str = field(
        default_factory=lambda: f"{secrets.token_hex(12)}.{secrets.token_hex(3)}.{secrets.token_hex(14)}"
    )
    messages: list[dict[str, Any]] = field(default_factory=list)
    refuse: list[Reply] = field(default_factory=list)

    channel: ClassVar[str] = "1100000000000000001"

    def __post_init__(self) -> None:
        record_secret("a bot's token", self.token)

    def say(self, content: str, *, bot: bool = False) -> None:
        """Somebody writes a message."""
        author: dict[str, Any] = {"id": "7", "username": "ada", "global_name": "Ada"}
        self.messages.append(
            {
                "id": str(1_200_000_000_000_000_000 + len(self.messages)),
                "channel_id": self.channel,
                "content": content,
                "author": {**author, "bot": True} if bot else author,
                "attachments": [],
                "timestamp": "2026-05-04T10:20:30.000000+00:00",
            }
        )

    def handle(self, request: HostRequest) -> Reply:
        if request.headers.get("authorization") != f"Bot {self.token}":
            return Reply.json({"message": "401: Unauthorized", "code": 0}, 401)
        if request.path == "/api/users/@me":
            return Reply.json({"id": "9", "username": "hub", "global_name": "Hub"})
        if self.refuse:
            return self.refuse.pop(0)
        if request.path != f"/api/v10/channels/{self.channel}/messages":
            return Reply.json({"message": "Unknown Channel", "code": 10003}, 404)
        query = request.params()
        assert set(query) <= {"after", "limit"}, f"the query is {query}"
        limit = int(query["limit"])
        assert 1 <= limit <= 100, "the limit is not 1 to 100"
        if "after" not in query:
            return Reply.json(self.messages[::-1][:limit])
        after = int(query["after"])
        later = [message for message in self.messages if int(message["id"]) > after][:limit]
        return Reply.json(later[::-1])


class Dropbox(Fake):
    """One app, and one account's files. `era` ends all cursors."""

    name = "Dropbox"
    person = "dbid:{:020d}"
    lifetime_s: float | None = 14400
    single_use = False
    authorize_needs: ClassVar = frozenset({"response_type", "token_access_type"})
    authorize_values: ClassVar = {"token_access_type": frozenset({"offline"})}

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.entries: list[dict[str, Any]] = []
        self.era = 1
        self.page_size = 2
        api = {
            "POST /oauth2/token": self.token,
            "POST /2/auth/token/revoke": self.revoke,
            "POST /2/users/get_current_account": self.account_of,
            "POST /2/files/list_folder/get_latest_cursor": self.latest_cursor,
            "POST /2/files/list_folder/continue": self.following,
            "POST /2/files/list_revisions": self.revisions,
        }
        self.hosts: dict[str, Handler] = {
            "www.dropbox.com": self.on({"GET /oauth2/authorize": self.authorize}),
            "api.dropboxapi.com": self.on(api),
        }

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=True)

    def refusal(self, why: Why) -> Reply:
        return Reply.json({"error": "invalid_grant", "error_description": f"Wrong: {why}"}, 400)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        answer: dict[str, Any] = {
            "access_token": self.give(
                "access", grant, self.lifetime_s, f"sl.{secrets.token_urlsafe(60)}"
            ).value,
            "expires_in": self.seconds(),
            "token_type": "bearer",
            "scope": " ".join(grant.scopes),
            "account_id": grant.account.id,
        }
        if old is None:
            answer["refresh_token"] = self.give("refresh", grant, None, secrets.token_urlsafe(40)).value
        return Reply.json(answer)

    def revoke(self, request: HostRequest) -> Reply:
        """The token in the header, and the grant with it."""
        token = self.access(bearer(request))
        if token is None:
            return _expired()
        self.end(token.grant)
        return Reply(200)

    def account_of(self, request: HostRequest) -> Reply:
        token = self.access(bearer(request))
        if token is None:
            return _expired()
        account = token.grant.account
        return Reply.json({"account_id": account.id, "name": {"display_name": account.name}})

    def put(self, name: str) -> None:
        """A file is added, or changed if there is one of this name."""
        revision = sum(entry["name"] == name for entry in self.entries)
        self.entries.append(
            {
                ".tag": "file",
                "id": f"id:{name}",
                "name": name,
                "path_display": f"/Projects/{name}",
                "rev": f"{len(self.entries):09x}{revision}",
                "size": 7,
                "server_modified": "2026-05-04T10:20:30Z",
            }
        )

    def latest_cursor(self, request: HostRequest) -> Reply:
        if self.access(bearer(request)) is None:
            return _expired()
        body = request.json()
        self.check(body, {"path"}, {"recursive", "include_deleted"}, "the folder")
        assert body["path"].startswith("/"), "the root is an empty path"
        return Reply.json({"cursor": f"{self.era}/{len(self.entries)}"})

    def following(self, request: HostRequest) -> Reply:
        if self.access(bearer(request)) is None:
            return _expired()
        body = request.json()
        self.check(body, {"cursor"}, (), "the cursor")
        era, _, start = body["cursor"].partition("/")
        if int(era) != self.era:
            return Reply.json({"error_summary": "reset/..", "error": {".tag": "reset"}}, 409)
        end = int(start) + self.page_size
        part = self.entries[int(start) : end]
        more = end < len(self.entries)
        cursor = f"{self.era}/{int(start) + len(part)}"
        return Reply.json({"entries": part, "cursor": cursor, "has_more": more})

    def revisions(self, request: HostRequest) -> Reply:
        if self.access(bearer(request)) is None:
            return _expired()
        body = request.json()
        self.check(body, {"path", "mode"}, {"limit"}, "the revisions")
        assert body["mode"] == "id"
        entries = [entry for entry in self.entries if entry["id"] == body["path"]]
        return Reply.json({"is_deleted": False, "entries": entries[::-1][: body["limit"]]})


def _expired() -> Reply:
    error: Mapping[str, Any] = {
        "error_summary": "expired_access_token/",
        "error": {".tag": "expired_access_token"},
    }
    return Reply.json(error, 401)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _minute(moment: datetime) -> str:
    return _time(moment.replace(second=0, microsecond=0))
