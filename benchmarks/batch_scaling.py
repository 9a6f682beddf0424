"""Jobs a minute of the built-in cascade with one and with two workers a stage, on this machine's own Ray:

    python -m benchmarks.batch_scaling [--jobs 40]

The time between the first output and the last, so that the start of Ray and of the workers is not in it. It says
something on a machine that does nothing else, with more cores than workers that are busy at once: see the load it prints.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def jobs_a_minute(table: Path, out: Path, workers: int) -> float:
    """A run of its own."""
    command = [sys.executable, "-m", "i2vgen_core", "batch", table, "--out", out, "--workers", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
    times = sorted(file.stat().st_mtime for file in out.glob("???/*.mp4"))
    return (len(times) - 1) / (times[-1] - times[0]) * 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "jobs.jsonl"
        image = str(ROOT / "demo" / "scene.png")
        rows = ({"image": image, "prompt": "A disc slides up.", "seed": seed} for seed in range(options.jobs))
        table.write_text("".join(json.dumps(row | {"steps": 4, "refine_steps": 1}) + "\n" for row in rows))
        for workers in (1, 2):
            rate = jobs_a_minute(table, Path(folder) / str(workers), workers)
            sys.stdout.write(f"{workers} a stage: {rate:.1f} jobs a minute, load {os.getloadavg()[0]:.1f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
