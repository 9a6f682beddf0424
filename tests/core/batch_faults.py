"""200 jobs of the built-in cascade on a Ray cluster of three nodes, with everything going wrong that can:

    python tests/core/batch_faults.py [--jobs 200] [--keep DIR]

kills a worker of each stage, a node, and the driver; fills the disk (a small tmpfs, where this may mount one); has an
unreadable image, one that is not there and a missing prompt among the rows. Then compares with a run without faults,
on Ray's own start on this machine. It takes minutes, so it is no part of the tests. Linux alone.
"""

import argparse
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import psutil
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[2]
# Ray makes its workers nice by 15, and a machine that does other work too then starves them.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
STAGES = ("Encode", "Base", "Refine", "Decode")
SMALL = {"width": 64, "height": 64, "frames": 2, "steps": 1, "refine_width": 72, "refine_height": 64, "refine_steps": 1}

logger = logging.getLogger("faults")


def write_jobs(folder: Path, count: int) -> Path:
    """`count` rows that can be made, and three that cannot, among them."""
    shutil.copy(ROOT / "demo" / "scene.png", folder / "scene.png")
    (folder / "torn.png").write_bytes((folder / "scene.png").read_bytes()[:1000])
    words = itertools.product(("red", "green", "blue"), ("square", "disc", "triangle"), ("slides up", "turns", "grows"))
    rows = [
        {"image": "scene.png", "prompt": f"A {colour} {shape} {move}.", **SMALL, "seed": number}
        for number, (colour, shape, move) in zip(range(count), itertools.cycle(words), strict=False)
    ]
    rows.insert(3, {"image": "torn.png", "prompt": "A disc.", **SMALL})
    rows.insert(count // 2, {"image": "scene.png", **SMALL})
    rows.insert(count, {"image": "nowhere.png", "prompt": "A disc.", **SMALL})
    table = folder / "jobs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def start(table: Path, out: Path, log: Path, *more: str) -> subprocess.Popen:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "i2vgen_core", "batch", str(table), "--out", str(out), "--backoff", "0.2"]
    command += ["--no-plain", *more]
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file)


def outputs(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("???/*.mp4")}


def manifest(out: Path) -> list[dict]:
    with suppress(FileNotFoundError):
        return [
            json.loads(line) for line in (out / "manifest.jsonl").read_bytes().splitlines(True) if line[-1:] == b"\n"
        ]
    return []


def wait_for(count: int, out: Path, driver: subprocess.Popen, log: Path) -> None:
    while len(list(out.glob("???/*.mp4"))) < count:
        if driver.poll() is not None:
            raise SystemExit(f"the batch ended early, status {driver.returncode}:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def kill_worker(cluster: Cluster, stage: str) -> None:
    """kill -9 to a worker of this cluster at its work, or waiting if none is at work for ten seconds."""
    for patience in range(100):
        raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
        found = []
        for process in psutil.process_iter(["ppid", "cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if process.info["ppid"] in raylets and words.startswith(f"ray::{stage}"):
                found.append((f"ray::{stage}.run" in words, process))
        busy = [process for at_work, process in found if at_work]
        if busy or (found and patience == 99):
            (busy or [found[0][1]])[0].send_signal(signal.SIGKILL)
            logger.info("killed a worker of %s, %s", stage, "at work" if busy else "waiting")
            return
        time.sleep(0.1)
    raise SystemExit(f"no worker of {stage}")


@contextmanager
def small_disk(folder: Path, size: int):
    """A tmpfs of so many bytes at a folder; the folder as it is where this process may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=True)


def run_with_faults(table: Path, out: Path, log: Path, count: int, limited: bool) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, "env_vars": ENVIRONMENT})
    nodes = [cluster.add_node(env_vars=ENVIRONMENT) for _ in range(2)]
    options = ("--address", cluster.address, "--workers", "base=2,refine=2", "--attempts", "4")
    try:
        driver = start(table, out, log, *options)
        for index, stage in enumerate(STAGES):
            wait_for(count * (index + 1) // 12, out, driver, log)
            kill_worker(cluster, stage)
        wait_for(count * 5 // 12, out, driver, log)
        cluster.remove_node(nodes[0], allow_graceful=False)
        logger.info("killed a node")
        wait_for(count * 7 // 12, out, driver, log)
        driver.kill()
        driver.wait()
        logger.info("killed the driver, %d outputs there", len(outputs(out)))
        cluster.add_node(env_vars=ENVIRONMENT)
        driver = start(table, out, log, *options)
        if limited:
            wait_for(count * 9 // 12, out, driver, log)
            with suppress(OSError), (out / "filler").open("wb") as filler:
                while True:
                    filler.write(bytes(4096))
                    filler.flush()
            driver.wait(300)
            last = log.read_text().splitlines()[-1]
            logger.info("filled the disk: status %d, %s", driver.returncode, last)
            assert driver.returncode == 2 and "room to write" in last
            (out / "filler").unlink()
            driver = start(table, out, log, *options)
        status = driver.wait(3600)
        logger.info("ended with status %d", status)
        assert status == 1, "three rows cannot be made"
    finally:
        if driver.poll() is None:
            driver.kill()
        cluster.shutdown()


def compare(table: Path, clean: Path, faulty: Path, count: int) -> None:
    wanted, got, lines = outputs(clean), outputs(faulty), manifest(faulty)
    done = Counter(line["name"] for line in lines if line["status"] == "done")
    failed = {line["row"]: line["error"] for line in lines if line["status"] == "failed"}
    retried = Counter(line["attempts"] for line in lines if line["status"] == "done")
    logger.info("outputs: %d without faults, %d with; the same bytes: %s", len(wanted), len(got), wanted == got)
    logger.info("done lines: %d, of different jobs %d; by attempts: %s", done.total(), len(done), dict(retried))
    for row, error in sorted(failed.items()):
        logger.info("failed row %d: %s", row, error)
    differ = [name for name in wanted if wanted[name] != got.get(name)]
    logger.info("different: %s", ", ".join(differ) or "none")
    left = [str(path) for path in faulty.rglob("*.part")]
    logger.info("half-written files: %d", len(left))
    assert len(wanted) == count and wanted == got
    assert done.total() == len(done) == count
    assert {line["row"] for line in manifest(clean) if line["status"] == "failed"} == set(failed) and len(failed) == 3
    assert not left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an empty folder for jobs, outputs and logs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="batch-faults-"))
    folder.mkdir(exist_ok=True)
    table = write_jobs(folder, options.jobs)
    with small_disk(folder / "faulty", 8 * 2**20) as limited:
        run_with_faults(table, folder / "faulty", folder / "faulty.log", options.jobs, limited)
        shutil.copytree(folder / "faulty", folder / "faulty-kept")  # the small disk goes when this ends
        driver = start(table, folder / "clean", folder / "clean.log")
        assert driver.wait(3600) == 1
        logger.info("the run without faults is over")
        compare(table, folder / "clean", folder / "faulty", options.jobs)
    if not limited:
        logger.info("no tmpfs could be mounted: the full disk was left out")
    logger.info("all as promised")


if __name__ == "__main__":
    main()
