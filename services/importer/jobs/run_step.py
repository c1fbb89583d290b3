"""The first phases of an import: its people, its channels, and the messages of one part after another."""

from typing import Any

from services.importer.accounts.account_calls import CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.files.attachments import Addresses, FilePlanner
from services.importer.jobs.account_waits import AccountWaits, account_waits
from services.importer.jobs.channels_phase import ChannelsPhase, chosen_targets
from services.importer.jobs.files_step import FileLimits
from services.importer.jobs.import_job import ImportJob, Step
from services.importer.jobs.imports import Imports
from services.importer.jobs.late_confirmations import LateConfirmations
from services.importer.jobs.messages_phase import MessagesPhase
from services.importer.jobs.people_phase import matched_people, publish_people
from services.importer.jobs.plan import Plan
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.read_step import ReadStep
from services.importer.jobs.run_context import RunContext, Stores
from services.importer.jobs.selection import Selection
from services.importer.jobs.source_readers import SourceReaders
from services.importer.publish.broker_memory import BrokerFull, BrokerMemory
from services.importer.publish.history_batches import BatchFactory
from services.importer.publish.live_traffic import LiveTraffic
from services.importer.publish.outlet import DryOutlet, Outlet
from services.importer.store.chat_directory import ChatDirectory
from shared.manifests.channel_types import ChannelFailure
from shared.manifests.history_types import Unreadable
from shared.runtime.jobs import JobFailed, StepResult
from shared.runtime.kafka.producer import Producer


class Outlets:
    """Makes the way of an import's batches to the chat."""

    def __init__(
        self,
        stores: Stores,
        producer: Producer,
        broker_memory: BrokerMemory,
        late: LateConfirmations,
        traffic: LiveTraffic,
        *,
        messages_per_second: int,
    ) -> None:
        self._late = late
        self._traffic = traffic
        self._stores = stores
        self._producer = producer
        self._broker_memory = broker_memory
        self._messages_per_second = messages_per_second

    def outlet(self, job: ImportJob, progress: Progress) -> Outlet:
        """Return the way of a job's batches to the chat."""
        return Outlet(
            self._producer,
            self._stores.confirmations,
            workspace=job.workspace,
            import_id=job.id,
            messages_per_second=self._messages_per_second,
            confirms=job.confirms,
            broker_memory=self._broker_memory,
            traffic=self._traffic,
            turn=progress,
            release=self._late.release,
        )


class RunStep:
    """Runs imports, and dry runs, which publish nothing and do everything else in the same way."""

    def __init__(
        self,
        imports: Imports,
        readers: SourceReaders,
        read: ReadStep,
        stores: Stores,
        directory: ChatDirectory,
        outlets: Outlets,
        addresses: Addresses,
        limits: FileLimits,
    ) -> None:
        self._imports = imports
        self._readers = readers
        self._read = read
        self._stores = stores
        self._directory = directory
        self._outlets = outlets
        self._addresses = addresses
        self._limits = limits

    async def run(self, job: ImportJob) -> StepResult:
        """Run an import to the end of its messages. Raises `JobFailed`, and `RetryLater` to go on later."""
        plan, progress = Plan.model_validate(job.plan), Progress(self._imports, job)
        try:
            async with await self._readers.open(job) as source:
                run = RunContext(
                    job,
                    plan,
                    await source.contents(plan.answers),
                    source,
                    self._stores,
                    progress,
                    DryOutlet() if job.is_dry_run else self._outlets.outlet(job, progress),
                    BatchFactory(job.id, job.next_number),
                    job.issues,
                )
                await self._run(run)
        except (Unreadable, BrokerFull) as error:
            raise JobFailed(str(error)) from None
        except AccountWaits as waits:
            return waits.result()
        except (CallWaits, ChannelFailure) as error:
            return account_waits(error).result()
        except Stopped:
            return StepResult()
        changes: dict[str, Any] = {"step": "files", "confirms": run.outlet.confirms}
        if job.is_dry_run:
            changes |= {"stage": "verifying", "step": "verify"}
        return StepResult(changes=changes)

    async def _run(self, run: RunContext) -> None:
        step: Step = run.job.step
        if step == "people":
            await run.stores.units.delete_run(run.job.run_id)
            await run.stores.issues.delete_run(run.job.run_id)
            overview = run.overview
            users = await self._read.users(run.job.workspace, overview.provider, overview.account)
            counts = await publish_people(run, users)
            step = await self._advance(run, "channels", "people", counts, {})
        if step == "channels":
            counts, warnings = await ChannelsPhase(run, self._directory).publish()
            targets, size = await chosen_targets(run)
            if isinstance(run.source, AccountReader):
                size = len(targets)  # its units are pages, of unknown number
            changes = {"run_warnings": warnings, "total": size}
            await self._advance(run, "messages", "channels", counts, changes)
        targets, _ = await chosen_targets(run)
        matched = await matched_people(run)
        selection = Selection(
            run.plan,
            run.overview.provider,
            run.overview.account,
            targets,
            matched.users,
            matched.left_out,
        )
        channels = {key: target.channel_id for key, target in targets.items()}
        await run.source.use_names(matched.users, channels)
        await MessagesPhase(run, selection, self._planner(run)).publish()
        if run.job.is_dry_run and isinstance(run.source, AccountReader):
            sampled_s = run.source.walk.sampled_s(len(targets))
            await run.progress.write({}, counts={"trial.estimated_s": round(sampled_s or 0)})

    def _planner(self, run: RunContext) -> FilePlanner:
        job = run.job
        return FilePlanner(
            None if job.is_dry_run else self._addresses,
            import_id=job.id,
            workspace=job.workspace,
            provider=run.overview.provider,
            account=run.overview.account,
            mode=run.plan.files.mode,
            max_bytes=run.plan.files.max_bytes,
            planned=job.counts.get("files", {}).get("found", 0) if job.position else 0,
            expires_at=self._limits.expiry_of(job),
        )

    async def _advance(
        self, run: RunContext, step: Step, kind: str, counts: dict[str, Any], changes: dict[str, Any]
    ) -> Step:
        """Store the counts of a phase, and that the next one begins. Raises `Stopped`."""
        await run.progress.write(
            {
                "step": step,
                "issues": run.listed,
                "next_number": run.batches.next_number,
                "confirms": run.outlet.confirms,
                **changes,
            },
            counts={f"{run.job.counted}.{kind}": counts},
        )
        return step
