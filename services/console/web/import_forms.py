"""Handle the forms of an import: its account, options, answers and undo."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import HubApi, Refusal
from services.console.pages.kinds import Action, Field
from services.console.web.action_forms import ActionForms
from services.console.web.edits import CHANGED, Edit, based_on, compared, is_outdated
from services.console.web.forms import BadForm, Form, first, values_of
from services.console.web.frame import Frame, see_other
from services.console.web.import_plan import import_api, import_path
from services.console.web.visits import Visit

_CHANNELS: Final = {
    "mapped": "into their mapped channel, or a new one",
    "new": "into new channels",
    "leave_out": "left out",
}
_FILES: Final = {
    "all": "store all",
    "up_to": "store those up to a size",
    "addresses": "store none; read each from the provider when it is opened",
    "none": "leave them out",
}
_FLAGS: Final = (
    Field("match_people", "People become users who are linked or have the same e-mail address", "flag"),
    Field(
        "direct_messages",
        "Direct messages",
        "flag",
        "They were written for two people or a closed group only.",
    ),
    Field("archived_channels", "Archived channels", "flag"),
    Field("bots", "Messages of bots", "flag"),
    Field("system_messages", "System messages, such as who joined", "flag"),
    Field("threads", "Replies in threads", "flag"),
    Field("reactions", "Reactions", "flag"),
    Field("pins", "Pins", "flag"),
    Field("edits", "Publish again what was edited since an earlier import", "flag"),
)
_OPTIONS: Final = (
    Field("since", "From (UTC)", "time", "Left empty: from the beginning."),
    Field("until", "Before (UTC)", "time", "Left empty: to the end."),
    Field(
        "other_channels",
        "Channels without a choice of their own go",
        "select",
        options=tuple(_CHANNELS),
        labels=_CHANNELS,
    ),
    *_FLAGS,
    Field("mode", "Files", "select", options=tuple(_FILES), labels=_FILES),
    Field("max_bytes", "Largest file in bytes", "number", "Only if files are stored up to a size."),
    Field("time_zone", "Time zone of the report's days", hint="Such as Europe/Berlin.", default="UTC"),
)
_REPEAT: Final = Field(
    "repeat",
    "Each day, import what is new",
    "flag",
    "Until you cancel the import that waits for the next day.",
)
_ANSWER: Final = "answer-"

Json = Mapping[str, Any]


class ImportForms:
    """The forms of an import, except those of channels and people."""

    def __init__(self, hub: HubApi, frame: Frame, forms: ActionForms) -> None:
        self._hub = hub
        self._frame = frame
        self._forms = forms

    # A connected account

    async def ask_account(self, request: Request, visit: Visit) -> Response:
        """Return the form that begins the import of a connected account."""
        return await self._account_page(request, visit)

    async def start_account(self, request: Request, visit: Visit, form: Form) -> Response:
        """Create the import of an account, which reads its lists. Nothing is published."""
        try:
            accounts = await self._accounts(visit)
            values = values_of(form, [_account_field(accounts), _REPEAT])
            body = {"repeat": "daily"} if values["repeat"] else {}
            path = f"/api/integrations/{quote(values['integration_id'], safe='')}/import"
            made = await self._hub.call(visit.member, "POST", path, body=body, once=first(form, "once"))
        except Refusal as refusal:
            return await self._account_page(request, visit, form, refusal)
        return see_other(f"/console/imports/{quote(made['id'], safe='')}")

    async def _account_page(
        self, request: Request, visit: Visit, form: Form | None = None, refusal: Refusal | None = None
    ) -> Response:
        accounts: Sequence[Json] = []
        try:
            accounts = await self._accounts(visit)
        except Refusal as error:
            refusal = refusal or error
        if not accounts and refusal is None:
            text = "No account is connected whose history can be imported. Connect one for the use import."
            return self._frame.problem(visit, 200, "No account", text, "/console/catalogue")
        effect = (
            "The hub asks the provider itself, with at most half of what the provider allows. A large "
            "account takes days: the dry run says how many. Nothing is published before you start it."
        )
        action = Action(
            "import", "Import an account", "", "imports:write", "", effect=effect,
            fields=(_account_field(accounts), _REPEAT),
        )  # fmt: skip
        return self._forms.page(
            visit, request, action, here="imports", back="/console/imports/new", form=form, refusal=refusal
        )

    async def _accounts(self, visit: Visit) -> list[Json]:
        """Return the connected accounts whose provider can be asked for its history. Raises `Refusal`."""
        catalogue = await self._hub.call(visit.member, "GET", "/api/catalog")
        providers = {entry["id"] for entry in catalogue["items"] if "account" in entry["imports"]}
        params = {"status": "connected", "limit": "500"}
        found = await self._hub.call(visit.member, "GET", "/api/integrations", params=params)
        return [item for item in found["items"] if item["provider"] in providers]

    # Answers

    async def answer(self, request: Request, visit: Visit, form: Form) -> Response:
        """Store the answers to questions about the export, which is then read again."""
        answers = {
            name.removeprefix(_ANSWER): values[0]
            for name, values in form.items()
            if name.startswith(_ANSWER) and values[0]
        }
        try:
            await self._hub.call(
                visit.member,
                "PATCH",
                import_api(request, "plan"),
                body={"answers": answers},
                once=first(form, "once"),
            )
        except Refusal as refusal:
            return self._frame.unsent(visit, refusal, import_path(request), form)
        return see_other(f"{import_path(request)}?done=answers")

    # Options

    async def options(self, request: Request, visit: Visit) -> Response:
        """Return the form of the options."""
        try:
            plan, version = await self._plan(request, visit)
        except Refusal as refusal:
            return self._frame.refused(visit, refusal, import_path(request))
        return self._options_page(request, visit, _form_of(plan), Edit(version))

    async def set_options(self, request: Request, visit: Visit, form: Form) -> Response:
        """Store the options, unless another person has changed the plan meanwhile."""
        try:
            body = _options_body(form)
            await self._hub.call(
                visit.member,
                "PATCH",
                import_api(request, "plan"),
                body=body,
                once=first(form, "once"),
                version=based_on(form),
            )
        except Refusal as refusal:
            edit = Edit(based_on(form) or 0)
            if is_outdated(refusal):
                plan, version = await self._plan(request, visit)
                edit, refusal = compared(_OPTIONS, form, _form_of(plan), version), CHANGED
            return self._options_page(request, visit, form, edit, refusal)
        return see_other(f"{import_path(request)}?done=options")

    def _options_page(
        self, request: Request, visit: Visit, form: Form, edit: Edit, refusal: Refusal | None = None
    ) -> Response:
        action = Action("options", "Store the options", "", "imports:write", "", fields=_OPTIONS)
        return self._forms.page(
            visit,
            request,
            action,
            here="imports",
            back=import_path(request),
            form=form,
            refusal=refusal,
            edit=edit,
            wizard=import_path(request),
        )

    async def _plan(self, request: Request, visit: Visit) -> tuple[Json, int]:
        """Return the plan, and its version, which may be an older one. Raises `Refusal`."""
        job = await self._hub.call(visit.member, "GET", import_api(request))
        plan = await self._hub.call(visit.member, "GET", import_api(request, "plan"))
        return plan, job["plan_version"]

    # Undo

    async def ask_undo(self, request: Request, visit: Visit) -> Response:
        """Return the form of the undo, with the counts of what it would remove."""
        return await self._undo_page(request, visit)

    async def undo(self, request: Request, visit: Visit, form: Form) -> Response:
        """Start the undo. The form confirms it with the number of messages."""
        try:
            fields = _undo_fields(0)
            body = values_of(form, fields)
            await self._hub.call(
                visit.member, "POST", import_api(request, "undo"), body=body, once=first(form, "once")
            )
        except Refusal as refusal:
            return await self._undo_page(request, visit, form, refusal)
        return see_other(f"{import_path(request)}?done=undo")

    async def _undo_page(
        self, request: Request, visit: Visit, form: Form | None = None, refusal: Refusal | None = None
    ) -> Response:
        try:
            found = await self._hub.call(visit.member, "GET", import_api(request, "undo"))
            job = await self._hub.call(visit.member, "GET", import_api(request))
        except Refusal as error:
            return self._frame.refused(visit, error, import_path(request))
        action = Action(
            "undo", "Undo the import", "", "imports:write", "", effect=_undo_effect(found),
            fields=_undo_fields(found["shared"]), is_destructive=True,
        )  # fmt: skip
        return self._forms.page(
            visit,
            request,
            action,
            here="imports",
            back=import_path(request),
            about=job["name"],
            form=form,
            refusal=refusal,
        )


def _account_field(accounts: Sequence[Json]) -> Field:
    names = {item["id"]: f"{item['provider']} {item['name']}" for item in accounts}
    return Field("integration_id", "Account", "select", options=tuple(names), labels=names, required=True)


def _undo_effect(found: Json) -> str:
    messages, channels, people = (found[name] for name in ("messages", "channels", "people"))
    return (
        f"It takes {messages:,} messages away from the chat, then {channels:,} channels and {people:,} "
        "guests that it has brought, as far as nobody else uses them: the result says what stays, and why. "
        "What people wrote since stays. This cannot be undone, but the import can be repeated."
    )


def _undo_fields(shared: int) -> list[Field]:
    hint = f"Other imports have found {shared:,} of them too: they belong to these then."
    return [
        Field("messages", "To confirm: the number of messages", "number", required=True),
        Field("keep_answered", "Keep messages that somebody has answered since", "flag"),
        Field("keep_shared", "Keep messages that other imports have found, too", "flag", hint),
    ]


def _form_of(plan: Json) -> Form:
    """Return the options of a plan as the values of the form."""
    files = plan["files"]
    values = {name: plan[name] for name in ("other_channels", "time_zone")}
    values |= {"mode": files["mode"], "max_bytes": str(files["max_bytes"] or "")}
    values |= {field.name: "yes" if plan[field.name] else "" for field in _FLAGS}
    for name in ("since", "until"):
        moment = datetime.fromisoformat(plan[name]).astimezone(UTC) if plan[name] else None
        values[name] = f"{moment:%Y-%m-%dT%H:%M:%S}" if moment else ""
    return {name: [value] for name, value in values.items()}


def _options_body(form: Form) -> Json:
    """Return the changes of the plan that a form makes. Raises `BadForm`."""
    values = {"since": None, "until": None, **values_of(form, _OPTIONS)}
    mode, max_bytes = values.pop("mode", "all"), values.pop("max_bytes", None)
    if mode not in _FILES:
        raise BadForm("Files: choose one of the list")
    files = {"mode": mode, "max_bytes": max_bytes if mode == "up_to" else None}
    if mode == "up_to" and max_bytes is None:
        raise BadForm("Largest file in bytes: fill it in, or store all files")
    return {**values, "files": files}
