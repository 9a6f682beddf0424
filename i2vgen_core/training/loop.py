"""The training loop that all stages share: optimiser, averaged weights, checkpoints, resume, progress and log.

A step is a function of its number and the seed alone: batches come from `batch(step)` and noise from a generator that
is seeded by the step. So a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import csv
import logging
import math
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError, check_choice, check_range
from .muon import Muon, is_matrix

logger = logging.getLogger("i2vgen_xl")

Batch = TypeVar("Batch")

PRECISIONS = ("fp32", "bf16", "fp16")
OPTIMISERS = ("adamw", "muon")
CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"


@dataclass(frozen=True)
class LoopConfig:
    """How a stage is trained.

    Args:
        steps: of the optimiser.
        learning_rate: the highest; reached after `warmup` steps, then falling as a cosine to `final` times it.
        warmup: steps.
        final: share of the learning rate that is left at the end.
        optimiser: adamw, or muon for matrices, see training.muon, with adamw for the rest.
        weight_decay: of AdamW, on tensors of two and more axes.
        beta2: of AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights a step; it starts lower and reaches this with time.
        accumulate: batches a step.
        precision: of the arithmetic: fp32, or bf16 or fp16 by autocast; weights and their averages are float32.
        seed: of the weights, the batches and the noise.
        save_every, log_every: steps between checkpoints, and between lines of the log.
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    warmup: int = 100
    final: float = 0.05
    optimiser: str = "adamw"
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = 1
    precision: str = "fp32"
    seed: int = 0
    save_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 10**9)
        check_range("accumulate", self.accumulate, 1, 10**6)
        check_range("ema", self.ema, 0, 1)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("optimiser", self.optimiser, OPTIMISERS)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


class Stopped(Exception):
    """A signal asked for the end of a run: its checkpoint is written, and it goes on from there.

    Args:
        step: how many are done.
    """

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"stopped at step {step}")


class Loop(Generic[Batch]):
    """Trains a module.

    Args:
        module: what is trained; parameters that need no gradient are left alone.
        loss: the mean loss, and figures for the log, of a batch; noise is to be drawn from the generator.
        batch: the batch of a number; numbers are never asked for twice.
        folder: for the checkpoint and the log; a checkpoint in it is resumed.
        config: how.
        rates: factors on the learning rate, by the first words of parameters' names.
        device: where the module is.

    Attributes:
        watchers: called after each step with its number and the figures that were logged, none at most steps.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Batch, torch.Generator], tuple[Tensor, dict[str, float]]],
        batch: Callable[[int], Batch],
        folder: Path,
        config: LoopConfig,
        *,
        rates: dict[str, float] | None = None,
        device: torch.device | str = "cpu",
    ):
        self.module, self.loss, self.batch = module, loss, batch
        self.folder, self.config = folder, config
        self.device = torch.device(device)
        self.step = 0
        self.watchers: list[Callable[[int, dict[str, float]], None]] = []
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        kind = Muon if config.optimiser == "muon" else torch.optim.AdamW
        self.optimiser = kind(self._groups(rates or {}), lr=config.learning_rate, betas=(0.9, config.beta2))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        if (folder / CHECKPOINT).is_file():
            self._resume()

    def run(self, until: int | None = None) -> None:
        """Trains to the last step, or to step `until`, and leaves a checkpoint.

        Raises:
            Stopped: SIGINT or SIGTERM came; the step that ran is done, and the checkpoint is written.
            InputError: the loss is not finite, or the checkpoint cannot be written.
        """
        config, last = self.config, min(until or self.config.steps, self.config.steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        figures: list[dict[str, float]] = []
        start, first = time.monotonic(), self.step
        self.module.train()
        with _signals() as asked, _float_norms(self.module, self.device, config.precision):
            while self.step < last:
                rate = config.rate(self.step)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate * group["factor"]
                figures.append(self._step())
                self.step += 1
                ends = self.step == last or bool(asked)
                logged: dict[str, float] = {}
                if self.step % config.log_every == 0 or ends:
                    seconds = (time.monotonic() - start) / (self.step - first)
                    logged = self._log(figures, rate, seconds, (last - self.step) * seconds)
                    figures = []
                saved = self.step % config.save_every == 0 or ends
                if saved:
                    self._save()
                for watch in self.watchers:
                    watch(self.step, logged)
                if asked and self.step < last:
                    if not saved:  # it came after the step, while that was logged or watched
                        self._save()
                    raise Stopped(self.step)

    def averaged(self) -> AbstractContextManager[None]:
        """While it lasts, the module has the averaged weights."""
        return _swapped(self.parameters, self.average)

    def _groups(self, rates: dict[str, float]) -> list[dict]:
        groups: dict[tuple[float, float, bool], list[Tensor]] = {}
        for name, parameter in self.parameters.items():
            factor = next((rate for start, rate in rates.items() if name.startswith(start)), 1.0)
            decay = self.config.weight_decay if parameter.ndim > 1 else 0.0
            orthogonal = self.config.optimiser == "muon" and is_matrix(parameter)
            groups.setdefault((factor, decay, orthogonal), []).append(parameter)
        return [
            {"params": ps, "factor": factor, "weight_decay": decay, "orthogonal": orthogonal}
            for (factor, decay, orthogonal), ps in groups.items()
        ]

    def _step(self) -> dict[str, float]:
        config = self.config
        totals: dict[str, float] = {}
        for part in range(config.accumulate):
            number = self.step * config.accumulate + part
            generator = torch.Generator(self.device).manual_seed(config.seed * 1_000_003 + number)
            with autocast(self.device, config.precision):
                loss, figures = self.loss(self.batch(number), generator)
            self.scaler.scale(loss / config.accumulate).backward()
            for name, value in {"loss": loss.item(), **figures}.items():
                totals[name] = totals.get(name, 0.0) + value / config.accumulate
        self.scaler.unscale_(self.optimiser)
        totals["gradient"] = nn.utils.clip_grad_norm_(self.parameters.values(), config.clip).item()
        if not math.isfinite(totals["loss"]):
            remedy = "Lower the learning rate, or train in bf16 or fp32."
            raise InputError(f"the loss of step {self.step}", "a finite number", str(totals["loss"]), remedy)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
        return totals

    def _log(self, figures: list[dict[str, float]], rate: float, seconds: float, left: float) -> dict[str, float]:
        """Writes the means since the last line, and returns them."""
        names = sorted({name for line in figures for name in line}, key=lambda name: (name != "loss", name))
        means = {name: _mean([line[name] for line in figures if name in line]) for name in names}
        text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        logger.info(
            "step %d of %d: %s; %.2f s a step, %d min left", self.step, self.config.steps, text, seconds, left / 60
        )
        file = self.folder / LOG
        new = not file.exists()
        with file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(["step", "figure", "value"])
            rows = {**means, "learning_rate": rate, "seconds": seconds}
            writer.writerows([self.step, name, f"{value:.6g}"] for name, value in rows.items())
        return rows

    def _save(self) -> None:
        state = {
            "step": self.step,
            "config": asdict(self.config),
            "module": {name: p.detach() for name, p in self.parameters.items()},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        unfinished = self.folder / (CHECKPOINT + ".part")
        try:
            torch.save(state, unfinished)
            unfinished.replace(self.folder / CHECKPOINT)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter where the disk is full
            unfinished.unlink(missing_ok=True)
            raise self._no_room(state, error) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _no_room(self, state: dict[str, Any], error: OSError | RuntimeError) -> InputError:
        """What is said of a checkpoint that could not be written: torch's own words do not say that a disk is full."""
        tensors = [state["module"], state["average"], *state["optimiser"]["state"].values()]
        size = sum(value.nbytes for each in tensors for value in each.values() if isinstance(value, Tensor))
        free = shutil.disk_usage(self.folder).free
        found = f"{free / 1e6:.1f} MB free" if free < size else _first_line(error)
        remedy = "Free some, and start the same command again"
        remedy += "; the checkpoint before is still there." if (self.folder / CHECKPOINT).is_file() else "."
        return InputError(str(self.folder / CHECKPOINT), f"room to write {size / 1e6:.1f} MB", found, remedy)

    def _resume(self) -> None:
        file = self.folder / CHECKPOINT
        try:
            state = torch.load(file, map_location=self.device, weights_only=True)
            tensors = {name: value.shape for name, value in state["module"].items()}
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
            found = f"one that cannot be read ({_first_line(error)})"
            raise InputError(str(file), "a checkpoint of a run", found, "Remove it, or use another folder.") from error
        if differ := [name for name, p in self.parameters.items() if tensors.get(name) != p.shape] or [
            name for name in tensors if name not in self.parameters
        ]:
            there, here = tensors.get(differ[0]), self.parameters.get(differ[0])
            found = f"other tensors ({differ[0]} is {_size(there)} there, {_size(here)} here)"
            remedy = "Use the same configuration, or another folder."
            raise InputError(str(self.folder), "a checkpoint of this network", found, remedy)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["module"][name])
                self.average[name].copy_(state["average"][name])
        self._resume_optimiser(file, state)
        if state["scaler"]:  # of a run in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self._cut_log()
        logger.info("resumed at step %d", self.step)
        now = asdict(self.config)
        changed = [
            f"{name} was {was}, is {now[name]}" for name, was in state["config"].items() if now.get(name, was) != was
        ]
        if changed:
            logger.warning("the checkpoint in %s had other settings: %s", self.folder, "; ".join(changed))

    def _resume_optimiser(self, file: Path, state: dict[str, Any]) -> None:
        """Takes the optimiser's state of a checkpoint; its settings stay those of the recipe."""
        groups = self.optimiser.param_groups
        settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        there, here = state["config"]["optimiser"], self.config.optimiser
        alike = [len(group["params"]) for group in state["optimiser"]["param_groups"]] == [
            len(group["params"]) for group in groups
        ]
        if there != here or not alike:
            found = f"one of {there}" if there != here else "other groups of tensors, by learning rate and decay"
            remedy = "Use the recipe that the run began with, or another folder."
            raise InputError(str(file), f"a checkpoint of this recipe, of {here}", found, remedy)
        self.optimiser.load_state_dict(state["optimiser"])
        for group, own in zip(self.optimiser.param_groups, settings, strict=True):
            group.update(own)

    def _cut_log(self) -> None:
        """Drops what was logged after the checkpoint, by a run that was killed: it will be logged again."""
        file = self.folder / LOG
        if not file.is_file():
            return
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
        kept = [row for row in rows if len(row) == 3 and (not row[0].isdecimal() or int(row[0]) <= self.step)]
        if len(kept) < len(rows):
            unfinished = file.with_suffix(".part")
            with unfinished.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows(kept)
            unfinished.replace(file)


@contextmanager
def _float_norms(module: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """While it lasts, group norms compute in float32 on a CPU: torch's gradient in bfloat16 takes six times as long there."""
    norms = [m for m in module.modules() if isinstance(m, nn.GroupNorm) and m.weight.dtype == torch.float32]
    if device.type != "cpu" or precision == "fp32":
        norms = []
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM as they come, in place of what they do; the second one does that."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals come there alone
        yield seen
        return

    def note(number: int, _: object) -> None:
        seen.append(number)
        restore()
        logger.info("stopping after this step, with a checkpoint; once more ends it at once")

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        restore()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _size(tensor: Any) -> str:
    if tensor is None:
        return "missing"
    return "x".join(map(str, getattr(tensor, "shape", tensor))) or "one number"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


class _swapped(AbstractContextManager):
    def __init__(self, parameters: dict[str, nn.Parameter], values: dict[str, Tensor]):
        self._parameters, self._values = parameters, values

    def _swap(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                held = parameter.clone()
                parameter.copy_(self._values[name])
                self._values[name].copy_(held)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
