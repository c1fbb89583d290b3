"""`POST /api/integrations/{id}/import`: the import of a connected account."""

from fastapi import FastAPI

from services.importer.accounts.account_readers import AccountReaders
from services.importer.api.fields import Writer
from services.importer.api.import_schemas import AccountImportCreate, Estimate, ImportOut
from services.importer.jobs.imports import Imports
from services.importer.jobs.source import AccountSource
from shared.runtime.web.routes import Routes


class AccountImportsApi:
    """The route that begins an import of a connected account."""

    def __init__(self, imports: Imports, accounts: AccountReaders, estimate: Estimate) -> None:
        self._imports = imports
        self._accounts = accounts
        self._estimate = estimate

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api/integrations/{integration_id}/import")
        routes.add("", self.create, methods=["POST"], status_code=201)

    async def create(self, integration_id: str, body: AccountImportCreate, key: Writer) -> ImportOut:
        """Create the import of a connected account. It is `ready` for its plan when its lists are read."""
        integration = await self._accounts.find(key.workspace, integration_id)
        account = integration.account
        assert account is not None  # noqa: S101 -- `find` has refused one without
        source = AccountSource(
            integration_id=integration.id,
            provider=integration.provider,
            account=account.id,
            name=integration.display_name,
        )
        job = await self._imports.create_of_account(key.workspace, source, body.plan, body.repeat)
        return ImportOut.of(job, self._estimate)
