"""The generated pages of providers: `docs/providers/<id>.md` and their index."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from interlink.provider import manifest_text
from interlink.provider.markdown import bullets, code_list, escape_text, first_paragraph, table
from interlink.provider.page_sections import (
    accounts_section,
    app_setup_section,
    credentials_section,
    events_section,
    fact_rows,
    handshakes_section,
    request_content_section,
    responses_section,
    setup_section,
    subscriptions_section,
    triggers_section,
    verification_section,
)
from shared.contracts.errors import Misconfigured
from shared.manifests.catalogue import triggers
from shared.manifests.models import Manifest
from shared.manifests.registry import Provider

INDEX: Final = "README.md"

_GENERATED: Final = "<!-- Made by `interlink provider docs` from shared/providers"
_ABOUT: Final = """\
Each is a folder below `shared/providers`; [CONTRIBUTING.md](../../CONTRIBUTING.md) explains how to add one,
[manifest.md](../manifest.md) what its manifest can contain.

The tier says how certain the signature scheme is. Verified: a signature that the provider published is
reproduced. Documented: from the provider's documents, SDK or source. From memory: likely, not certain.

The icons are from simple-icons 16.37.0 (CC0-1.0); the marks are their owners'. A provider without an icon is
shown with its initials."""


def pages(known: Mapping[str, Provider], readmes: Mapping[str, str]) -> dict[str, str]:
    """Return every page by its file name. `readmes` are the folders' READMEs, for their first paragraphs."""
    by_name = {f"{name}.md": _page(provider, known, readmes[name]) for name, provider in known.items()}
    return {**by_name, INDEX: _index(known)}


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


def _index(known: Mapping[str, Provider]) -> str:
    rows = []
    for provider in sorted(known.values(), key=lambda provider: provider.manifest.name.casefold()):
        manifest = provider.manifest
        webhook, entry = manifest.webhook, manifest.integration
        through = entry.through if entry and not webhook else ()
        webhooks = "yes" if webhook else "through " + ", ".join(through) if through else "no"
        schemes = (
            dict.fromkeys(manifest_text.SCHEMES[scheme.scheme] for scheme in webhook.verification)
            if webhook
            else ()
        )
        trigger_names = [
            f"`{provider.id}`" + (" (polling)" if provider.by == "polling" else "")
            for provider in triggers(provider, known)
        ]
        name = f"[{escape_text(manifest.name)}]({manifest.id}.md)"
        category = (entry and entry.category) or manifest.category
        accounts = _account_methods(manifest)
        rows.append(
            (
                *(name, f"`{manifest.id}`", category, webhooks, ", ".join(schemes)),
                *(accounts, manifest.tier, " ".join(trigger_names)),
            )
        )
    with_own = sum(1 for provider in known.values() if provider.manifest.webhook)
    listed = sum(1 for provider in known.values() if provider.manifest.integration)
    with_connect = sum(1 for provider in known.values() if provider.manifest.connect)
    counts = (
        f"{len(known)} providers: {with_own} send webhooks of their own, {with_connect} connect accounts, "
        f"{listed} are in the catalogue."
    )
    return "\n".join(
        [
            f"{_GENERATED} -->",
            "# Providers",
            "",
            counts,
            _ABOUT,
            "",
            *table(("name", "id", "category", "webhooks", "signed by", "accounts", "tier", "triggers"), rows),
            "",
        ]
    )


def _account_methods(manifest: Manifest) -> str:
    connect = manifest.connect
    if connect is None:
        return ""
    flows = {"OAuth 2.0": connect.oauth2, "OAuth 1.0a": connect.oauth1}
    methods = [name for name, flow in flows.items() if flow]
    if connect.through:
        methods.append(f"through {connect.through}")
    return ", ".join([*methods, *(f"`{kind.id}`" for kind in connect.entered)])


def _page(provider: Provider, known: Mapping[str, Provider], readme: str) -> str:
    manifest = provider.manifest
    webhook = manifest.webhook
    parts = [
        f"{_GENERATED}/{manifest.id} -->",
        f"# {escape_text(manifest.name)}",
        first_paragraph(readme),
        "\n".join(table(("", ""), fact_rows(manifest))),
    ]
    if webhook:
        parts += verification_section(webhook)
        parts += handshakes_section(webhook)
        parts += request_content_section(webhook)
        parts += events_section(webhook)
    parts += triggers_section(triggers(provider, known))
    if webhook:
        parts += responses_section(webhook)
    parts += accounts_section(manifest, known)
    parts += subscriptions_section(manifest)
    parts += credentials_section(manifest)
    parts += setup_section(manifest)
    parts += app_setup_section(manifest, known)
    if webhook and webhook.templates:
        rows = [
            (
                f"`{template.id}`",
                escape_text(template.name),
                code_list(template.events),
                escape_text(template.about),
            )
            for template in webhook.templates
        ]
        parts += ["## Templates", "\n".join(table(("id", "name", "events", "what it is for"), rows))]
    if manifest.from_memory:
        parts += ["## From memory", "No source was found for these; they are likely, not certain."]
        parts.append(bullets(manifest.from_memory))
    parts += ["## Sources", bullets(manifest.sources)]
    return "\n\n".join(parts) + "\n"
