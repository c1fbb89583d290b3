"""The generated pages of providers: `docs/providers/<id>.md` and their index.

Their texts are the templates in `templates`; `manifest_text.py` puts parts of a manifest into words.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from interlink.provider import manifest_text
from interlink.provider.markdown import cell, code_list, escape_text, first_paragraph, sentence
from shared.contracts.errors import Misconfigured
from shared.manifests.catalogue import (
    CALLBACK_PATH,
    app_setup_steps,
    credentials,
    placeholder_url,
    receiving_provider,
    setup_steps,
    triggers,
)
from shared.manifests.connector import Connector
from shared.manifests.models import Manifest
from shared.manifests.registry import Provider

INDEX: Final = "README.md"

_HUB: Final = "https://hub.example.com"
"""The hub's URL in examples."""
_GENERATED: Final = "<!-- Made by `interlink provider docs` from shared/providers"
_SEVERAL_EMPTY_LINES: Final = re.compile(r"\n{3,}")
_EMPTY_CELL: Final = re.compile(r"(?<=\|)  (?=\|)")
_TIERS: Final = {
    "verified": "verified: a signature that the provider published is reproduced",
    "documented": "documented: from the provider's documents, SDK or source",
    "from-memory": "from memory: likely, not certain",
}
_AUTHENTICATION: Final = {"oauth": "OAuth", "apiKey": "an API key", "none": "nothing: it is part of the hub"}
_SECRET_SOURCES: Final = {
    "ours": "The hub generates the secret, and you enter it at the provider.",
    "theirs": "The provider shows the secret, and you enter it in the hub, also after creating the endpoint.",
    "handshake": "The provider sends the secret when it checks the endpoint's URL.",
    "none": "There is no secret to enter: keys are public, or in the settings.",
}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("interlink.provider"),
        autoescape=False,  # noqa: S701 -- Markdown, not HTML: the filter `text` escapes it
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    for words in (
        *(manifest_text.any_of, manifest_text.body_text, manifest_text.code, manifest_text.duration_text),
        *(manifest_text.event_naming_text, manifest_text.join_words, manifest_text.match_text),
        *(manifest_text.refresh_text, manifest_text.response_text, manifest_text.scheme_text),
        *(manifest_text.subscription_creation, manifest_text.subscription_lifetime),
        *(manifest_text.template_text, cell, code_list, sentence),
    ):
        environment.filters[words.__name__] = words
    environment.filters["text"] = escape_text
    environment.filters["page_link"] = lambda name: f"[{name}]({name}.md)"
    environment.filters["account_methods"] = _account_methods
    environment.globals |= {
        "tiers": _TIERS,
        "authentication": _AUTHENTICATION,
        "schemes": manifest_text.SCHEMES,
        "secret_sources": _SECRET_SOURCES,
    }
    return environment


def _render(environment: Environment, template: str, **values: Any) -> str:
    """Render a template, with one empty line where it has several, and one blank in an empty cell."""
    text = _SEVERAL_EMPTY_LINES.sub("\n\n", environment.get_template(f"{template}.md.jinja").render(values))
    lines = (_EMPTY_CELL.sub(" ", line) if line.startswith("|") else line for line in text.split("\n"))
    return "\n".join(lines).strip() + "\n"


def pages(known: Mapping[str, Provider], readmes: Mapping[str, str]) -> dict[str, str]:
    """Return every page by its file name. `readmes` are the folders' READMEs, for their first paragraphs."""
    environment = _environment()
    rendered = {
        f"{name}.md": _render(environment, "page", **_page_values(provider, known, readmes[name]))
        for name, provider in known.items()
    }
    rendered[INDEX] = _render(
        environment,
        "index",
        providers=sorted(known.values(), key=lambda provider: provider.manifest.name.casefold()),
        triggers={name: triggers(provider, known) for name, provider in known.items()},
        sources=_trigger_sources(known),
    )
    return rendered


def _trigger_sources(known: Mapping[str, Provider]) -> list[str]:
    """Return how each trigger of the catalogue comes: `webhook`, `polling` or `none`."""
    return [
        "webhook" if trigger.by != "polling" else "polling" if trigger.polling else "none"
        for provider in known.values()
        if provider.manifest.integration
        for trigger in triggers(provider, known)
    ]


def stale(folder: Path, current: Mapping[str, str]) -> list[str]:
    """Return the pages that are missing, differ, or belong to no provider, a line each."""
    lines: list[str] = []
    for name, text in current.items():
        file = folder / name
        if not file.is_file():
            lines.append(f"{name}: missing")
        elif file.read_text("utf-8", "replace") != text:
            lines.append(f"{name}: stale")
    return lines + [f"{file.name}: of no provider" for file in _orphaned_pages(folder, current)]


def write(folder: Path, current: Mapping[str, str]) -> int:
    """Write pages that differ, remove those of no provider, and return how many. Raises `Misconfigured`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        changed = [line.partition(":")[0] for line in stale(folder, current)]
        for name in changed:
            file = folder / name
            if name in current:
                file.write_text(current[name], "utf-8")
            else:
                file.unlink()
    except OSError as error:
        raise Misconfigured(f"{folder}: {error.strerror}") from None
    return len(changed)


def _orphaned_pages(folder: Path, current: Mapping[str, str]) -> list[Path]:
    """Return generated pages of providers that no longer exist; other files are kept."""
    orphans = sorted(file for file in folder.glob("*.md") if file.name not in current)
    return [file for file in orphans if file.read_text("utf-8", "replace").startswith(_GENERATED)]


def _account_methods(provider: Provider) -> list[str]:
    """Return the ways to connect an account, a few words each."""
    connect = provider.manifest.connect
    if connect is None:
        return []
    flows = {"OAuth 2.0": connect.oauth2, "OAuth 1.0a": connect.oauth1}
    methods = [name for name, flow in flows.items() if flow]
    if connect.through:
        methods.append(f"through {connect.through}")
    return [*methods, *(f"`{kind.id}`" for kind in connect.entered)]


def _page_values(provider: Provider, known: Mapping[str, Provider], readme: str) -> dict[str, Any]:
    """Return the values of a provider's page."""
    manifest = provider.manifest
    connect = manifest.connect
    through = known.get(connect.through) if connect and connect.through else None
    base = through.manifest.connect if through else None
    connector = Connector(manifest.id, connect, base) if connect else None
    return {
        "manifest": manifest,
        "introduction": first_paragraph(readme),
        "triggers": triggers(provider, known),
        "through": through,
        "connector": connector,
        "api_bases": _api_bases(connector) if connector else (),
        "app_steps": app_setup_steps(connect, _HUB + CALLBACK_PATH) if connect else (),
        "credentials": credentials(manifest),
        "setup_steps": _setup_steps(manifest),
        "app_setup": _app_setup(manifest, known),
    }


def _api_bases(connector: Connector) -> list[str]:
    """Return the base URLs of the API, for each way to connect an account that has one."""
    kinds = connector.manual_credentials
    flows = [connector.api.base] if connector.oauth2 or connector.oauth1 else []
    bases = [*flows, *(connector.api_for(kind).base for kind in kinds)]
    return [base for base in dict.fromkeys(bases) if base]


def _setup_steps(manifest: Manifest) -> list[str]:
    """Return the steps to set up an endpoint."""
    steps = list(setup_steps(manifest, placeholder_url(_HUB, manifest)))
    receiver = receiving_provider(manifest)
    if not manifest.webhook and receiver == manifest.id:
        return steps
    create = f'`POST /api/inbound-endpoints` with `{{"provider": "{receiver}", "name": "..."}}`'
    return [f"Create an endpoint: {create}. The response has its URL.", *steps]


def _app_setup(manifest: Manifest, known: Mapping[str, Provider]) -> dict[str, Any] | None:
    """Return the URL of the app webhook and the steps to set it up; None without one."""
    webhook, connect = manifest.webhook, manifest.connect
    if webhook is None or webhook.app is None or connect is None:
        return None
    base = known[connect.through or manifest.id].manifest.connect
    url = f"{_HUB}/api/webhooks/{manifest.id}"
    steps = [step.replace("{url}", url) for step in webhook.app.setup_steps]
    for name, setting in (base.settings if base else {}).items():
        steps = [step.replace(f"{{setting:{name}}}", f"({setting.name})") for step in steps]
    return {"url": url, "steps": steps}
