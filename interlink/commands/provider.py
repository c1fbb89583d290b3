"""`interlink provider`: the commands for provider folders."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interlink.exits import FAILURE, report_errors
from shared.contracts.errors import Misconfigured

app = typer.Typer(
    help="Provider folders: create, check, test, sign requests, write documents.", no_args_is_help=True
)


class SchemeName(StrEnum):
    """The signature schemes that the folder of a new provider can start with."""

    HMAC = "hmac"
    TOKEN = "token"  # noqa: S105 -- a word
    BASIC = "basic"
    ED25519 = "ed25519"
    JWT = "jwt"


ProviderName = Annotated[str, typer.Argument(metavar="ID", help="The provider's id.")]


@app.command("new")
def new_provider(
    id_: Annotated[
        str,
        typer.Argument(metavar="ID", help="The provider's id, its folder's name: a to z, 0 to 9, _ and -."),
    ],
    name: Annotated[str, typer.Option(help="The provider's name as people write it.")] = "",
    scheme: Annotated[SchemeName, typer.Option(help="How the provider signs.")] = SchemeName.HMAC,
) -> None:
    """Create the folder of a new provider. It passes the check, and comments say what to replace."""
    from interlink.provider import new, provider_folder  # noqa: PLC0415

    with report_errors():
        folder = new.create(provider_folder.PROVIDERS_ROOT, id_, name, scheme.value)
    steps = "docs/how-to/add-a-provider.md has the steps"
    typer.echo(f"{folder}: replace what manifest.yaml and README.md say; {steps}")


@app.command()
def check(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Provider ids; all by default.")
    ] = None,
) -> None:
    """Check manifests, fixtures and documents of providers; status 1 if something is wrong.

    Texts of `interlink provider new` that are left are listed on standard error. They do not change the
    status.
    """
    from interlink.provider.checker import check as check_folder  # noqa: PLC0415
    from interlink.provider.placeholders import remaining_placeholders  # noqa: PLC0415
    from interlink.provider.provider_folder import find_folders  # noqa: PLC0415

    with report_errors():
        folders = find_folders(ids or [])
        faults = [fault for folder in folders for fault in check_folder(folder)]
        placeholders = [line for folder in folders for line in remaining_placeholders(folder)]
    for placeholder in placeholders:
        typer.echo(placeholder, err=True)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(FAILURE)
    typer.echo(f"{len(folders)} provider{'' if len(folders) == 1 else 's'} checked, no faults")


@app.command("test")
def run_fixtures(
    id_: ProviderName,
    write: Annotated[
        bool, typer.Option("--write", help="Write expected.json where it is missing or differs.")
    ] = False,
) -> None:
    """Run the fixtures of a provider, one line each; status 1 if one differs from what is expected.

    A line has the signature schemes that accepted the fixture, its events with their triggers, and the first
    line of the message.
    """
    from interlink.provider.provider_folder import load_provider  # noqa: PLC0415
    from interlink.provider.run_fixtures import run  # noqa: PLC0415

    with report_errors():
        folder, provider = load_provider(id_)
        outcomes = list(run(folder, provider, write=write))
    if not outcomes:
        if provider.definition:
            typer.echo(f"{id_} has no fixtures: CONTRIBUTING.md says how to add one")
            raise typer.Exit(FAILURE)
        typer.echo(f"{id_} has no webhooks, and so no fixtures")
        return
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        for line in outcome.lines(width):
            typer.echo(line)
    wrong = sum(1 for outcome in outcomes if outcome.faults)
    counted = f"{len(outcomes)} fixture{'' if len(outcomes) == 1 else 's'}"
    typer.echo(f"{counted}, {f'{wrong} wrong' if wrong else 'all as expected'}")
    if wrong:
        raise typer.Exit(FAILURE)


@app.command("sign")
def sign_request(
    id_: ProviderName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The body, or the folder of a fixture.")],
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="INTERLINK_SECRET",
            help="The endpoint's secret, or @file; for key pairs the private key (PEM). Else a new one.",
        ),
    ] = None,
    event: Annotated[
        str, typer.Option(help="The event's name, if a header or the query string carries it.")
    ] = "",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="name: value")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="A setting of the endpoint: name=value")] = None,
    query: Annotated[str, typer.Option(help="The query string.")] = "",
    url: Annotated[str, typer.Option(help="The endpoint's address, as the provider knows it.")] = "",
    scheme: Annotated[
        str, typer.Option("--way", help="The signature scheme: its name, or its number from 0.")
    ] = "",
    method: Annotated[str, typer.Option(help="The method; the provider's first by default.")] = "",
    http: Annotated[bool, typer.Option("--http", help="Print the raw request instead of a command.")] = False,
) -> None:
    """Print a request signed as the provider signs it, as a curl command for a shell."""
    import time  # noqa: PLC0415

    from interlink.provider import sign  # noqa: PLC0415
    from interlink.provider.provider_folder import load_provider  # noqa: PLC0415

    with report_errors():
        # Typer treats an empty variable as one that is not set.
        if secret is None and os.environ.get("INTERLINK_SECRET") == "":
            secret = ""
        if secret == "":
            raise Misconfigured("--secret or INTERLINK_SECRET: it is empty: leave it out to have one made")
        options = sign.SignOptions(
            file, secret or "", event, header or (), setting or (), query, url, scheme, method
        )
        signed = sign.sign(load_provider(id_)[1], options, time.time())
    for note in signed.notes:
        typer.echo(note, err=True)
    typer.echo(sign.http(signed) if http else sign.curl(signed), nl=not http)


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of manifests, which is `shared/providers/manifest.schema.json`.

    An editor that reads it completes and checks a manifest while it is written.
    """
    from interlink.provider.schema import schema_text  # noqa: PLC0415

    typer.echo(schema_text(), nl=False)


@app.command("docs")
def write_docs(
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; status 1 if a page is out of date.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the pages; docs/providers of the project by default.")
    ] = None,
) -> None:
    """Write the pages of the providers from their manifests."""
    from interlink.provider import pages  # noqa: PLC0415
    from interlink.provider.provider_folder import load_all, pages_folder  # noqa: PLC0415

    with report_errors():
        target = folder or pages_folder()
        rendered = pages.pages(*load_all())
        if not check_only:
            typer.echo(f"{len(rendered)} pages in {target}, {pages.write(target, rendered)} of them changed")
            return
        stale = pages.stale(target, rendered)
    for line in stale:
        typer.echo(line)
    if stale:
        typer.echo("interlink: run 'interlink provider docs'", err=True)
        raise typer.Exit(FAILURE)
    typer.echo(f"{len(rendered)} pages, all up to date")
