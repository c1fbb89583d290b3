"""The documents of the providers, made from their manifests: `docs/providers/<id>.md` and the index."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from interlink.provider import manifest_text
from shared.contracts.errors import Misconfigured
from shared.manifests.catalogue import (
    CALLBACK_PATH,
    Trigger,
    app_setup_steps,
    credentials,
    placeholder_url,
    receiving_provider,
    setup_steps,
    triggers,
)
from shared.manifests.connector import Connector
from shared.manifests.models import CatalogueEntry, Manifest, ProviderLimits, WebhookSpec
from shared.manifests.registry import Provider

INDEX: Final = "README.md"
HUB: Final = "https://hub.example.com"
"""The hub in the examples' addresses."""

_GENERATED: Final = "<!-- Made by `interlink provider docs` from shared/providers"
_GAP: Final = "\n\n"
_SPECIAL: Final = re.compile(r"([\\*<\[\]])")
_CODE: Final = re.compile(r"(`[^`]*`)")
_ABOUT: Final = """\
Each is a folder below `shared/providers`; [CONTRIBUTING.md](../../CONTRIBUTING.md) says how to add one,
[manifest.md](../manifest.md) what its manifest can say.

The tier says how sure the way of signing is. Verified: a signature that the platform published is reproduced.
Documented: from the platform's documents, SDK or source. From memory: likely, not certain.

The icons are from simple-icons 16.37.0 (CC0-1.0); the marks are their owners'. A provider without an icon is
shown with its initials."""
_TIERS: Final = {
    "verified": "verified: a signature that the platform published is reproduced",
    "documented": "documented: from the platform's documents, SDK or source",
    "from-memory": "from memory: likely, not certain",
}
_AUTH: Final = {"oauth": "OAuth", "apiKey": "an API key", "none": "nothing: it is a part of the hub"}
_SECRETS: Final = {
    "ours": "We make the secret, and you enter it on the platform.",
    "theirs": "The platform shows the secret, and you enter it here, also after the endpoint was made.",
    "handshake": "The platform hands the secret over when it asks whether the address is ours.",
    "none": "There is no secret to enter: keys are public, or in the settings.",
}


def pages(known: Mapping[str, Provider], readmes: Mapping[str, str]) -> dict[str, str]:
    """Every page by its file name. `readmes` are the folders' own, for their first paragraphs."""
    made = {f"{name}.md": _page(provider, known, readmes[name]) for name, provider in known.items()}
    return {**made, INDEX: _index(known)}


def stale(folder: Path, made: Mapping[str, str]) -> list[str]:
    """What is missing, differs, or is of no provider any more: a line each."""
    found: list[str] = []
    for name, text in made.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name}: missing")
        elif file.read_text("utf-8", "replace") != text:
            found.append(f"{name}: stale")
    return found + [f"{file.name}: of no provider" for file in _orphaned_pages(folder, made)]


def write(folder: Path, made: Mapping[str, str]) -> int:
    """Write what differs and remove what is of no provider; how many files. Raises `Misconfigured`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        changed = [line.partition(":")[0] for line in stale(folder, made)]
        for name in changed:
            file = folder / name
            if name in made:
                file.write_text(made[name], "utf-8")
            else:
                file.unlink()
    except OSError as error:
        raise Misconfigured(f"{folder}: {error.strerror}") from None
    return len(changed)


def _orphaned_pages(folder: Path, made: Mapping[str, str]) -> list[Path]:
    """Pages that we made of a provider that is gone; what somebody else wrote stays."""
    found = sorted(file for file in folder.glob("*.md") if file.name not in made)
    return [file for file in found if file.read_text("utf-8", "replace").startswith(_GENERATED)]


def _index(known: Mapping[str, Provider]) -> str:
    rows = []
    for provider in sorted(known.values(), key=lambda each: each.manifest.name.casefold()):
        manifest = provider.manifest
        own, entry = manifest.webhook, manifest.integration
        through = entry.through if entry and not own else ()
        how = "yes" if own else "through " + ", ".join(through) if through else "no"
        ways = dict.fromkeys(manifest_text.SCHEMES[way.scheme] for way in own.verification) if own else ()
        found = [
            f"`{each.id}`" + (" (polling)" if each.by == "polling" else "")
            for each in triggers(provider, known)
        ]
        name = f"[{_text(manifest.name)}]({manifest.id}.md)"
        category = (entry and entry.category) or manifest.category
        accounts = _account_methods(manifest)
        rows.append(
            (
                *(name, f"`{manifest.id}`", category, how, ", ".join(ways)),
                *(accounts, manifest.tier, " ".join(found)),
            )
        )
    with_own = sum(1 for each in known.values() if each.manifest.webhook)
    listed = sum(1 for each in known.values() if each.manifest.integration)
    connecting = sum(1 for each in known.values() if each.manifest.connect)
    counted = (
        f"{len(known)} platforms: {with_own} send webhooks of their own, {connecting} connect accounts, "
        f"{listed} are in the catalogue."
    )
    return "\n".join(
        [
            f"{_GENERATED} -->",
            "# Providers",
            "",
            counted,
            _ABOUT,
            "",
            *_table(
                ("name", "id", "category", "webhooks", "signed by", "accounts", "tier", "triggers"), rows
            ),
            "",
        ]
    )


def _account_methods(manifest: Manifest) -> str:
    connect = manifest.connect
    if connect is None:
        return ""
    flows = {"OAuth 2.0": connect.oauth2, "OAuth 1.0a": connect.oauth1}
    ways = [name for name, flow in flows.items() if flow]
    if connect.through:
        ways.append(f"through {connect.through}")
    return ", ".join([*ways, *(f"`{kind.id}`" for kind in connect.entered)])


def _page(provider: Provider, known: Mapping[str, Provider], readme: str) -> str:
    manifest = provider.manifest
    webhook = manifest.webhook
    parts = [
        f"{_GENERATED}/{manifest.id} -->",
        f"# {_text(manifest.name)}",
        _first_paragraph(readme),
        "\n".join(_table(("", ""), _facts(manifest))),
    ]
    if webhook:
        parts += _verification(webhook)
        parts += _handshakes(webhook)
        parts += _contents(webhook)
        parts += _events(webhook)
    parts += _triggers(triggers(provider, known))
    if webhook:
        parts += _answers(webhook)
    parts += _accounts(manifest, known)
    parts += _subscriptions(manifest)
    parts += _credentials(manifest)
    parts += _setup(manifest)
    parts += _app_setup(manifest, known)
    if webhook and webhook.templates:
        rows = [
            (f"`{each.id}`", _text(each.name), _event_list(each.events), _text(each.about))
            for each in webhook.templates
        ]
        parts += ["## Templates", "\n".join(_table(("id", "name", "events", "what it is for"), rows))]
    if manifest.from_memory:
        parts += ["## From memory", "No source was found for these; they are likely, not certain."]
        parts.append(_bullets(manifest.from_memory))
    parts += ["## Sources", _bullets(manifest.sources)]
    return "\n\n".join(parts) + "\n"


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    entry = manifest.integration
    yield "id", f"`{manifest.id}`"
    yield "category", (entry and entry.category) or manifest.category
    yield "webhooks", _webhooks(manifest, entry)
    yield "facts", _TIERS[manifest.tier]
    docs = (entry.docs if entry else "") or str(manifest.docs)
    if docs:
        yield "documents", docs
    if entry:
        yield "connects by", _AUTH[entry.auth_type]
        if entry.capabilities:
            yield "can", _text(", ".join(entry.capabilities))
        if entry.scopes:
            yield "scopes", " ".join(f"`{scope}`" for scope in entry.scopes)
    if manifest.aliases:
        yield "also called", _text(", ".join(manifest.aliases))
    yield "more", f"[README of its folder](../../shared/providers/{manifest.id}/README.md)"


def _webhooks(manifest: Manifest, entry: CatalogueEntry | None) -> str:
    if manifest.webhook:
        return f"yes, by {manifest_text.join_words(manifest.webhook.methods)}"
    if entry and entry.through:
        return "through " + manifest_text.join_words(
            [f"[{name}]({name}.md)" for name in entry.through], "and"
        )
    return "no"


def _verification(webhook: WebhookSpec) -> Iterator[str]:
    yield "## Verification"
    secret = webhook.secret
    said = [_SECRETS[secret.source]]
    if secret.source in ("ours", "theirs"):
        said.append(f"The platform calls it {_text(secret.name)}.")
    if secret.source == "theirs" and secret.public:
        said.append("It is a public key: whoever knows it cannot sign.")
    yield " ".join([*said, _text(secret.about)]).strip()
    if webhook.configurable:
        yield (
            "This is so by default. An endpoint may say in its field `source` how its own sender signs: see "
            "[manifest.md](../manifest.md#source)."
        )
    if len(webhook.verification) > 1:
        yield "There are several ways of signing. The first that applies to a request decides."
    for position, way in enumerate(webhook.verification, 1):
        if len(webhook.verification) > 1:
            yield f"### {position}. {_text(way.name) or manifest_text.SCHEMES[way.scheme]}"
        yield "\n".join(f"- {sentence}" for sentence in manifest_text.scheme_text(way))


def _handshakes(webhook: WebhookSpec) -> Iterator[str]:
    yield "## Handshakes"
    if not webhook.handshakes:
        yield _text(webhook.no_handshake)
    lines = []
    for handshake in webhook.handshakes:
        said = [f"- {_sentence(handshake.about)}"]
        if handshake.when:
            said.append(f"Recognised by: {manifest_text.match_text(handshake.when)}.")
        if handshake.require:
            said.append(f"It is refused unless {manifest_text.match_text(handshake.require)}.")
        if handshake.verified:
            said.append("Its signature is checked first.")
        if handshake.keeps:
            secret = manifest_text.template_text(handshake.keeps)
            said.append(f"While the endpoint waits for its secret, {secret} is kept as it.")
        said.append(f"Answer: {manifest_text.response_text(handshake.answer)}.")
        lines.append(" ".join(said))
    if lines:
        yield "\n".join(lines)


def _contents(webhook: WebhookSpec) -> Iterator[str]:
    yield "## What is read from a request"
    rows = [("body", manifest_text.body_text(webhook.body))]
    if webhook.batch:
        paths = ", ".join(f"`{path}`" for path in webhook.batch)
        rows.append(("several events", f"each element of {paths} is an event of its own"))
    rows.append(("event", manifest_text.event_naming_text(webhook.event)))
    rows.append(
        ("delivery id", manifest_text.any_of(webhook.delivery_id) if webhook.delivery_id else "none is given")
    )
    if webhook.account:
        rows.append(("account", manifest_text.any_of(webhook.account)))
    if webhook.occurred:
        rows.append(("when it happened", manifest_text.any_of(webhook.occurred)))
    yield "\n".join(_table(("", ""), rows))


def _events(webhook: WebhookSpec) -> Iterator[str]:
    yield "## Events"
    rows = []
    for name, event in webhook.handled.items():
        brings = [
            f"`{trigger}`" + (f" when {manifest_text.match_text(rules)}" if rules else "")
            for trigger, rules in event.triggers.items()
        ]
        rows.append((f"`{name}`", _text(event.about), "; ".join(brings), "yes" if event.message else ""))
    yield "\n".join(_table(("event", "what happened", "trigger", "chat message"), rows))
    if webhook.ignored:
        yield (
            "Delivered to subscribers, with no message and no trigger: " + _event_list(webhook.ignored) + "."
        )
    yield "Every other event that is verified is delivered to subscribers too."


def _triggers(found: Sequence[Trigger]) -> Iterator[str]:
    if not found:
        return
    yield "## Triggers"
    yield "\n".join(
        _table(("trigger", "comes by"), [(f"`{each.id}`", _trigger_source(each)) for each in found])
    )


def _trigger_source(trigger: Trigger) -> str:
    if trigger.by == "webhook":
        return f"webhook: {_event_list(trigger.events)}"
    if trigger.by == "through":
        return f"webhook of [{trigger.provider}]({trigger.provider}.md): {_event_list(trigger.events)}"
    if trigger.every_s is None:
        return _text(trigger.polled)
    return f"asking, every {trigger.every_s} s: {_text(trigger.polled)}"


def _answers(webhook: WebhookSpec) -> Iterator[str]:
    yield "## Answers and limits"
    said = []
    for answer in webhook.answers:
        when = f" where {manifest_text.match_text(answer.when)}" if answer.when else ""
        said.append(f"An accepted request{when} is answered with {manifest_text.response_text(answer)}.")
    if not webhook.answers:
        said.append("An accepted request is answered with 202 and the ids of its events as JSON.")
    if webhook.refused:
        refused = webhook.refused
        said.append(f"A request that is not verified is answered with {refused.status}: {_text(refused.why)}")
    said += [_text(line) for line in _limits(webhook.limits)]
    yield "\n".join(f"- {line}" for line in said)


def _limits(limits: ProviderLimits) -> Iterator[str]:
    if limits.within_s:
        yield f"The platform waits {limits.within_s:g} s for an answer."
    if limits.retries:
        yield f"Retries: {limits.retries}"
    if limits.disables:
        yield f"Switching off: {limits.disables}"
    yield from limits.notes


def _accounts(manifest: Manifest, known: Mapping[str, Provider]) -> Iterator[str]:
    connect = manifest.connect
    if connect is None:
        return
    yield "## Connecting accounts"
    through = known.get(connect.through) if connect.through else None
    connector = Connector(manifest.id, connect, through.manifest.connect if through else None)
    if connector.oauth2 or connector.oauth1:
        yield "\n".join(_table(("", ""), _flow(connector, through)))
    if connect.app_steps:
        yield "An operator registers an app once:"
        yield _numbered(app_setup_steps(connect, HUB + CALLBACK_PATH))
    if connect.entered:
        either = "These can be entered too" if connector.oauth2 or connector.oauth1 else "These are entered"
        yield f"{either}, and are tried out before they are kept:"
        rows = [
            (
                f"`{kind.id}`",
                _text(f"{kind.name}. {kind.about}".strip()),
                ", ".join(f"`{name}`" for name in kind.fields),
                ", ".join(f"`{name}`" for name in kind.presets),
            )
            for kind in connect.entered
        ]
        yield "\n".join(_table(("kind", "what it is", "fields", "presets"), rows))


def _flow(connector: Connector, through: Provider | None) -> Iterator[tuple[str, str]]:
    flow = connector.oauth2
    if through:
        yield "with the app of", f"[{_text(through.manifest.name)}]({through.id}.md)"
    if flow is None:
        yield "way", "OAuth 1.0a, signed with HMAC-SHA1"
    else:
        yield "way", "OAuth 2.0" + (", with PKCE (S256)" if flow.pkce == "S256" else "")
    scopes = " ".join(f"`{scope}`" for scope in connector.scopes)
    yield "scopes that are asked for", scopes or "none: the platform has no scopes, or the app has them"
    for name, settings in (
        ("asked of the person", connector.params),
        ("settings of the app", connector.settings),
    ):
        if settings:
            yield name, ", ".join(f"`{each}` ({_text(setting.name)})" for each, setting in settings.items())
    if connector.choices:
        yield "a person chooses", _text(connector.choices.about)
    if flow:
        if flow.lifetime_s:
            yield (
                "an access token lives",
                f"{manifest_text.duration_text(flow.lifetime_s)}, unless its answer says otherwise",
            )
        yield "a token is made anew", manifest_text.refresh_text(flow.refresh)
    revoke = flow.revoke if flow else connector.oauth1.revoke if connector.oauth1 else None
    yield (
        "disconnecting",
        "ends it at the platform too" if revoke else "the platform has no address to end it at",
    )


def _subscriptions(manifest: Manifest) -> Iterator[str]:
    if not manifest.watches:
        return
    yield "## Watches"
    yield (
        "The platform sends these webhooks only while it is asked to. The hub asks, renews that before it "
        "ends, and takes it back when the account is disconnected. `POST /api/integrations/{id}/watches` "
        "makes more of them."
    )
    rows = []
    for watch in manifest.watches:
        target = watch.endpoint or manifest.id
        whose = f"[{target}]({target}.md)" if watch.endpoint else f"`{target}`"
        where = f"its own, of {whose}" if watch.own_endpoint else f"one of {whose} that is there already"
        of = ", ".join(
            f"`{name}` ({_text(each.name)}" + (f", `{each.default}` without it)" if each.default else ")")
            for name, each in watch.resource.items()
        )
        rows.append(
            (
                *(f"`{watch.id}`", _text(watch.about), of, manifest_text.subscription_creation(watch)),
                *(manifest_text.subscription_lifetime(watch), where),
            )
        )
    head = ("watch", "what is watched", "resource", "made", "lives", "endpoint")
    yield "\n".join(_table(head, rows))


def _credentials(manifest: Manifest) -> Iterator[str]:
    found = credentials(manifest)
    if not found:
        return
    yield "## Credentials"
    rows = [
        (
            _text(each.name),
            each.type,
            manifest_text.code(each.pattern) if each.pattern else "",
            "yes" if each.required else "no",
            _text(each.about),
        )
        for each in found
    ]
    yield "\n".join(_table(("name", "type", "pattern", "required", "what it is"), rows))


def _setup(manifest: Manifest) -> Iterator[str]:
    entry = manifest.integration
    if not (manifest.webhook or (entry and entry.setup_steps)):
        return
    found = setup_steps(manifest, placeholder_url(HUB, manifest))
    yield "## Setup"
    if manifest.webhook or receiving_provider(manifest) != manifest.id:
        receiver = receiving_provider(manifest)
        create = f'`POST /api/inbound-endpoints` with `{{"provider": "{receiver}", "name": "..."}}`'
        found = [f"Create an endpoint: {create}. The answer has its address.", *found]
    yield _numbered(found)


def _app_setup(manifest: Manifest, known: Mapping[str, Provider]) -> Iterator[str]:
    """The address of a whole app, where the platform has one."""
    webhook, connect = manifest.webhook, manifest.connect
    if webhook is None or webhook.app is None or connect is None:
        return
    app = connect.through or manifest.id
    base = known[app].manifest.connect
    url = f"{HUB}/api/webhooks/{manifest.id}"
    secrets = manifest_text.join_words([f"`{name}`" for name in webhook.app.secrets])
    account = manifest_text.any_of(webhook.app.account or webhook.account)
    yield "## Setup for a whole app"
    yield (
        f"The webhooks of all accounts may come to one address, `{url}`. They are verified with the "
        f"{secrets} of the app (`PUT /api/platform-credentials/{app}`). Each event goes to the workspaces "
        f"that have connected its account with this app. The account is {account}."
    )
    if webhook.app.choice:
        yield (
            "Where a place of the account was chosen, the event goes by its place: "
            f"{manifest_text.any_of(webhook.app.choice)}."
        )
    names = {name: each.name for name, each in (base.settings if base else {}).items()}
    filled = [step.replace("{url}", url) for step in webhook.app.setup_steps]
    for name, shown in names.items():
        filled = [step.replace(f"{{setting:{name}}}", f"({shown})") for step in filled]
    yield _numbered(filled)


def _numbered(lines: Iterable[str]) -> str:
    return "\n".join(f"{position}. {_text(line)}" for position, line in enumerate(lines, 1))


def _first_paragraph(readme: str) -> str:
    """What the platform is to us, as its README begins."""
    body = readme.partition("\n")[2] if readme.startswith("# ") else readme
    first, _, rest = body.strip().partition("\n\n")
    return first if not first.endswith(":") else f"{first}\n\n{rest.strip().partition(_GAP)[0]}"


def _event_list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _sentence(text: str) -> str:
    text = _text(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _text(text: str) -> str:
    """Plain text of a manifest in Markdown, on one line: what is between backticks stays code."""
    pieces = _CODE.split(" ".join(text.split()))
    return "".join(
        piece if position % 2 else _SPECIAL.sub(r"\\\1", piece) for position, piece in enumerate(pieces)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; a bar inside a cell is escaped, also in code, as GitHub's Markdown has it."""
    lines = [_row(head), "|" + "---|" * len(head)]
    return lines + [_row([" ".join(cell.split()).replace("|", "\\|") for cell in row]) for row in rows]


def _row(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
