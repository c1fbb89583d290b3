"""Being written now (05:46) by the helper of gateway, access and API tests, who is back after a cut-off."""
