"""The sections of a provider's generated page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from interlink.provider import manifest_text
from interlink.provider.markdown import code_list, escape_text, numbered, sentence, table
from shared.manifests.catalogue import (
    CALLBACK_PATH,
    Trigger,
    app_setup_steps,
    credentials,
    placeholder_url,
    receiving_provider,
    setup_steps,
)
from shared.manifests.connector import Connector
from shared.manifests.models import CatalogueEntry, Manifest, ProviderLimits, WebhookSpec
from shared.manifests.registry import Provider

HUB: Final = "https://hub.example.com"
"""The hub's URL in examples."""
_TIERS: Final = {
    "verified": "verified: a signature that the provider published is reproduced",
    "documented": "documented: from the provider's documents, SDK or source",
    "from-memory": "from memory: likely, not certain",
}
_AUTH: Final = {"oauth": "OAuth", "apiKey": "an API key", "none": "nothing: it is part of the hub"}
_SECRETS: Final = {
    "ours": "The hub generates the secret, and you enter it at the provider.",
    "theirs": "The provider shows the secret, and you enter it in the hub, also after creating the endpoint.",
    "handshake": "The provider sends the secret when it checks the endpoint's URL.",
    "none": "There is no secret to enter: keys are public, or in the settings.",
}


def fact_rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table at the top of the page."""
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
            yield "can", escape_text(", ".join(entry.capabilities))
        if entry.scopes:
            yield "scopes", " ".join(f"`{scope}`" for scope in entry.scopes)
    if manifest.aliases:
        yield "also called", escape_text(", ".join(manifest.aliases))
    yield "more", f"[README of its folder](../../shared/providers/{manifest.id}/README.md)"


def _webhooks(manifest: Manifest, entry: CatalogueEntry | None) -> str:
    if manifest.webhook:
        return f"yes, by {manifest_text.join_words(manifest.webhook.methods)}"
    if entry and entry.through:
        return "through " + manifest_text.join_words(
            [f"[{name}]({name}.md)" for name in entry.through], "and"
        )
    return "no"


def verification_section(webhook: WebhookSpec) -> Iterator[str]:
    """Yield how requests are verified, and where the secret comes from."""
    yield "## Verification"
    secret = webhook.secret
    sentences = [_SECRETS[secret.source]]
    if secret.source in ("ours", "theirs"):
        sentences.append(f"The provider calls it {escape_text(secret.name)}.")
    if secret.source == "theirs" and secret.public:
        sentences.append("It is a public key: knowing it does not allow signing.")
    yield " ".join([*sentences, escape_text(secret.about)]).strip()
    if webhook.configurable:
        yield (
            "This is the default. An endpoint may describe its own sender in its field `source`: see "
            "[manifest.md](../manifest.md#source)."
        )
    if len(webhook.verification) > 1:
        yield "There are several signature schemes. The first that applies to a request decides."
    for position, scheme in enumerate(webhook.verification, 1):
        if len(webhook.verification) > 1:
            yield f"### {position}. {escape_text(scheme.name) or manifest_text.SCHEMES[scheme.scheme]}"
        yield "\n".join(f"- {sentence}" for sentence in manifest_text.scheme_text(scheme))


def handshakes_section(webhook: WebhookSpec) -> Iterator[str]:
    """Yield the handshakes and their responses."""
    yield "## Handshakes"
    if not webhook.handshakes:
        yield escape_text(webhook.no_handshake)
    lines = []
    for handshake in webhook.handshakes:
        sentences = [f"- {sentence(handshake.about)}"]
        if handshake.when:
            sentences.append(f"Recognised by: {manifest_text.match_text(handshake.when)}.")
        if handshake.require:
            sentences.append(f"It is rejected unless {manifest_text.match_text(handshake.require)}.")
        if handshake.verified:
            sentences.append("Its signature is checked first.")
        if handshake.keeps:
            secret = manifest_text.template_text(handshake.keeps)
            sentences.append(f"While the endpoint waits for its secret, {secret} is stored as the secret.")
        sentences.append(f"Response: {manifest_text.response_text(handshake.answer)}.")
        lines.append(" ".join(sentences))
    if lines:
        yield "\n".join(lines)


def request_content_section(webhook: WebhookSpec) -> Iterator[str]:
    """Yield what is read from a request."""
    yield "## Contents of a request"
    rows = [("body", manifest_text.body_text(webhook.body))]
    if webhook.batch:
        paths = ", ".join(f"`{path}`" for path in webhook.batch)
        rows.append(("several events", f"each element of {paths} is a separate event"))
    rows.append(("event", manifest_text.event_naming_text(webhook.event)))
    rows.append(("delivery id", manifest_text.any_of(webhook.delivery_id) if webhook.delivery_id else "none"))
    if webhook.account:
        rows.append(("account", manifest_text.any_of(webhook.account)))
    if webhook.occurred:
        rows.append(("when it happened", manifest_text.any_of(webhook.occurred)))
    yield "\n".join(table(("", ""), rows))


def events_section(webhook: WebhookSpec) -> Iterator[str]:
    """Yield the handled events with their triggers and messages, and the ignored ones."""
    yield "## Events"
    rows = []
    for name, event in webhook.handled.items():
        fired = [
            f"`{trigger}`" + (f" when {manifest_text.match_text(rules)}" if rules else "")
            for trigger, rules in event.triggers.items()
        ]
        rows.append((f"`{name}`", escape_text(event.about), "; ".join(fired), "yes" if event.message else ""))
    yield "\n".join(table(("event", "what happened", "trigger", "chat message"), rows))
    if webhook.ignored:
        yield (
            "Delivered to subscribers, with no message and no trigger: " + code_list(webhook.ignored) + "."
        )
    yield "Every other event that is verified is delivered to subscribers too."


def triggers_section(fired_triggers: Sequence[Trigger]) -> Iterator[str]:
    """Yield the triggers and their sources; nothing without triggers."""
    if not fired_triggers:
        return
    yield "## Triggers"
    yield "\n".join(
        table(
            ("trigger", "source"),
            [(f"`{trigger.id}`", _trigger_source(trigger)) for trigger in fired_triggers],
        )
    )


def _trigger_source(trigger: Trigger) -> str:
    if trigger.by == "webhook":
        return f"webhook: {code_list(trigger.events)}"
    if trigger.by == "through":
        return f"webhook of [{trigger.provider}]({trigger.provider}.md): {code_list(trigger.events)}"
    if trigger.every_s is None:
        return escape_text(trigger.polled)
    return f"polling, every {trigger.every_s} s: {escape_text(trigger.polled)}"


def responses_section(webhook: WebhookSpec) -> Iterator[str]:
    """Yield the responses to requests, and the provider's limits."""
    yield "## Responses and limits"
    lines = []
    for response in webhook.answers:
        when = f" where {manifest_text.match_text(response.when)}" if response.when else ""
        lines.append(f"An accepted request{when} is answered with {manifest_text.response_text(response)}.")
    if not webhook.answers:
        lines.append("An accepted request is answered with 202 and the ids of its events as JSON.")
    if webhook.refused:
        rejection = webhook.refused
        lines.append(
            f"An unverified request is answered with {rejection.status}: {escape_text(rejection.why)}"
        )
    lines += [escape_text(line) for line in _limits(webhook.limits)]
    yield "\n".join(f"- {line}" for line in lines)


def _limits(limits: ProviderLimits) -> Iterator[str]:
    if limits.within_s:
        yield f"The provider waits {limits.within_s:g} s for a response."
    if limits.retries:
        yield f"Retries: {limits.retries}"
    if limits.disables:
        yield f"Disabling: {limits.disables}"
    yield from limits.notes


def accounts_section(manifest: Manifest, known: Mapping[str, Provider]) -> Iterator[str]:
    """Yield how accounts are connected; nothing without `connect`."""
    connect = manifest.connect
    if connect is None:
        return
    yield "## Connecting accounts"
    through = known.get(connect.through) if connect.through else None
    connector = Connector(manifest.id, connect, through.manifest.connect if through else None)
    if connector.oauth2 or connector.oauth1:
        yield "\n".join(table(("", ""), _flow(connector, through)))
    if connect.app_steps:
        yield "An operator registers an app once:"
        yield numbered(app_setup_steps(connect, HUB + CALLBACK_PATH))
    if connect.entered:
        intro = "These can also be entered" if connector.oauth2 or connector.oauth1 else "These are entered"
        yield f"{intro}, and are tested before they are stored:"
        rows = [
            (
                f"`{kind.id}`",
                escape_text(f"{kind.name}. {kind.about}".strip()),
                ", ".join(f"`{name}`" for name in kind.fields),
                ", ".join(f"`{name}`" for name in kind.presets),
            )
            for kind in connect.entered
        ]
        yield "\n".join(table(("kind", "what it is", "fields", "presets"), rows))


def _flow(connector: Connector, through: Provider | None) -> Iterator[tuple[str, str]]:
    flow = connector.oauth2
    if through:
        yield "with the app of", f"[{escape_text(through.manifest.name)}]({through.id}.md)"
    if flow is None:
        yield "flow", "OAuth 1.0a, signed with HMAC-SHA1"
    else:
        yield "flow", "OAuth 2.0" + (", with PKCE (S256)" if flow.pkce == "S256" else "")
    scopes = " ".join(f"`{scope}`" for scope in connector.scopes)
    yield "requested scopes", scopes or "none: the provider has no scopes, or the app defines them"
    for name, settings in (
        ("inputs of the user", connector.params),
        ("settings of the app", connector.settings),
    ):
        if settings:
            yield (
                name,
                ", ".join(
                    f"`{setting_name}` ({escape_text(setting.name)})"
                    for setting_name, setting in settings.items()
                ),
            )
    if connector.choices:
        yield "the user selects", escape_text(connector.choices.about)
    if flow:
        if flow.lifetime_s:
            yield (
                "lifetime of an access token",
                f"{manifest_text.duration_text(flow.lifetime_s)}, unless the response says otherwise",
            )
        yield "token refresh", manifest_text.refresh_text(flow.refresh)
    revoke = flow.revoke if flow else connector.oauth1.revoke if connector.oauth1 else None
    yield (
        "disconnecting",
        "revokes the grant at the provider"
        if revoke
        else "does not revoke the grant: the provider has no URL for it",
    )


def subscriptions_section(manifest: Manifest) -> Iterator[str]:
    """Yield the provider subscriptions; nothing without any."""
    if not manifest.watches:
        return
    yield "## Provider subscriptions"
    yield (
        "The provider sends these webhooks only while a subscription is active. The hub creates it, renews "
        "it before it expires, and cancels it when the account is disconnected. "
        "`POST /api/integrations/{id}/watches` creates more of them."
    )
    rows = []
    for subscription in manifest.watches:
        target = subscription.endpoint or manifest.id
        link = f"[{target}]({target}.md)" if subscription.endpoint else f"`{target}`"
        endpoint = f"its own, of {link}" if subscription.own_endpoint else f"an existing one of {link}"
        resource = ", ".join(
            f"`{name}` ({escape_text(setting.name)}"
            + (f", `{setting.default}` without it)" if setting.default else ")")
            for name, setting in subscription.resource.items()
        )
        rows.append(
            (
                *(
                    f"`{subscription.id}`",
                    escape_text(subscription.about),
                    resource,
                    manifest_text.subscription_creation(subscription),
                ),
                *(manifest_text.subscription_lifetime(subscription), endpoint),
            )
        )
    head = ("id", "what it subscribes to", "resource", "created", "lifetime", "endpoint")
    yield "\n".join(table(head, rows))


def credentials_section(manifest: Manifest) -> Iterator[str]:
    """Yield the values to enter; nothing without any."""
    entries = credentials(manifest)
    if not entries:
        return
    yield "## Credentials"
    rows = [
        (
            escape_text(entry.name),
            entry.type,
            manifest_text.code(entry.pattern) if entry.pattern else "",
            "yes" if entry.required else "no",
            escape_text(entry.about),
        )
        for entry in entries
    ]
    yield "\n".join(table(("name", "type", "pattern", "required", "what it is"), rows))


def setup_section(manifest: Manifest) -> Iterator[str]:
    """Yield the steps to set up an endpoint."""
    entry = manifest.integration
    if not (manifest.webhook or (entry and entry.setup_steps)):
        return
    steps = setup_steps(manifest, placeholder_url(HUB, manifest))
    yield "## Setup"
    if manifest.webhook or receiving_provider(manifest) != manifest.id:
        receiver = receiving_provider(manifest)
        create = f'`POST /api/inbound-endpoints` with `{{"provider": "{receiver}", "name": "..."}}`'
        steps = [f"Create an endpoint: {create}. The response has its URL.", *steps]
    yield numbered(steps)


def app_setup_section(manifest: Manifest, known: Mapping[str, Provider]) -> Iterator[str]:
    """Yield the steps to set up the app webhook; nothing without one."""
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
        f"The webhooks of all accounts can use one URL, `{url}`. They are verified with the "
        f"{secrets} of the app (`PUT /api/platform-credentials/{app}`). Each event goes to the workspaces "
        f"that have connected its account with this app. The account is {account}."
    )
    if webhook.app.choice:
        yield (
            "If a resource of the account was selected, the event goes by its resource: "
            f"{manifest_text.any_of(webhook.app.choice)}."
        )
    names = {name: setting.name for name, setting in (base.settings if base else {}).items()}
    steps = [step.replace("{url}", url) for step in webhook.app.setup_steps]
    for name, title in names.items():
        steps = [step.replace(f"{{setting:{name}}}", f"({title})") for step in steps]
    yield numbered(steps)
