"""`batch`: many videos, from a table of jobs, on Ray."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from .. import assets
from ..batch.driver import Batch, Plan, Policy
from ..batch.jobs import (
    Job,
    check_header,
    count_jobs,
    folder_of,
    name_of,
    read_rows,
    take_column,
    takes_of,
    title_of,
)
from ..batch.ledger import Ledger
from ..batch.outputs import MANIFEST, RESULTS, Outputs
from ..batch.plain import run_plain
from ..batch.stages import COLUMNS, Base, Decode, Encode, Model, Refine, cascade_job
from ..batch.worker import Stage
from ..batch.workflow import Comfy, Workflow
from ..config import REFINERS
from ..errors import InputError
from ..media.rows import read_header
from ..memory import DTYPES
from . import pages
from .generate import add_lora_option, loras_of

logger = logging.getLogger("i2vgen_xl")

STAGES = ("encode", "base", "refine", "decode", "comfy")
_GPU_PART = 0.25
_SMALL_CORES = 4
_CONNECT_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `batch`."""
    policy = Policy()
    page = pages() / "batches.md"
    parser.epilog = f"What a row may have, what is promised, and how to run it on many machines: {page}"
    add = parser.add_argument
    add(
        "jobs",
        metavar="JOBS",
        help=f"CSV, JSONL or Parquet, a path or a URL that fsspec reads; columns: {', '.join(COLUMNS)}",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where the outputs go; every machine must see it")
    add("--address", metavar="HOST:PORT", help="of a running Ray cluster, or auto (Ray is started on this machine)")
    per_stage = "one for all stages, or encode=1,base=4,refine=8,decode=1"
    add("--workers", type=_per_stage(int), default={}, metavar="N", help=f"workers a stage: {per_stage} (1)")
    add(
        "--gpus",
        type=_per_stage(float),
        default={},
        metavar="N",
        help=f"GPUs of a worker, 0 for the CPU: {per_stage} (where the cluster has GPUs, {_GPU_PART}, with --workflow 1)",
    )
    add(
        "--plain",
        action=argparse.BooleanOptionalAction,
        help="one job after the other in this process, without Ray (on a machine of up to 4 cores and one GPU)",
    )
    add("--names", default="name", metavar="COLUMN", help="of what the outputs are called (%(default)s)")
    add("--attempts", type=int, default=policy.attempts, help="at a job, before it is set aside (%(default)s)")
    add("--backoff", type=float, default=policy.backoff, help="seconds before the second, then doubled (%(default)s)")
    add("--timeout", type=float, default=policy.timeout, help="seconds that a stage of a job may take (%(default)s)")
    cascade = parser.add_argument_group("on the cascade")
    add = cascade.add_argument
    add("--model", type=Path, default=assets.FOLDER, metavar="DIR", help="as for generate (the built-in tiny cascade)")
    add("--stage", choices=["base", "cascade"], help="default: cascade where the folder has a refiner")
    add("--detail-gain", choices=["official", "once"], default="official", help="once: weights of the diffusers port")
    add("--refiner", choices=REFINERS, help="which refiner the folder holds, where its config.json does not say")
    add("--dtype", choices=list(DTYPES), help="of weights and arithmetic (fp16 on a GPU, fp32 on the CPU)")
    add_lora_option(cascade)
    workflow = parser.add_argument_group("on ComfyUI")
    add = workflow.add_argument
    add("--workflow", type=Path, metavar="API.json", help="a graph from Export (API), in place of the cascade")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NODE.inputs.NAME=COLUMN",
        help="the column in place of a value; =@COLUMN where the column names a file for the node; again for more",
    )
    add("--comfyui", type=Path, metavar="DIR", help="the folder with main.py (COMFYUI_PATH, else ~/ComfyUI)")
    add("--server-args", type=shlex.split, default=[], metavar="TEXT", help="further arguments of ComfyUI")


def run(options: argparse.Namespace) -> int:
    """Makes what is not there yet; 1 if a job failed, 130 if it was stopped."""
    table = options.jobs if "://" in options.jobs else str(Path(options.jobs).resolve())
    workflow = Workflow.read(options.workflow, options.set) if options.workflow else None
    plain = _is_plain(options)
    if options.set and not workflow:
        raise InputError("--set", "--workflow too", "--set alone", "Name the graph.")
    if workflow:
        check_header(table, (), workflow.needed)
    else:
        names = {name.lower() for name in read_header(table, "JOBS") or ()}
        videos = "video" in names and "image" not in names
        needed = ("video",) if videos else ("image", "prompt")
        check_header(table, (*COLUMNS, options.names, "takes"), needed)
    count = count_jobs(table)
    if options.address:
        _check_answers(options.address)
    cascade = None if workflow else _model(options)
    ray = None if plain else _ray(options.address)
    outputs = Outputs(options.out.resolve())
    ledger = None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        gpus, dashboard = torch.cuda.device_count(), None
        if ray:
            context = _joined(ray, options.address)
            gpus, dashboard = ray.cluster_resources().get("GPU", 0), context.dashboard_url
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if workflow:
            model = workflow.hash
            plans, make = [_comfy(options, workflow, gpus)], partial(workflow.job, folder=folder_of(table))
        elif cascade:
            plans, model = _cascade(options, *cascade, gpus, videos)
            refines = any(plan.kind is Refine for plan in plans)
            make = partial(cascade_job, folder=folder_of(table), model=model, refines=refines)
        ledger = Ledger([plan.name for plan in plans], outputs, count)
        jobs = _jobs(table, make, model, options.names, workflow)
        policy = Policy(options.attempts, options.backoff, options.timeout)
        if ray:
            _say(plans, dashboard, gpus)
            asyncio.run(Batch(plans, outputs, policy, ledger).run(jobs))
        else:
            logger.info("one job after the other, without Ray; --no-plain starts it")
            run_plain(plans, outputs, policy, ledger, jobs)
    except KeyboardInterrupt:
        made = ledger.done if ledger else 0
        logger.info("stopped, %d made; the same command goes on from there", made)
        return 130
    finally:
        if ledger:
            ledger.close()
        if ray:
            ray.shutdown()
        outputs.close()
        signal.signal(signal.SIGTERM, handler)
    ledger.say()
    logger.info("%s: outputs by name; %s: what became of each row", options.out / RESULTS, options.out / MANIFEST)
    return int(ledger.failed > 0)


def _is_plain(options: argparse.Namespace) -> bool:
    """Whether Ray is left out: where it is asked for, or on a small machine where nothing asks for Ray."""
    if options.plain and (options.address or options.workers):
        raise InputError("--plain", "neither --address nor --workers", "one of them", "Leave it out, or --plain.")
    if options.plain is not None:
        return options.plain
    asked = options.address or options.workers or options.gpus
    return not asked and (os.cpu_count() or 1) <= _SMALL_CORES and torch.cuda.device_count() <= 1


def _ray(address: str | None) -> Any:
    """The package. Where it will start a cluster of its own, without usage statistics, and on the loopback alone."""
    if address is None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read at import; on every system, despite its name
    try:
        import ray
    except ImportError:
        remedy = "Install it: pip install 'ray[default]' pyarrow 'fsspec[http]' filelock; or leave it out with --plain."
        raise InputError("batch", "the package ray", "none", remedy) from None
    return ray


def _check_answers(address: str) -> None:
    """Raises InputError where nothing listens at HOST:PORT or ray://HOST:PORT, which Ray would go on trying for minutes."""
    where = urlsplit(address if "://" in address else f"//{address}")
    if address == "auto" or where.scheme not in ("", "ray"):
        return  # Ray looks for it itself, or has another way there
    remedy = "Start one with `ray start --head`, or leave it out."
    try:
        host, port = where.hostname, where.port
    except ValueError:  # no number, or none of a port
        host = port = None
    if not host or not port:
        raise InputError("--address", "HOST:PORT or auto", repr(address), remedy)
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError("--address", "a Ray cluster that answers", f"none ({address}: {reason})", remedy) from error


def _joined(ray: Any, address: str | None) -> Any:
    """What Ray says of the cluster that it joined, or started here without an address. Raises InputError where there is none."""
    try:
        return ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # of no class of Ray's own where a cluster does not answer or start
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what, expected = ("--address", "a Ray cluster that answers") if address else ("Ray", "one that starts here")
        remedy = "Start one with `ray start --head`, or leave it out." if address else "Try again, or with --plain."
        raise InputError(what, expected, f"none ({reason})", remedy) from error


def _jobs(
    table: str, make: Callable[..., Job], model: str, names: str, workflow: Workflow | None
) -> Iterator[Job | tuple[int, str, InputError]]:
    """The jobs of every row, one for each take."""
    titles: dict[str, int] = {}
    used = set(workflow.columns.values()) if workflow else set()
    for number, row in enumerate(read_rows(table), 1):
        if isinstance(row, InputError):
            yield number, name_of(str(row), model), row
            continue
        given = dict(row)
        try:
            title = row.get(names) if names in used else take_column(given, names)
            takes = takes_of(None if "takes" in used else take_column(given, "takes"))
            for take in range(takes):
                job = make(number, given, take=take)
                picture = workflow.picture(job) if workflow else job.content.get("image") or job.content["video"]
                called = title_of(title, picture, number) + (f"-take{take + 1}" if take else "")
                if (first := titles.setdefault(called.casefold(), number)) != number:
                    raise InputError(
                        names, "another name in every row", f"{called!r} in row {first} too", "Rename one."
                    )
                yield replace(job, title=called)
        except InputError as error:
            yield number, name_of(row, model), error


def _model(options: argparse.Namespace) -> tuple[Model, str]:
    """The model and its last stage. Raises InputError for what is no model folder, and for a LoRA of another network."""
    loras = tuple((file.resolve(), strength) for file, strength in loras_of(options))
    model = Model(options.model.resolve(), options.refiner, options.detail_gain, options.dtype, loras)
    stage = options.stage or ("cascade" if (model.folder / "refiner").is_dir() else "base")
    model.new("cpu")
    return model, stage


def _cascade(
    options: argparse.Namespace, model: Model, stage: str, gpus: float, videos: bool = False
) -> tuple[list[Plan], str]:
    """The cascade's stages, the last two alone of a table of videos, and the hash of all that changes the pixels."""
    kinds: list[type[Stage]] = [Encode, Base, Refine, Decode] if stage == "cascade" else [Encode, Base, Decode]
    kinds = kinds[2:] if videos and stage == "cascade" else kinds
    plans = []
    for kind in kinds:
        workers, part = _share(options, kind, _GPU_PART if gpus else 0)
        arguments = (model, "cuda" if part else "cpu") + ((options.out.resolve(),) if kind in (Refine, Decode) else ())
        plans.append(Plan(kind, arguments, workers, part))
    return plans, model.hash(stage)


def _comfy(options: argparse.Namespace, workflow: Workflow, gpus: float) -> Plan:
    """The one stage on ComfyUI."""
    comfyui = Path(options.comfyui or os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser().resolve()
    if not (comfyui / "main.py").is_file():
        remedy = "Name it with --comfyui, or in COMFYUI_PATH."
        raise InputError("--comfyui", "ComfyUI's folder, the one with main.py", str(comfyui), remedy)
    workers, part = _share(options, Comfy, 1.0 if gpus else 0)
    device = "cuda" if part else "cpu"
    return Plan(Comfy, (workflow, comfyui, options.server_args, device, options.out.resolve()), workers, part)


def _share(options: argparse.Namespace, kind: type[Stage], part: float) -> tuple[int, float]:
    """Workers of a stage, and GPUs of each."""
    name = kind.__name__.lower()
    return options.workers.get(name, 1), options.gpus.get(name, part)


def _per_stage(kind: Callable[[str], Any]) -> Callable[[str], dict[str, Any]]:
    """Reads `2`, or `base=1,refine=2`."""

    def read(text: str) -> dict[str, Any]:
        pairs = [part.rpartition("=") for part in text.split(",")]
        given = {name: kind(value) for stage, _, value in pairs for name in ([stage] if stage else STAGES)}
        if not given.keys() <= set(STAGES) or min(given.values()) < (1 if kind is int else 0):
            raise argparse.ArgumentTypeError(
                f"expected a number, or some of {', '.join(STAGES)} with one, found {text!r}"
            )
        return given

    return read


def _say(plans: list[Plan], dashboard: str | None, gpus: float) -> None:
    logger.info("workers: %s", ", ".join(f"{plan.workers} {plan.name} on {plan.gpus:g} GPU" for plan in plans))
    logger.info(
        "dashboard: %s", f"http://{dashboard}" if dashboard else "none started; pip install 'ray[default]' has it"
    )
    if (asked := sum(plan.workers * plan.gpus for plan in plans)) > gpus:
        logger.warning("the workers ask for %g GPUs, the cluster has %g: some wait until it has more", asked, gpus)
