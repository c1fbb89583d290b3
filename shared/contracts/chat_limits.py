"""Limits of the chat's messages, for processes that read texts and validate no message.

This module imports nothing: a reader process of an import needs no pydantic, which is most of its start.
"""

from typing import Final

MAX_TEXT_CHARACTERS: Final = 40_000
"""Characters in the text of a message."""
