"""Explain the services' codes of failed authorizations and accounts, each with the next step."""

from collections.abc import Mapping
from typing import Final

_NEXT_STEPS: Final[Mapping[str, str]] = {
    "access_denied": "Access was denied at the provider. Connect it again, and allow what is asked for.",
    "account_in_use": "Another user has connected this account. They have to disconnect it first.",
    "app_changed": "The provider's app was changed meanwhile. Connect it again.",
    "app_gone": "The provider's app is not there any more. An admin has to register it again.",
    "app_refused": "The provider refuses the app's client id or secret. An admin has to correct them.",
    "code_refused": "The provider does not accept its own code any more, perhaps for its age. Start again.",
    "connected_already": "This account is connected already: it is in the list of accounts.",
    "disabled": "The account is disabled: enable it first, then connect it again.",
    "gone": "The account was deleted or disconnected meanwhile. Connect it from the catalogue.",
    "no_account": "The provider did not say which account it is. Connect it again.",
    "no_code": "The provider sent the browser back without a code. Connect it again.",
    "other_account": "Another account than before is signed in at the provider. Sign out there, then connect "
    "it again; or accept another account in the options of connecting it again.",
    "overtaken": "The account was changed at the same time. Connect it again.",
    "platform_error": "The provider refused. Compare the app's settings and its redirect address at the "
    "provider with those in the catalogue, then connect it again.",
    "platform_unavailable": "The provider does not answer. Try it again in a moment.",
    "unavailable": "The hub was not available. Try it again in a moment.",
}
_OTHER: Final = "The provider sent this error. Connect it again; the provider's documents explain its errors."
_REASONS: Final[Mapping[str, str]] = {
    "check_failed": "the last check failed",
    "choice_required": "one of its resources has to be chosen",
    "confirmation_required": "the chat has not confirmed it yet",
    "credentials_refused": "the provider refuses its credentials",
    "expired": "its access has expired",
    "invalid_client": "the provider refuses the app's client id or secret",
    "invalid_grant": "access was withdrawn at the provider, or has expired",
    "refresh_interrupted": "a refresh was interrupted, so the newest token is not known",
}


def next_step(code: str) -> str:
    """Return what to do after a failed authorization."""
    return _NEXT_STEPS.get(code, _OTHER)


def reason_in_words(code: str) -> str:
    """Return why an account does not work; the code itself if it is the provider's."""
    return _REASONS.get(code, code)
