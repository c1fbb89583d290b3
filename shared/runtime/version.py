"""The version of the hub, as documents and requests show it."""

from typing import Final

VERSION: Final = "0.4.0"
