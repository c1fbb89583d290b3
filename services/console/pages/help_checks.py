"""Checks of the help page. Each result names the problem, the fix, and the page to fix it on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from shared.runtime.web.api_keys import Scope

Json = Mapping[str, Any]
_LATE_S: Final = 60.0
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `ok` is None if it could not run or a first step is missing."""

    about: str
    ok: bool | None
    text: str
    href: str = ""
    link: str = ""
    scope: Scope | None = None
    """The scope that the link needs; None if the page that it is on needs it too."""


def unavailable(about: str, detail: str) -> CheckResult:
    """Return the result of a check that could not run. `detail` is the reason."""
    return CheckResult(about, None, detail)


def check_services(checks: Mapping[str, Mapping[str, bool]]) -> Iterator[CheckResult]:
    """Check that each service answers and is ready."""
    for service, found in checks.items():
        if not found:
            text = f"It does not answer. Start it (interlink serve {service}); its log says why it ended."
            yield CheckResult(service, False, text)
            continue
        wrong = [_reason(name) for name, ok in found.items() if not ok]
        yield CheckResult(service, not wrong, " ".join(wrong) or "It is ready.")


def _reason(check: str) -> str:
    if check == "producer_has_metadata":
        return "It does not reach Kafka: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"
    if check == "store_answers":
        return "MongoDB does not answer: is it running, and is MONGODB_URI right?"
    if check == "not_draining":
        return "It is stopping."
    if check.endswith("_assigned"):
        return "It gets no work of Kafka yet: wait some seconds. If that lasts, run 'interlink init'."
    return f"The check {check} fails: its log says why."


def check_callback(redirect_uri: str, here: str, status: int | None) -> Iterator[CheckResult]:
    """Check the redirect URI, to which providers send people back.

    `here` is the host of the help page's own address. `status` is that of the redirect URI's response to a
    request without an authorization; None without a response.
    """
    about = "Redirect URI"
    address = urlsplit(redirect_uri)
    if address.scheme != "https" and address.hostname not in _LOCAL:
        text = f"{redirect_uri} is not https: most providers refuse it. Set INTERLINK_PUBLIC_URL to https."
        yield CheckResult(about, False, text)
    else:
        yield CheckResult(about, True, f"{redirect_uri}: enter it at each provider's app, exactly so.")
    if address.netloc != here and not (
        address.hostname in _LOCAL and urlsplit(f"//{here}").hostname in _LOCAL
    ):
        text = (
            f"You are at {here}, but people come back to {address.netloc}. If a browser does not reach that, "
            "set INTERLINK_PUBLIC_URL to the address that it does reach."
        )
        yield CheckResult("Address of the hub", False, text)
    if status is None or status in (404, 502, 503, 504):
        text = "The redirect URI does not answer: is the service oauth running, and does the proxy send "
        yield CheckResult("Callback", False, text + "/api/auth/oauth there?")
    else:
        yield CheckResult("Callback", True, "It answers.")


def check_apps(apps: Sequence[Json]) -> Iterator[CheckResult]:
    """Check that no provider has rejected the credentials of an OAuth app."""
    wrong = [app for app in apps if app["reason"]]
    for app in wrong[:5]:
        href = f"/console/catalogue/{app['provider']}"
        yield CheckResult(f"App of {app['provider']}", False, str(app["reason"]), href, "Correct the app")
    if not apps:
        text = "No app is registered yet: accounts of OAuth providers cannot be connected."
        yield CheckResult("Apps", None, text, "/console/catalogue", "Choose a provider")
    elif not wrong:
        yield CheckResult("Apps", True, f"{len(apps)} registered; none was refused.")


def check_accounts(ended: Sequence[Json], broken: Sequence[Json]) -> CheckResult:
    """Check that no account has to be connected again or has an error."""
    if ended:
        text = f"{_many(ended)} to be connected again: the consent ended."
        return CheckResult(
            "Accounts", False, text, "/console/integrations?status=reauth_required", "Show them"
        )
    if broken:
        text = f"{_many(broken)} an error: open them for the reason."
        return CheckResult("Accounts", False, text, "/console/integrations?status=error", "Show them")
    return CheckResult("Accounts", True, "None needs to be connected again.")


def _many(found: Sequence[Json]) -> str:
    return "One account has" if len(found) == 1 else f"{len(found)} or more accounts have"


def check_deliveries(queue: Json, webhooks: Sequence[Json]) -> Iterator[CheckResult]:
    """Check that deliveries are not late or given up, and that no webhook fails."""
    if not webhooks:
        text = "There is no outgoing webhook yet, so nothing is delivered."
        yield CheckResult(
            "Outgoing webhooks", None, text, "/console/webhooks/do/create", "Create one", "webhooks:write"
        )
    late = queue["oldest_due_s"] or 0.0
    if late > _LATE_S:
        text = (
            f"The oldest one has been due for {late:,.0f} s: its webhook is paused or fails, or the service "
        )
        yield CheckResult(
            "Queue", False, text + "is behind.", "/console/deliveries?status=pending", "Show them"
        )
    else:
        waiting = queue["pending"] + queue["delayed"]
        yield CheckResult("Queue", True, f"Deliveries that wait: {waiting:,}. None is late.")
    if queue["failed"]:
        text = f"{queue['failed']:,} deliveries were given up. Each says what to do; then send them again."
        yield CheckResult("Dead letters", False, text, "/console/dead-letters", "Show them")
    for webhook in webhooks:
        if webhook["disabled_reason"] or webhook["health"]["failing_since"]:
            why = webhook["disabled_reason"] or f"It fails since {webhook['health']['failing_since']}."
            href = f"/console/webhooks/{webhook['id']}"
            yield CheckResult(f"Webhook {webhook['name'] or webhook['id']}", False, str(why), href, "Open it")


def check_imports(imports: Sequence[Json]) -> Iterator[CheckResult]:
    """Check that none of the newest imports has failed or waits for an answer."""
    found = False
    for job in imports:
        why = job["error"] or job["waiting_for"]
        if why:
            found = True
            name = f"Import {job['name'] or job['id']}"
            ok = False if job["error"] else None
            yield CheckResult(name, ok, str(why), f"/console/imports/{job['id']}", "Open it")
    if not imports:
        text = "Nothing was imported yet."
        yield CheckResult("Imports", True, text, "/console/imports/new", "Import a history", "imports:write")
    elif not found:
        yield CheckResult("Imports", True, "None of the newest has failed or waits for an answer.")
