"""What the driver of a batch spends on a job, with four stages that do nothing but hand a latent on:

    python -m benchmarks.batch_driver [--jobs 1000] [--megabytes 3.7]

Its process is the only one that every job goes through, so this is what bounds the number of cards.
"""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import ray

from i2vgen_core.batch.driver import Batch, Plan, Policy
from i2vgen_core.batch.jobs import Job, name_of
from i2vgen_core.batch.ledger import Ledger
from i2vgen_core.batch.outputs import Outputs, publish
from i2vgen_core.batch.worker import Stage


class Hand(Stage):
    """Makes a latent, whatever came in."""

    def __init__(self, size: int):
        self._size = size

    def work(self, job: Job, value: np.ndarray | None) -> np.ndarray:
        return np.zeros(self._size, np.uint8)


class Write(Stage):
    """Writes an empty file."""

    def __init__(self, folder: Path):
        self._folder = folder

    def work(self, job: Job, value: np.ndarray) -> None:
        with tempfile.NamedTemporaryFile(suffix=".txt") as file:
            publish(Path(file.name), self._folder, job.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--megabytes", type=float, default=3.7, help="of what a stage hands on (%(default)s)")
    options = parser.parse_args()
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        outputs = Outputs(Path(folder))
        size = int(options.megabytes * 1e6)
        plans = [Plan(Hand, (size,)), Plan(Hand, (size,)), Plan(Hand, (size,)), Plan(Write, (Path(folder),))]
        ledger = Ledger([plan.name for plan in plans], outputs, options.jobs)
        batch = Batch(plans, outputs, Policy(), ledger)
        jobs = (Job(row, name_of({"row": row}, ""), 0, {"row": row}) for row in range(options.jobs))
        used, start = time.process_time(), time.monotonic()
        asyncio.run(batch.run(jobs))
        used, took = time.process_time() - used, time.monotonic() - start
        outputs.close()
    ray.shutdown()
    sys.stdout.write(f"{ledger.done} jobs: {used / ledger.done * 1e3:.2f} ms of the driver's CPU a job, ")
    sys.stdout.write(f"{ledger.done / took:.0f} jobs a second with one worker a stage; load {os.getloadavg()[0]:.1f}\n")


if __name__ == "__main__":
    main()
