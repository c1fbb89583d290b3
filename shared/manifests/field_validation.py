"""Validation of values that a user entered for a manifest's settings."""

import re
import secrets
from collections.abc import Mapping

from shared.contracts.errors import FieldError, Invalid
from shared.manifests.connect_models import Setting


def validate_fields(
    settings: Mapping[str, Setting], values: Mapping[str, str], *, place: str, complete: bool = True
) -> dict[str, str]:
    """Return the valid values; with `complete`, add generated values and defaults.

    `place` is the field of the body that contains them. Without `complete`, missing values are allowed.
    Raises `Invalid` with every error.
    """
    errors: list[FieldError] = []
    accepted: dict[str, str] = {}
    # Collect every error, so that a form can show them all.
    for name in values.keys() - settings.keys():
        known = ", ".join(sorted(settings)) or "none"
        errors.append(FieldError(f"{place}.{name}", f"unknown field: allowed are {known}"))
    for name, setting in settings.items():
        value = values.get(name)
        if value is None and complete:
            value = secrets.token_urlsafe(24) if setting.generated else setting.default
        if not value:
            if complete and setting.required:
                errors.append(FieldError(f"{place}.{name}", f"required: {setting.name}. {setting.about}"))
            continue
        if setting.pattern and not re.fullmatch(setting.pattern, value):
            errors.append(
                FieldError(
                    f"{place}.{name}", f"{setting.name} does not have the expected format: {setting.about}"
                )
            )
        accepted[name] = value
    if errors:
        raise Invalid("some fields are not acceptable", errors=tuple(errors))
    return accepted
