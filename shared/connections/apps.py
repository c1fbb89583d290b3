"""OAuth apps of the installation and of workspaces: client id, secrets and settings that providers issued.

An app comes from the environment or files (`configured_apps`) or from the API, which stores its secrets
sealed. A workspace's own app takes precedence over the installation's. For the installation, environment and
files take precedence over the API. Beside the default app of a provider there can be others, with names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from shared.connections.app_records import AppRepository
from shared.connections.provider_app import DEFAULT_APP, INSTALLATION, App, AppRef, app_record_id, app_ref
from shared.runtime.configuration import Configuration
from shared.runtime.snapshot import Snapshot


class Apps:
    """All apps, held in memory and written to MongoDB."""

    def __init__(
        self, repository: AppRepository, configured: Mapping[str, App], configuration: Configuration
    ) -> None:
        """Set the stored apps, and those from environment and files by provider id (`configured_apps`)."""
        self._repository = repository
        self._configuration = configuration
        self._by_provider: dict[str, Sequence[App]] = {}
        self._by_ref: dict[str, Mapping[tuple[str, str], App]] = {}
        """Named apps by their references, for each provider."""
        self._snapshot: Snapshot[App] = repository.snapshot(configuration, self._invalidate)
        self.configured = configured
        """The installation's apps from environment and files, by provider id."""

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    async def current(self) -> None:
        """Apply changes of other processes. Checking an API key does it too: see `Configuration.current`."""
        await self._configuration.current()

    def find(self, provider: str, workspace: str, registered: AppRef | None = None) -> App | None:
        """Return the app with which a workspace connects accounts of a provider.

        With `registered`, return exactly the app that an integration refers to. Return None if the app is
        unreadable or was removed. Never fall back to another app: it would receive codes and tokens that
        belong to this one.
        """
        app = self._find_app(provider, workspace, registered)
        return app if app is not None and app.readable else None

    def is_unreadable(self, provider: str, workspace: str, registered: AppRef | None = None) -> bool:
        """Return whether the app that `find` looks for exists, but its secrets cannot be decrypted."""
        app = self._find_app(provider, workspace, registered)
        return app is not None and not app.readable

    def _find_app(self, provider: str, workspace: str, registered: AppRef | None) -> App | None:
        if registered is None:
            return self.select(provider, workspace)
        candidates = self._candidates(provider, workspace)
        app = next((app for app in candidates if list(app_ref(app)) == list(registered)), None)
        if app is None and registered[0] in (workspace, INSTALLATION):
            app = self._named(provider).get((registered[0], registered[1]))
        return app

    def select(self, provider: str, workspace: str, name: str = DEFAULT_APP) -> App | None:
        """Return the app for accounts that are connected now, readable or not.

        With a name, return the app of this name, the workspace's or else the installation's, and no other.
        """
        if name == DEFAULT_APP:
            return next(self._candidates(provider, workspace), None)
        items = self._snapshot.items
        own = items.get(app_record_id(provider, workspace, name))
        return own or items.get(app_record_id(provider, INSTALLATION, name))

    def usable(self, provider: str, workspace: str) -> Iterator[App]:
        """Yield the apps that a workspace can connect accounts with: the default one, then others by name."""
        default = self.select(provider, workspace)
        if default is not None:
            yield default
        apps = self._named(provider).values()
        names = sorted({app.name for app in apps if app.workspace in (workspace, INSTALLATION)})
        for name in names:
            app = self.select(provider, workspace, name)
            if app is not None:
                yield app

    def of_workspace(self, provider: str, workspace: str) -> Iterable[App]:
        """Return the stored apps of a provider that belong to exactly this workspace, or `INSTALLATION`."""
        default = self._snapshot.items.get(app_record_id(provider, workspace))
        named = [app for app in self._named(provider).values() if app.workspace == workspace]
        return named if default is None else [default, *named]

    def _named(self, provider: str) -> Mapping[tuple[str, str], App]:
        """Return a provider's named apps of all workspaces, by workspace and client id."""
        cached = self._by_ref.get(provider)
        if cached is None:
            cached = self._by_ref[provider] = {
                (app.workspace, app.client_id): app
                for app in self._snapshot.items.values()
                if app.provider == provider and app.name != DEFAULT_APP
            }
        return cached

    def all_readable(self, provider: str) -> Sequence[App]:
        """Return the readable apps of a provider, of all workspaces, the installation's first.

        Return the same object until one of them changes, so that callers can cache by identity.
        """
        cached = self._by_provider.get(provider)
        if cached is None:
            stored = sorted(self._snapshot.items.values(), key=lambda app: (app.workspace, app.name))
            configured = self.configured.get(provider)
            apps = [app for app in stored if app.provider == provider]
            if configured:
                apps.insert(0, configured)
            cached = self._by_provider[provider] = tuple(app for app in apps if app.readable)
        return cached

    def _candidates(self, provider: str, workspace: str) -> Iterator[App]:
        """Yield the workspace's app and the installation's, in order of precedence."""
        items = self._snapshot.items
        own = items.get(app_record_id(provider, workspace))
        installation = items.get(app_record_id(provider, INSTALLATION))
        return (app for app in (own, self.configured.get(provider), installation) if app is not None)

    # In MongoDB. Every method raises `DatabaseUnavailable`.

    async def read(self, provider: str, workspace: str, name: str = DEFAULT_APP) -> App | None:
        """Read an app that was set by the API. Return None if there is none."""
        return await self._repository.find(provider, workspace, name)

    async def write(self, app: App, before: App | None) -> App | None:
        """Store an app in place of `before`, which is what `read` returned (None: there was no app).

        Return None if the stored app has changed since.
        """
        return await self._announce(await self._repository.write(app, before))

    async def record_check(
        self, app: App, *, verified: bool, reason: str, new_revision: bool = False
    ) -> App | None:
        """Store the result of a check of an app. Parameters and result: see `AppRepository.record_check`."""
        return await self._announce(
            await self._repository.record_check(
                app, verified=verified, reason=reason, new_revision=new_revision
            )
        )

    def all_of(self, workspace: str) -> list[App]:
        """Return the apps that a workspace registered."""
        return [app for app in self._snapshot.items.values() if app.workspace == workspace]

    async def remove(self, app: App) -> App | None:
        """Remove an app and its secrets. Return None if the app has changed since."""
        return await self._announce(await self._repository.remove(app))

    async def _announce(self, written: App | None) -> App | None:
        """Tell every process that an app was written; return it. Do nothing for None."""
        if written is not None:
            await self._snapshot.announce(app_record_id(written.provider, written.workspace, written.name))
        return written

    def _invalidate(self, before: App | None, after: App | None) -> None:
        for app in (before, after):
            if app:
                self._by_provider.pop(app.provider, None)
                self._by_ref.pop(app.provider, None)
