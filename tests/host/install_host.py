"""Installs what ComfyUI needs into the running environment, keeping the torch that is there.

    python tests/host/install_host.py COMFYUI_PATH

Does nothing, in seconds, where all of it is installed. torchvision and torchaudio are chosen to fit torch; where their
compiled parts do not load (CUDA builds beside a CPU torch), `cpu_torch_shim` is copied into site-packages.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

SHIM = Path(__file__).parent / "cpu_torch_shim"


def requirements(host: Path) -> list[Requirement]:
    """The lines of the host's requirements.txt.

    Raises:
        SystemExit: if `host` is no ComfyUI.
    """
    file = host / "requirements.txt"
    if not file.is_file() or not (host / "main.py").is_file():
        raise SystemExit(f"{host}: expected a ComfyUI folder (main.py, requirements.txt). Give its path.")
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def unmet(needed: list[Requirement]) -> list[str]:
    """Those of `needed` that are absent or have another version than asked for."""

    def is_met(requirement: Requirement) -> bool:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        return requirement.specifier.contains(version, prereleases=True)

    return [str(requirement) for requirement in needed if not is_met(requirement)]


def import_error() -> str:
    """What goes wrong when torchvision and torchaudio are imported in a new interpreter; empty if nothing."""
    command = [sys.executable, "-c", "import torchvision, torchaudio"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def main(host: Path) -> None:
    missing = unmet(requirements(host))
    if missing:
        try:
            torch_version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit("torch is not installed. Install the build for this machine first.") from None
        with tempfile.TemporaryDirectory() as folder:
            constraint = Path(folder, "constraint.txt")
            constraint.write_text(f"torch=={torch_version}\n")
            pip = [sys.executable, "-m", "pip", "install", "--constraint", str(constraint), *missing]
            subprocess.run(pip, check=True)
    if import_error():
        for file in SHIM.glob("host_cpu_torch.*"):
            shutil.copy(file, sysconfig.get_path("purelib"))
        if error := import_error():
            raise SystemExit(f"torchvision or torchaudio cannot be imported beside this torch: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).expanduser())
