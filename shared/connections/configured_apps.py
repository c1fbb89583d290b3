"""The installation's OAuth apps from environment variables and from files.

Variables are `INTERLINK_APP_<PROVIDER>_CLIENT_ID`, `_CLIENT_SECRET`, `_SIGNING_SECRET` and `_SETTING_<NAME>`.
Files have the same fields below `INTERLINK_APPS_DIR/<provider>/`: `client_id`, `setting_<name>`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.connections.provider_app import (
    INSTALLATION,
    SECRET_FIELDS,
    SETTING_PREFIX,
    App,
    AppSource,
    uses_own_app,
)
from shared.contracts.errors import Invalid, Misconfigured
from shared.contracts.ids import derive
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.registry import Registry

APPS_DIR_VARIABLE: Final = "INTERLINK_APPS_DIR"
_VARIABLE_PREFIX: Final = "INTERLINK_APP_"
_FIELD_PATTERNS: Final = {
    "client_id": re.compile(r"[\x21-\x7e]{1,1000}"),
    **dict.fromkeys(SECRET_FIELDS, re.compile(r"[\x20-\x7e]{1,8000}")),
}
_FIELD_FORMS: Final = {
    "client_id": "up to 1,000 characters of printable ASCII in one line, without blanks",
    **dict.fromkeys(SECRET_FIELDS, "up to 8,000 characters of printable ASCII in one line"),
}
_FIELD_NAMES: Final = "client_id, client_secret, signing_secret, setting_<name>"
_MAX_FILE_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class _FieldValue:
    """The value of a field, and the variable or file that it comes from."""

    value: str = field(repr=False)
    origin: str


def configured_apps(registry: Registry, environment: Mapping[str, str] = os.environ) -> dict[str, App]:
    """Return the installation's apps from environment and files, by provider id.

    Only the manifests of their providers are loaded.

    Raises `Misconfigured`, with the variable or file, if the provider or field does not exist, if a field is
    missing, empty or malformed, or if an app is configured in both places.
    """
    from_environment = _read_environment(environment, registry)
    from_files = _read_files(environment.get(APPS_DIR_VARIABLE, ""), registry)
    for provider_id in from_environment.keys() & from_files.keys():
        raise Misconfigured(
            f"the app of {provider_id} is in the environment and in {APPS_DIR_VARIABLE}: "
            "leave one of them out"
        )
    connectors = registry.connectors
    return {
        **{
            provider_id: _build_app(connectors[provider_id], fields, "environment")
            for provider_id, fields in from_environment.items()
        },
        **{
            provider_id: _build_app(connectors[provider_id], fields, "file")
            for provider_id, fields in from_files.items()
        },
    }


def _read_environment(
    environment: Mapping[str, str], registry: Registry
) -> dict[str, dict[str, _FieldValue]]:
    """Return the fields by provider id. An empty variable counts as one that is not set."""
    fields: dict[str, dict[str, _FieldValue]] = {}
    # A variable's name cannot hold a hyphen, a provider id can.
    provider_ids = {provider_id.replace("-", "_"): provider_id for provider_id in registry.providers}
    for variable, value in environment.items():
        if not variable.startswith(_VARIABLE_PREFIX) or not value:
            continue
        name, key = _split_variable(variable.removeprefix(_VARIABLE_PREFIX).lower())
        if not key:
            raise Misconfigured(
                f"{variable}: ends in none of _CLIENT_ID, _CLIENT_SECRET, _SIGNING_SECRET, _SETTING_<NAME>"
            )
        provider_id = provider_ids.get(name, name)
        _check_provider(provider_id, variable, registry)
        fields.setdefault(provider_id, {})[key] = _FieldValue(value, variable)
    return fields


def _split_variable(name: str) -> tuple[str, str]:
    """Return provider and field of a variable's name; the field is empty if the name has none."""
    provider, separator, setting = name.partition(f"_{SETTING_PREFIX}")
    if separator:
        return provider, SETTING_PREFIX + setting if setting else ""
    for key in _FIELD_PATTERNS:
        if name.endswith(f"_{key}"):
            return name.removesuffix(f"_{key}"), key
    return name, ""


def _read_files(folder: str, registry: Registry) -> dict[str, dict[str, _FieldValue]]:
    """Return the fields by provider id."""
    if not folder:
        return {}
    fields: dict[str, dict[str, _FieldValue]] = {}
    for path in _list_folder(Path(folder)):
        if not path.is_dir():
            raise Misconfigured(
                f"{path}: {APPS_DIR_VARIABLE} needs a folder for each provider, with a file for each field"
            )
        _check_provider(path.name, str(path), registry)
        values = {file.name: _FieldValue(_read_field(file), str(file)) for file in _list_folder(path)}
        if values:
            fields[path.name] = values
    return fields


def _list_folder(folder: Path) -> list[Path]:
    """Return the entries without hidden ones: Kubernetes mounts a secret as links into a folder `..data`."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise Misconfigured(f"{APPS_DIR_VARIABLE}: {folder} cannot be read: {error.strerror}") from None


def _read_field(file: Path) -> str:
    """Return the text without white space around it: editors and `echo` end a file with a line break."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise Misconfigured(f"{file}: has more than {_MAX_FILE_BYTES} bytes")
        text = raw.decode().strip()
    except OSError as error:
        raise Misconfigured(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise Misconfigured(f"{file}: is not text") from None
    if not text:
        raise Misconfigured(f"{file}: is empty")
    return text


def _check_provider(provider_id: str, origin: str, registry: Registry) -> None:
    """Raise `Misconfigured` if accounts of the provider are not connected with an app of its own."""
    connector = registry.connectors.get(provider_id)
    if connector is None:
        raise Misconfigured(
            f"{origin}: there is no app of {provider_id!r}: "
            "no provider with this id connects accounts by OAuth"
        )
    if connector.app != provider_id:
        raise Misconfigured(
            f"{origin}: accounts of {provider_id} are connected with the app of {connector.app}: set that one"
        )
    if not uses_own_app(connector):
        raise Misconfigured(f"{origin}: accounts of {provider_id} are connected without an app")


def _build_app(connector: Connector, fields: Mapping[str, _FieldValue], source: AppSource) -> App:
    """Return the app. Raises `Misconfigured` if a field is unknown, malformed or missing."""
    provider_id = connector.provider
    place = "in the environment" if source == "environment" else f"in {APPS_DIR_VARIABLE}"
    settings: dict[str, str] = {}
    for key, entry in fields.items():
        if key.startswith(SETTING_PREFIX):
            settings[key.removeprefix(SETTING_PREFIX)] = entry.value
        elif key not in _FIELD_PATTERNS:
            raise Misconfigured(f"{entry.origin}: no such field: there are {_FIELD_NAMES}")
        elif not _FIELD_PATTERNS[key].fullmatch(entry.value):
            raise Misconfigured(f"{entry.origin}: {key} has to be {_FIELD_FORMS[key]}")
    required = ["client_id", *(["client_secret"] if connector.needs_secret else [])]
    for key in required:
        if key not in fields:
            raise Misconfigured(f"the app of {provider_id} {place} has no {key.replace('_', ' ')}")
    try:
        settings = validate_fields(connector.settings, settings, place="setting")
    except Invalid as error:
        errors = "; ".join(f"{item.field}: {item.message}" for item in error.errors)
        raise Misconfigured(f"the app of {provider_id} {place}: {errors}") from None
    return App(
        provider=provider_id,
        workspace=INSTALLATION,
        client_id=fields["client_id"].value,
        secrets={key: fields[key].value for key in SECRET_FIELDS if key in fields},
        settings=settings,
        verified=True,
        source=source,
        # The same in every process; too short to guess the secrets with.
        revision=derive(*(part for key in sorted(fields) for part in (key, fields[key].value)))[:8],
    )
