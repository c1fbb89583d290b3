"""Taking a person back from a platform: what came with him is made an integration.

Nothing of what a platform gave is kept before it is known whose account it is; what cannot be kept is given
back (revoked).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from services.oauth.choose import CHOICE
from services.oauth.flows import app_for, flow_of, server_of
from services.oauth.identity import (
    CONNECTED,
    IN_USE,
    find_same,
    has_another_user,
    held,
    is_same,
    person_of,
)
from services.oauth.revoke import Revoking
from services.oauth.states import Occupied, States, UsedCode
from services.oauth.watch import Watching
from shared.catalog.connector import (
    Choice,
    ClientRefused,
    Connector,
    ConsentGone,
    Granted,
    PlatformBusy,
    Refused,
    Whose,
)
from shared.catalog.three_legged import RequestToken, ThreeLegged
from shared.contracts.errors import (
    InterlinkError,
    Misconfigured,
    NotFound,
    Rejected,
    StoreUnavailable,
)
from shared.runtime.apps import Apps
from shared.runtime.credentials import merged, of_new_tokens, refresh_tokens, schedule, texts_of, values_of
from shared.runtime.integrations import Integrations
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Duplicate, utcnow
from shared.runtime.tokens import TokenSource
from shared.wire.fills import Unfillable
from shared.wire.oauth import unsaid

_MOST_CODE: Final = 4096
_MOST_SAID: Final = 100
_TRIES: Final = 5
_DENIED: Final = frozenset(
    {"access_denied", "user_denied", "user_cancelled_login", "user_cancelled_authorize"}
)
_GONE: Final = "the integration is not there any more: begin anew"


class NotFinished(Exception):
    """The dance has ended without a connection. `code` is a stable word, `why` a sentence for people."""

    def __init__(self, code: str, why: str, *, status: int = 400, note: str = "") -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.status = status
        self.note = note or why
        """What may stand in a log: `why` may name accounts."""
        self.holder: Document | None = None
        """The integration that has the account: what it lives on must not be revoked."""
        self.begun: Document = {}
        """What the state was made for: where to send the person back to."""


class Arriving:
    """Finishes dances."""

    def __init__(
        self,
        states: States,
        integrations: Integrations,
        apps: Apps,
        tokens: TokenSource,
        watching: Watching,
        revoking: Revoking,
        log: Log,
    ) -> None:
        self._states = states
        self._integrations = integrations
        self._apps = apps
        self._tokens = tokens
        self._watching = watching
        self._revoking = revoking
        self._log = log

    async def finish(self, query: Sequence[tuple[str, str]], cookie: str | None) -> tuple[Document, Document]:
        """What the state was made for, and the integration that was connected.

        Raises `NotFinished`, or what `States.use` raises: nobody is sent on then, and nothing was done.
        """
        await self._apps.current()
        begun, verifier = await self._states.use(dict(query).get("state", ""), cookie)
        try:
            return begun, await self._finished(begun, verifier, query)
        except NotFinished as error:
            error.begun = begun
            await self._states.fail(dict(query)["state"])
            raise
        except (NotFound, StoreUnavailable, Misconfigured) as error:
            away = not isinstance(error, NotFound)
            if isinstance(error, Misconfigured):
                self._log.error("connection not finished", why=str(error), provider=begun["provider"])
            why = "something is not available: begin anew in a moment" if away else _GONE
            ended = NotFinished("unavailable" if away else "gone", why, status=503 if away else 410)
            ended.begun = begun
            await self._states.fail(dict(query)["state"])
            raise ended from error

    async def _finished(self, begun: Document, verifier: str, query: Sequence[tuple[str, str]]) -> Document:
        document = await self._integrations.find(begun["integration_id"], begun["workspace"])
        connector, values = self._known(begun, document)
        if document["status"] == "disabled":
            raise NotFinished("disabled", "the integration is disabled: enable it first")
        kept = await self._answered(begun, document, connector, values, query)
        code = dict(query).get("oauth_verifier" if connector.oauth1 else "code", "")
        if not code or len(code) > _MOST_CODE:
            raise NotFinished("no_code", "the platform sent no code")
        granted = await self._granted(begun, connector, values, code, verifier)
        whose: Whose | None = None
        try:
            granted = await self._longer(begun, connector, values, granted)
            whose, choices = await self._whose(begun, connector, values, granted, kept)
            async with self._states.alone(begun["workspace"], begun["provider"], whose.id):
                return await self._connected(begun, document["_id"], connector, granted, whose, choices)
        except Occupied:
            if not connector.ends_everything:  # else the other one's grant, which is just made, would end too
                await self._give_back(document, values, granted, whose, None)
            raise
        except (StoreUnavailable, Misconfigured):
            raise  # it may have been written after all
        except (NotFinished, InterlinkError) as error:
            holder = error.holder if isinstance(error, NotFinished) else None
            await self._give_back(document, values, granted, whose, holder)
            if isinstance(error, NotFinished | NotFound):
                raise
            if isinstance(error, Refused) and error.code == "nothing_to_choose":
                raise NotFinished(error.code, error.detail) from error
            given = [values.get("client_secret", ""), *_tokens_of(granted)]
            raise NotFinished(
                "no_account",
                "the platform did not say whose account it is: try again",
                note=unsaid(f"not known whose account it is: {error}", given),
            ) from error

    def _known(self, begun: Document, document: Document) -> tuple[Connector, dict[str, str]]:
        """How the answer is to be read, which has to be as it was when the person set out."""
        try:
            connector = flow_of(begun["provider"])
            app = app_for(self._apps, connector, begun["workspace"])
        except Rejected as error:
            raise NotFinished(
                "app_gone", f"the app of {begun['provider']} cannot be used here any more", note=error.detail
            ) from error
        values = values_of({**document, "params": begun["params"]}, app, begun["redirect_uri"])
        if server_of(connector, app, values) != begun["server"]:
            raise NotFinished("app_changed", f"the app of {begun['provider']} was changed: begin anew")
        return connector, values

    async def _answered(
        self,
        begun: Document,
        document: Document,
        connector: Connector,
        values: Mapping[str, str],
        query: Sequence[tuple[str, str]],
    ) -> Mapping[str, str]:
        """What to keep of an answer, which is checked to be the platform's, also when it is an error."""
        got = dict(query)
        said = got.get("error")
        if connector.oauth1 is not None:
            try:
                ThreeLegged(connector.oauth1).verifier(got, RequestToken(**begun["request"]))
            except Refused as error:
                if error.code != "access_denied":
                    raise NotFinished(
                        error.code, "the answer is not from the platform that was asked"
                    ) from error
                said = said or error.code
        try:
            kept = connector.check_callback(query, values) if connector.oauth2 else {}
        except (Refused, Unfillable) as error:
            code = error.code if isinstance(error, Refused) else "wrong_answer"
            if not said or code == "wrong_issuer":  # errors need not have what else answers have
                raise NotFinished(code, "the answer is not from the platform that was asked") from error
            kept = {}
        if not said:
            return kept
        if said not in _DENIED:
            raise NotFinished("platform_error", f"the platform said: {said[:_MOST_SAID]}")
        if not begun["again"] and document["status"] == "pending" and document["credential"] is None:
            await self._integrations.change(document, {"deleted_at": utcnow(), "open": False})
        raise NotFinished("access_denied", "the platform was told not to allow it")

    async def _granted(
        self, begun: Document, connector: Connector, values: Mapping[str, str], code: str, verifier: str
    ) -> Granted:
        """The tokens for the code, which is brought to the platform once."""
        try:
            await self._states.spend(code)
            if connector.oauth1 is not None:
                flow = ThreeLegged(connector.oauth1)
                third = flow.third(values, RequestToken(**begun["request"]), code)
                return flow.granted(await self._tokens.ask(third, begun["workspace"]))
            call = connector.exchange(values, code=code, verifier=verifier)
            return connector.granted(await self._tokens.ask(call, begun["workspace"]))
        except (ConsentGone, UsedCode) as error:
            raise NotFinished("code_refused", "the platform does not take the code (any more)") from error
        except Refused as error:
            request = begun.get("request") or {}
            hidden = (code, verifier, values.get("client_secret", ""), *request.values())
            word, detail = unsaid(error.code, hidden), unsaid(error.detail, hidden)
            if isinstance(error, ClientRefused):
                workspace, said = begun["workspace"], ClientRefused(word, detail)
                app = self._apps.find(connector.app, workspace)
                if await self._tokens.trial.suspect(app, connector, workspace, said):
                    raise NotFinished(
                        "app_refused", "the platform refuses the app's client id or secret"
                    ) from error
            why = f"{word} ({detail})" if detail else word
            raise NotFinished("platform_error", f"the platform refused: {why}") from error
        except (PlatformBusy, Unfillable) as error:
            raise NotFinished("platform_unavailable", "the platform could not be asked: try again") from error

    async def _longer(
        self, begun: Document, connector: Connector, values: Mapping[str, str], granted: Granted
    ) -> Granted:
        """The grant with tokens that live longer, where the platform has them."""
        if granted.tokens is None or connector.oauth2 is None:
            return granted
        longer = connector.longer({**values, "access_token": granted.tokens.access_token})
        if longer is None:
            return granted
        better = connector.granted(await self._tokens.ask(longer, begun["workspace"]))
        if better.tokens and better.tokens.scopes is None:
            better = replace(better, tokens=replace(better.tokens, scopes=granted.tokens.scopes))
        return replace(better, document=granted.document)

    async def _whose(
        self,
        begun: Document,
        connector: Connector,
        values: Mapping[str, str],
        granted: Granted,
        kept: Mapping[str, str],
    ) -> tuple[Whose, list[Choice]]:
        account = connector.account
        assert account is not None  # noqa: S101 -- the manifest has one for every flow
        tokens = granted.tokens or next(iter(granted.others.values()))
        values = {**values, "access_token": tokens.access_token} | {
            f"account:{name}": value for name, value in kept.items()
        }
        document = granted.document
        if account.call is not None:
            call = connector.request(account.call, values)
            document = connector.read(await self._tokens.ask(call, begun["workspace"]))
        whose = connector.whose(account, document)
        person = connector.person(document, token=granted.document)
        whose = replace(whose, kept={**kept, **whose.kept}, person=person)
        if connector.choices is None:
            return whose, []
        values |= {f"account:{name}": value for name, value in whose.kept.items()}
        found = await self._tokens.ask(connector.request(connector.choices.call, values), begun["workspace"])
        return whose, connector.choices_of(connector.read(found))

    async def _connected(
        self,
        begun: Document,
        name: str,
        connector: Connector,
        granted: Granted,
        whose: Whose,
        choices: list[Choice],
    ) -> Document:
        """Write it: into the integration that has this account already, or into the one that set out."""
        for _ in range(_TRIES):
            document = await self._integrations.find(name, begun["workspace"])
            target = await self._target(begun, document, whose, choices)
            kept = self._kept(begun, target, granted, whose)
            change = _change(begun, target, connector, granted, whose, choices, kept)
            change["credential"] = self._integrations.seal(target, merged(kept, granted))
            if change["status"] == "connected":
                await self._watching.expect(target)
            taken = has_another_user(target, begun["user"])
            try:
                changed = await self._integrations.change(
                    target,
                    change,
                    tell=CONNECTED[taken] if change["status"] == "connected" else None,
                    only={"status": target["status"]},  # disabled, or ended, meanwhile: look again
                )
            except Duplicate:  # another process has connected the same account beside this
                continue
            if changed is not None:
                break
        else:
            raise NotFinished("overtaken", "the integration is changing all the time: try again")
        self._tokens.forget(changed["_id"])
        await self._given_up(target, whose, changed, taken=taken)
        if changed["_id"] != document["_id"]:
            gone = {"deleted_at": utcnow(), "open": False, "merged_into": changed["_id"]}
            await self._integrations.change(document, gone)
        await self._watching.wake(changed["_id"])
        return changed

    async def _target(
        self, begun: Document, document: Document, whose: Whose, choices: Sequence[Choice]
    ) -> Document:
        """Which integration it is written into. Raises `NotFinished`: it is not what was to be connected."""
        before = document.get("account")
        choice = _chosen(choices, document)
        # Of an account with several places, each may be connected: which one this is, may not be known yet.
        known = choice is not None or not choices
        user = begun["user"] or document.get("user")
        same = await find_same(self._integrations, document, whose, choice, user) if known else None
        mine = bool(before) and is_same(document, whose, document.get("user"))
        if mine and (same is None or choice is None):
            _check_free(begun, document)
            return document
        if before and not mine and not begun["any_account"]:
            raise _other_account(begun, document, whose)
        if before and same is not None:
            label = choice.label if choice else whose.label
            called = f": {same['name']}" if same["name"] and not has_another_user(same, user) else ""
            raise NotFinished(
                "connected_already",
                f"{label} is connected already{called}",
                note=f"the account is that of {same['_id']}",
            )
        target = same or document
        _check_free(begun, target)
        return target

    def _kept(self, begun: Document, target: Document, granted: Granted, whose: Whose) -> dict[str, Any]:
        """The refresh tokens that the platform left out, as it gave them before for the same consent."""
        was = target.get("account")
        same = (
            was
            and was["id"] == whose.id
            and person_of(target) == whose.person
            and target["status"] in ("connected", "error")
            and list(target.get("app") or ()) == list(begun["server"][:2])
            and target["params"] == begun["params"]
        )
        scopes = _scopes(begun, granted)
        if not same or not set(target["scopes"]) <= set(
            scopes
        ):  # what it makes may do no more than is allowed now
            return {}
        try:
            before = self._integrations.open(target)
        except Misconfigured:
            return {}
        return refresh_tokens(before, granted)

    async def _give_back(
        self,
        document: Document,
        values: Mapping[str, str],
        granted: Granted,
        whose: Whose | None,
        holder: Document | None,
    ) -> None:
        """Revoke what will not be kept; not what `holder`, another integration of the account, lives on."""
        account = whose.id if whose else None
        spare = self._tokens_in(holder) if holder is not None else ()
        await self._revoking.revoke(document, values, merged({}, granted), account, spare=spare)

    async def _given_up(self, before: Document, whose: Whose, now: Document, *, taken: bool) -> None:
        """Revoke what an integration had of another account, or user, than it has now."""
        account = before.get("account")
        if not account or not before["credential"]:
            return
        if account["id"] == whose.id and person_of(before) in (None, whose.person) and not taken:
            return
        try:
            secrets = self._integrations.open(before)
        except Misconfigured:
            return
        values, spare = self._tokens.values(before), self._tokens_in(now)
        await self._revoking.revoke(before, values, secrets, account["id"], spare=spare)

    def _tokens_in(self, document: Document) -> Collection[str]:
        """The tokens that an integration lives on."""
        try:
            secrets = self._integrations.open(document) if document["credential"] else {}
        except Misconfigured:
            return ()
        grants = (secrets, *secrets.get("others", {}).values())
        return [token for grant in grants for token in texts_of(grant).values()]


def _tokens_of(granted: Granted) -> list[str]:
    every = [each for each in (granted.tokens, *granted.others.values()) if each is not None]
    return [token for each in every for token in (each.access_token, each.refresh_token)]


def _check_free(begun: Mapping[str, Any], document: Document) -> None:
    """Raise `NotFinished` if the integration is another user's, or disabled: connecting is not enabling."""
    if has_another_user(document, begun["user"]) and not begun.get("takeover"):
        error = NotFinished("account_in_use", IN_USE, status=409)
        error.holder = document
        raise error
    if document["status"] == "disabled":
        raise NotFinished("disabled", "the integration is disabled: enable it first")


def _other_account(begun: Mapping[str, Any], document: Document, whose: Whose) -> NotFinished:
    """The refusal of an account that is not the integration's; another user's account is not named."""
    label = document["account"]["label"]
    note = "another account signed in"
    if has_another_user(document, begun["user"]):
        why = f"that is {whose.label}, and this integration is of another account"
    elif document["account"]["id"] == whose.id:
        why = (
            f"somebody else of {whose.label} signed in. Sign in there as before, or connect it as an account "
            "of its own"
        )
    else:
        why = (
            f"that is {whose.label}; this integration is of {label}. Sign in there as {label}, or connect "
            f"{whose.label} as an account of its own"
        )
    return NotFinished("other_account", why, note=note)


def _change(
    begun: Document,
    target: Document,
    connector: Connector,
    granted: Granted,
    whose: Whose,
    choices: Sequence[Choice],
    kept: Mapping[str, Any],
) -> dict[str, Any]:
    """What connecting changes, but for the credential; `kept` are refresh tokens from before."""
    choice = _chosen(choices, target)
    account: dict[str, Any] = {
        "id": whose.id,
        "label": whose.label,
        "url": whose.url,
        "kept": dict(whose.kept),
        "person": whose.person,
    }
    if choice is not None:
        account |= {"choice": {"id": choice.id, "label": choice.label}}
        account["kept"] = {**whose.kept, **choice.kept}
    whole = choice is not None or not choices
    before = {"refreshable": True, "refresh_expires_at": target["refresh_expires_at"]} if kept else {}
    times = schedule(connector, granted, before)
    if not whole:
        times |= {"open": True, "due_at": utcnow() + CHOICE, "due_once_chosen": times["due_at"]}
    return {
        "status": "connected" if whole else "pending",
        "reason": "" if whole else "choice_required",
        "choices": [{"id": each.id, "label": each.label, "kept": dict(each.kept)} for each in choices],
        "account": account,
        "params": begun["params"],
        "app": begun["server"][:2],
        "asked": begun["asked"],
        "scopes": _scopes(begun, granted),
        "version": target["version"] + 1,
        "connected_at": utcnow(),
        "user": begun["user"] or target.get("user"),
        **of_new_tokens(target),
        **times,
        **(held(target, account) if whole else {"takeover": bool(begun.get("takeover"))}),
    }


def _scopes(begun: Mapping[str, Any], granted: Granted) -> list[str]:
    """What was granted; what was asked for, where the platform does not say."""
    said = granted.tokens.scopes if granted.tokens else None
    return list(begun["asked"] if said is None else said)


def _chosen(choices: Sequence[Choice], before: Mapping[str, Any]) -> Choice | None:
    """The only one, or the one that was chosen before."""
    if len(choices) == 1:
        return choices[0]
    earlier = ((before.get("account") or {}).get("choice") or {}).get("id")
    return next((each for each in choices if each.id == earlier), None)
