"""Drives jobs through the stages: each job is a coroutine, each stage a pool of Ray actors that take one job at a time.

Ray starts the workers anywhere in the cluster, watches them, and moves what they make between machines. What is here is
the policy: who is free, what is tried again, and when to give a job up. Ray Data's pools of actors would move the rows
too, but they start a job that kills its worker again for ever, retry a block of rows rather than a job, and have no
limit for a worker that hangs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .jobs import Job
from .ledger import Ledger
from .outputs import NoRoom, Outputs
from .worker import Report, Stage

logger = logging.getLogger("i2vgen_xl")

_START_ATTEMPTS = 3
_LONGEST_WAIT = 60.0
_LOST_LIMIT = 20
_CLOSE_SECONDS = 20.0


@dataclass(frozen=True)
class Plan:
    """A stage, and how many workers do it.

    Args:
        kind: what the workers are.
        arguments: of the kind's constructor.
        workers: how many.
        gpus: of each; parts of one are shared.
    """

    kind: type[Stage]
    arguments: tuple[Any, ...]
    workers: int = 1
    gpus: float = 0.0

    @property
    def name(self) -> str:
        """In the manifest and the progress bars."""
        return self.kind.__name__.lower()


@dataclass(frozen=True)
class Policy:
    """What is tried again.

    Args:
        attempts: at a job, the first included; failures of all its stages count together.
        backoff: seconds before the second attempt; twice as many before each further one, a minute at most.
        timeout: seconds after which a stage of a job hangs, and its worker is replaced.
    """

    attempts: int = 3
    backoff: float = 1.0
    timeout: float = 3600.0

    def wait(self, failures: int) -> float:
        """Seconds after so many failures."""
        return min(_LONGEST_WAIT, self.backoff * 2 ** (failures - 1))


class Broken(Exception):
    """The worker is gone, or hangs."""


class Lost(Exception):
    """What an earlier stage made was on a machine that is gone."""


class Pool:
    """The workers of a stage. One that dies or hangs is replaced by another, wherever the cluster has room."""

    def __init__(self, plan: Plan, policy: Policy, fail: Callable[[BaseException], None]):
        import ray

        self.plan, self._policy, self._fail = plan, policy, fail
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = plan.workers
        # No CPUs: how many workers share a machine's is said by --workers, and one too many must not wait for ever.
        options = {"num_cpus": 0, "num_gpus": plan.gpus, "scheduling_strategy": "SPREAD"}
        self._actor = ray.remote(plan.kind).options(**options)
        for _ in range(plan.workers):
            self._hire()

    def _hire(self) -> None:
        task = asyncio.create_task(self._start())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        import ray

        for failures in range(1, _START_ATTEMPTS + 1):
            actor = self._actor.remote(*self.plan.arguments)
            try:
                await actor.ready.remote()
            except ray.exceptions.RayError as error:
                reason = error
                await asyncio.sleep(self._policy.wait(failures))
            else:
                self._free.put_nowait(actor)
                return
        logger.error("a worker of stage %s does not start: %s", self.plan.name, reason)
        self._working -= 1
        if not self._working:
            remedy = "See the reason above, correct it, and start the same command again."
            self._fail(InputError(f"stage {self.plan.name}", "workers that start", "none", remedy))

    async def run(self, job: Job, value: Any) -> tuple[Report, Any]:
        """A stage of a job on the next free worker.

        Args:
            job: what to do.
            value: a reference to what the stage before made, which stays in the object store.

        Raises:
            Broken: the worker died, or was too slow.
            Lost: the value is gone.
        """
        import ray

        actor = await self._free.get()
        report, made = actor.run.options(num_returns=2).remote(job, value)
        try:
            answer: Report = await asyncio.wait_for(_result(report), self._policy.timeout)
        except asyncio.TimeoutError:
            self._replace(actor)
            raise Broken(f"stage {self.plan.name} took longer than {self._policy.timeout:g} s") from None
        except ray.exceptions.RayActorError as error:
            self._replace(actor)
            raise Broken(f"the worker of stage {self.plan.name} died: {error}") from error
        except ray.exceptions.RayError as error:
            self._free.put_nowait(actor)
            raise Lost(str(error)) from error
        if answer.broken:
            self._replace(actor)
        else:
            self._free.put_nowait(actor)
        return answer, made

    async def close(self) -> None:
        """Lets the workers that are free end in order; the others are killed with the cluster, or with this driver."""
        free = [self._free.get_nowait() for _ in range(self._free.qsize())]
        await asyncio.wait_for(
            asyncio.gather(*(_result(actor.close.remote()) for actor in free), return_exceptions=True), _CLOSE_SECONDS
        )

    def _replace(self, actor: Any) -> None:
        import ray

        ray.kill(actor)
        self._hire()


class Batch:
    """A run over a table.

    Args:
        plans: the stages, first to last.
        outputs: where the last stage writes.
        policy: what is tried again.
        ledger: of the run.
    """

    def __init__(self, plans: list[Plan], outputs: Outputs, policy: Policy, ledger: Ledger):
        self._plans, self._outputs, self._policy, self._ledger = plans, outputs, policy, ledger

    async def run(self, jobs: Iterable[Job | tuple[int, str, InputError]]) -> None:
        """Makes every output that is not there.

        Args:
            jobs: read one by one, a few ahead of the workers. In place of a row that is no job: number, name, error.

        Raises:
            NoRoom: the output folder is full.
            InputError: the workers of a stage do not start.
        """
        stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(error: BaseException) -> None:
            if not stopped.done():
                stopped.set_exception(error)

        pools = [Pool(plan, self._policy, fail) for plan in self._plans]
        tasks: dict[str, asyncio.Task[None]] = {}

        def end(task: asyncio.Task[None]) -> None:
            del tasks[task.get_name()]
            if not task.cancelled() and (error := task.exception()):
                fail(error)

        try:
            for job in jobs:
                if isinstance(job, tuple):
                    self._ledger.refuse(*job)
                elif self._ledger.admit(job):
                    task = asyncio.create_task(self._make(job, pools), name=job.name)
                    tasks[job.name] = task
                    task.add_done_callback(end)
                    # As many again as there are workers wait between the stages: that bounds the object store.
                    while len(tasks) >= 2 * sum(plan.workers for plan in self._plans) and not stopped.done():
                        await asyncio.wait([stopped, *tasks.values()], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
                if stopped.done():
                    break
            while tasks and not stopped.done():
                await asyncio.wait([stopped, *tasks.values()], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
        finally:
            for task in tasks.values():
                task.cancel()
            with suppress(asyncio.TimeoutError):
                await asyncio.gather(*(pool.close() for pool in pools))
        if stopped.done():
            stopped.result()

    async def _make(self, job: Job, pools: list[Pool]) -> None:
        seconds: dict[str, float] = {}
        stage = reached = failures = losses = 0
        value = None
        while stage < len(pools):
            pool = pools[stage]
            try:
                report, made = await pool.run(job, value)
            except Broken as error:
                report = Report(error=str(error), traceback=str(error))
            except Lost as error:  # no fault of the job's: from the first stage again
                losses += 1
                logger.warning("row %d: from the first stage again: %s", job.row, short(error))
                if losses < _LOST_LIMIT:
                    stage, value = 0, None
                    continue
                report = Report(error=str(error), traceback=str(error), final=True)
            if report.error is None:
                seconds[pool.plan.name] = round(report.seconds, 3)
                stage, value = stage + 1, made
                if stage > reached:
                    self._ledger.advance(reached)
                    reached = stage
                continue
            if report.no_room:
                raise NoRoom(self._outputs.path, report.no_room)
            failures += 1
            if self._ledger.is_there(job):  # the worker was killed between the last rename and its answer
                break
            if report.final or failures >= self._policy.attempts:
                self._ledger.give_up(job, report, failures, seconds, reached)
                return
            logger.warning("row %d: stage %s, attempt %d: %s", job.row, pool.plan.name, failures, short(report.error))
            await asyncio.sleep(self._policy.wait(failures))
        self._ledger.finish(job, seconds, failures + 1)


async def _result(reference: Any) -> Any:
    return await reference


def short(error: object) -> str:
    """In one line of a log."""
    return " ".join(str(error).split())[:200]
