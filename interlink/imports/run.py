"""Run an import from the command line: upload, plan, dry run or start, and follow it to its end."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson

from interlink.hub_api import HubApi, Refused
from interlink.imports.folders import archive_of
from interlink.imports.plans import PlanOptions
from interlink.imports.texts import contents_lines, next_step, sample_lines, state_lines
from interlink.imports.upload import FileUpload
from shared.contracts.errors import Misconfigured
from shared.runtime.http_client import Unreachable

Json = Mapping[str, Any]
_POLL_S: Final = 0.5
_PATIENCE_S: Final = 60.0
"""Seconds for which a hub may be away while an import is followed: it may be restarted."""
_MAX_CHANNELS: Final = 20_000
_MAX_VALUES: Final = 10
"""Answers that an error names."""
_TEXT_REPORTS: Final = frozenset({"csv", "html"})
BUSY: Final = frozenset({"reading", "running", "verifying", "undoing"})


class View(Protocol):
    """Shows an import to a person, and asks questions."""

    on_interrupt: str
    """The line that is shown when the person presses Ctrl-C."""

    def line(self, text: str) -> None:
        """Show a line."""
        ...

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` units are done, with a note."""
        ...

    def confirm(self, question: str) -> bool:
        """Return the answer to a yes-or-no question. Raises `Misconfigured` if nobody can answer."""
        ...

    def require_answers(self) -> None:
        """Raise `Misconfigured` if nobody can answer a question."""
        ...


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """An import to run. `source` is a file or folder, or the id of a connected account."""

    source: Path | str
    daily: bool
    plan: PlanOptions
    dry_run: bool


def path_of(import_id: str, action: str = "") -> str:
    """Return the path of an import, or of something below it."""
    return f"/api/imports/{quote(import_id, safe='')}{action}"


async def run_import(api: HubApi, request: ImportRequest, view: View) -> Json:
    """Run a whole import, or a dry run, and return its final state as the API shows it.

    Raises `Refused`, `Unreachable`, and `Misconfigured` for an option that does not fit the export.
    """
    if not request.dry_run:
        view.require_answers()  # before the upload, which may take hours
    found = await _create(api, request, view)
    view.on_interrupt = f"The hub goes on reading it: interlink import show {found['id']} --follow"
    found = await follow(api, found["id"], view)
    return await plan_and_start(api, found, request.plan, view, dry_run=request.dry_run)


async def plan_and_start(
    api: HubApi, found: Json, options: PlanOptions, view: View, *, dry_run: bool
) -> Json:
    """Plan an import that is ready, start it or try it, and follow it. Raises as `run_import` does."""
    import_id = found["id"]
    if found["status"] == "ready" and not options.is_empty:
        conversations = await api.items(path_of(import_id, "/channels"), _MAX_CHANNELS, {})
        known = {choice["id"] for choice in found["contents"]["choices"]}
        if unknown := sorted(options.answers.keys() - known):
            raise Misconfigured(f"--answer: the export has no choice {unknown[0]!r}: look at its contents")
        stored = await api.call("GET", path_of(import_id, "/plan"))
        await api.call("PUT", path_of(import_id, "/plan"), options.plan(stored, conversations))
        found = await follow(api, import_id, view)  # with other answers, it is read again
    if found["status"] != "ready":
        return _shown(found, view)
    for line in contents_lines(found, await api.items(path_of(import_id, "/channels"), _MAX_CHANNELS, {})):
        view.line(line)
    _check_choices(found)
    view.on_interrupt = f"Nothing was imported; {next_step(found)}"
    if not dry_run and not view.confirm("Import this into the chat?"):
        view.line(f"nothing was imported; {next_step(found)}")
        return found
    what = "dry run" if dry_run else "import"
    what_next = (
        f"Follow it: interlink import show {import_id} --follow; stop it: interlink import cancel {import_id}"
    )
    # While the hub has not answered, nobody knows.
    view.on_interrupt = f"The {what} may have started. {what_next}"
    await api.call("POST", path_of(import_id, "/start"), {"dry_run": dry_run})
    view.on_interrupt = f"The {what} goes on. {what_next}"
    done = await follow(api, import_id, view)
    if dry_run and done["status"] == "ready":
        for line in sample_lines(await api.items(path_of(import_id, "/channels"), _MAX_CHANNELS, {})):
            view.line(line)
    return _shown(done, view)


async def undo(api: HubApi, import_id: str, view: View, *, keep_answered: bool, keep_shared: bool) -> Json:
    """Undo an import after a question that names the number of its messages. Raises as `run_import` does."""
    before = await api.call("GET", path_of(import_id))
    found = await api.call("GET", path_of(import_id, "/undo"))
    added, shared = found["messages"], found["shared"]
    if shared:
        fate = "they stay" if keep_shared else "they are removed, too, unless you add --keep-shared"
        view.line(f"{shared} of its messages were found by other imports, too: {fate}")
    if found["channels"] or found["people"]:
        new = f"new channels ({found['channels']}) and people ({found['people']})"
        view.line(f"its {new} are removed, too, unless they are needed otherwise")
    if not view.confirm(f"Remove the {added} messages that this import added?"):
        view.line("nothing was removed")
        return dict(before)
    body = {"messages": added, "keep_answered": keep_answered, "keep_shared": keep_shared}
    what_next = f"Follow it: interlink import show {import_id} --follow"
    view.on_interrupt = f"The undo may have started. {what_next}"
    await api.call("POST", path_of(import_id, "/undo"), body)
    view.on_interrupt = f"The undo goes on. {what_next}"
    done = await follow(api, import_id, view)
    left = done["left"] - before["left"]
    view.line(f"{added - done['added'] - left} messages were removed")
    if left:
        view.line(f"{left} messages were left to other imports")
    if done["added"]:
        view.line(f"{done['added']} messages were kept")
    for kind, result in (done["undo"] or {}).items():
        others = "".join(f", {item['number']} kept ({item['reason']})" for item in result["retained"])
        view.line(f"{kind}: {result['removed']} removed{others}")
    return done


async def follow(api: HubApi, import_id: str, view: View, busy: Collection[str] = BUSY) -> Json:
    """Show an import while the hub works on it, and return its state after that.

    Wait up to a minute for a hub that is away. Raises `Refused`, `Unreachable`.
    """
    last_seen = monotonic()
    while True:
        try:
            found: Json = await api.call("GET", path_of(import_id))
        except (Refused, Unreachable) as error:
            if (isinstance(error, Refused) and error.status < 500) or monotonic() > last_seen + _PATIENCE_S:
                raise
        else:
            last_seen = monotonic()
            note = f"waits for {found['waiting_for']}" if found["waiting_for"] else ""
            view.progress(f"{found['status']} ({found['current_step']})", found["progress"], 100, note)
            if found["status"] not in busy:
                return found
        await asyncio.sleep(_POLL_S)


async def read_report(api: HubApi, import_id: str, form: str) -> str:
    """Return the report of an import, as CSV, as a page (`html`), or as JSON with the days of all pages.

    Raises `Refused`, `Unreachable`.
    """
    path = path_of(import_id, "/report")
    if form in _TEXT_REPORTS:
        _, report = await api.send("GET", f"{path}?format={form}")
        return report.decode()
    found = await api.call("GET", path)
    while cursor := found.get("next_cursor"):
        more = await api.call("GET", path, params={"cursor": cursor})
        found["days"] += more["days"]
        found["next_cursor"] = more["next_cursor"]
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()


def write_report(path: Path, report: str) -> None:
    """Write a report to a file. Raises `Misconfigured`."""
    try:
        path.write_text(report, "utf-8")
    except OSError as error:
        raise Misconfigured(
            f"{path} cannot be written: {error.strerror}; 'interlink import report' prints the report again"
        ) from None


async def _create(api: HubApi, request: ImportRequest, view: View) -> Json:
    """Create the import of an account, or of a file or folder, which is uploaded."""
    if isinstance(request.source, str):
        path = f"/api/integrations/{quote(request.source, safe='')}/import"
        return dict(await api.call("POST", path, {"repeat": "daily" if request.daily else None}))
    if request.source.is_dir():
        view.line(f"packing {request.source} as a ZIP archive")
    view.on_interrupt = "The upload is interrupted: run the same command again, and it goes on from there"
    with archive_of(request.source) as file:
        upload = FileUpload(api, request.source, file)
        try:
            upload_id = await upload.run(lambda done: view.progress("upload", done, upload.size))
        except Unreachable as error:
            raise Unreachable(f"{error}; run the same command again, and the upload goes on") from None
    created = await api.call("POST", "/api/imports", {"upload_id": upload_id})
    upload.forget()
    return dict(created)


def _check_choices(found: Json) -> None:
    """Raise `Misconfigured` if a question needs an answer before the start."""
    for choice in found["contents"]["choices"]:
        if choice["required"] and choice["answer"] is None:
            values = " or ".join(option["value"] for option in choice["options"][:_MAX_VALUES])
            raise Misconfigured(
                f"a question has no answer: {choice['text']} Answer it with {values}: "
                f"interlink import start {found['id']} --answer {choice['id']}=VALUE"
            )


def _shown(found: Json, view: View) -> Json:
    for line in state_lines(found):
        view.line(line)
    return found
