"""Set-up: what is asked of pip, on which machine, and what happens after an interruption."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from msm_ray import install

ROOT = Path(__file__).resolve().parent.parent
# What a distribution declares and a CPU machine must not or need not have.
NOT_ON_CPU = {"torchvision", "torchaudio", "torchcodec", "triton"}


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(ROOT / "msm_ray" / "install.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def wheel(folder: Path, version: str) -> Path:
    """A torch with nothing in it, as a file that pip can install."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def index(folder: Path, *versions: str) -> str:
    """A package index with these versions of torch; returns its URL."""
    files = folder / "torch"
    links = [f'<a href="{wheel(files, v).name}">{wheel(files, v).name}</a>' for v in versions]
    (files / "index.html").write_text(
        "<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>"
    )
    return folder.as_uri()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> install.Environment:
    """A new environment with pip and nothing else."""
    environment = install.Environment(tmp_path_factory.mktemp("setup") / "venv")
    environment.create()
    return environment


# ---------------------------------------------------------------------------------------- device


def test_device_asked_for_is_taken_as_it_is() -> None:
    assert install.find_device("cpu") == "cpu"
    assert install.find_device("gpu") == "gpu"


def test_device_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvidiactl").touch()  # a driver without a device
    assert install.find_device("", tmp_path) == "cpu"
    (tmp_path / "nvidia0").touch()
    assert install.find_device("", tmp_path) == "gpu"
    (tmp_path / "nvidia0").unlink()
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n")
    smi.chmod(0o755)
    assert install.find_device("", tmp_path) == "gpu"
    smi.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert install.find_device("", tmp_path) == "cpu"


def test_wrong_device_is_one_line_and_exit_code_2() -> None:
    run = run_script("--device", "tpu")
    assert run.returncode == 2
    assert run.stderr == "set-up: DEVICE=tpu: allowed are cpu and gpu, or nothing\n"
    assert run.stdout == ""


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    run = run_script("--venv", str(tmp_path), "--device", "cpu")
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ----------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("source", ["pip's own configuration", "PyTorch's CPU index"])
def test_cpu_build_of_torch_is_found(
    empty: install.Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """From either place, and with real pip: never the CUDA build that the main index offers."""
    cpu = f"{install.TORCH}+cpu"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index(tmp_path / "main", install.TORCH, "2.99.0"))
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(install, "TORCH_CPU_INDEX", (tmp_path / "nothing").as_uri())
    assert not any(
        empty.pip("install", "-qq", "--no-deps", *attempt, quiet=True)
        for attempt in install.torch_attempts("cpu")
    ), "a CUDA build was taken"
    if source == "pip's own configuration":
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheel(tmp_path / "wheels", cpu).parent))
    else:
        monkeypatch.setattr(install, "TORCH_CPU_INDEX", index(tmp_path / "cpu", cpu))
    taken = [
        empty.pip("install", "-qq", "--no-deps", *attempt, quiet=True)
        for attempt in install.torch_attempts("cpu")
    ]
    assert any(taken)
    assert empty.versions()["torch"] == cpu
    assert empty.pip("uninstall", "-qq", "-y", "torch")


def test_gpu_machine_does_not_take_a_cpu_build(
    empty: install.Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index(tmp_path / "main", install.TORCH))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel(tmp_path, f"{install.TORCH}+cpu").parent))
    (attempt,) = install.torch_attempts("gpu")
    assert empty.pip("install", "-qq", "--no-deps", *attempt)
    assert empty.versions()["torch"] == install.TORCH
    assert empty.pip("uninstall", "-qq", "-y", "torch")


# -------------------------------------------------------------------------------------- the steps


class Recorder(install.Environment):
    """An environment whose pip only notes what it was asked."""

    def __init__(self, path: Path, there: dict[str, str]) -> None:
        super().__init__(path)
        self.there = there
        self.asked: list[list[str]] = []

    def pip(self, *arguments: str, quiet: bool = False) -> bool:
        self.asked.append(list(arguments))
        if arguments[0] == "uninstall":
            self.there = {k: v for k, v in self.there.items() if k not in arguments}
        return True

    def versions(self) -> dict[str, str]:
        return self.there


def test_what_must_not_be_there_goes_first(tmp_path: Path) -> None:
    environment = Recorder(tmp_path, {"vllm": "0.29.0", "torchvision": "0.28.0", "numpy": "2.3.5"})
    install.install(environment, "cpu")
    assert environment.asked[0] == ["uninstall", "-q", "-y", "torchvision", "vllm"]
    installs = environment.asked[1:]
    assert all("--no-deps" in words for words in installs)
    assert [words[-1] for words in installs] == [
        f"torch=={install.TORCH}+cpu",
        str(install.PINS / "cpu.txt"),
        str(ROOT),
    ]


def test_right_torch_is_not_installed_again(tmp_path: Path) -> None:
    environment = Recorder(tmp_path, {"torch": f"{install.TORCH}+cpu"})
    install.install(environment, "cpu")
    assert not any("torch" in words[-1].split("/")[-1].split("=") for words in environment.asked)


def test_second_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(install.Environment, "create", lambda self: self.path.mkdir(exist_ok=True))
    monkeypatch.setattr(install, "install", lambda environment, device: asked.append(device))
    arguments = ["--venv", str(tmp_path / "venv"), "--device", "cpu"]
    assert install.main(arguments) == install.main(arguments) == 0
    assert asked == ["cpu"]
    assert install.main(["--venv", str(tmp_path / "venv"), "--device", "gpu"]) == 0
    assert asked == ["cpu", "gpu"], "another device is another environment"


def test_failed_step_leaves_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(environment: install.Environment, device: str) -> None:
        raise install.SetupError("no network")

    monkeypatch.setattr(install.Environment, "create", lambda self: self.path.mkdir(exist_ok=True))
    monkeypatch.setattr(install, "install", fail)
    assert install.main(["--venv", str(tmp_path / "venv"), "--device", "cpu"]) == 1
    assert list((tmp_path / "venv").iterdir()) == []


def test_cut_off_package_is_installed_again(empty: install.Environment, tmp_path: Path) -> None:
    """pip takes a package without RECORD for installed; the set-up must not."""
    package = wheel(tmp_path, install.TORCH)
    assert empty.pip("install", "-qq", "--no-deps", "--no-index", str(package))
    (record,) = empty.path.glob("lib/python*/site-packages/torch-*.dist-info/RECORD")
    record.unlink()
    empty.create()
    assert "torch" not in empty.versions()
    assert "pip" in empty.versions(), "the environment itself was kept"


# ------------------------------------------------------------------------------------------ pins


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_pins_are_exact_and_agree_with_the_project_file(device: str) -> None:
    text = (install.PINS / f"{device}.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .*)?", line) for line in lines), (
        "no paths, no urls"
    )
    pins = install.read_pins(text)
    assert len(pins) == len(lines)
    assert not set(install.FORBIDDEN[device]) & set(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"], *extras[device]]:
        wanted = Requirement(text)
        if wanted.name == "torch":
            assert wanted.specifier.contains(install.TORCH)
        else:
            assert wanted.specifier.contains(pins[install.normalise(wanted.name)]), text


def test_devices_share_their_versions() -> None:
    """The same experiment on both: what it imports has one version, whatever else CUDA brings."""
    cpu, gpu = (install.read_pins((install.PINS / f"{d}.txt").read_text()) for d in ("cpu", "gpu"))
    different = {name for name in set(cpu) & set(gpu) if cpu[name] != gpu[name]}
    assert different <= {"apache-tvm-ffi", "grpcio-reflection", "protobuf", "setuptools"}


def test_pins_are_complete() -> None:
    """Nothing that a pinned package requires is left to chance."""
    device = install.find_device(os.environ.get("DEVICE", ""))
    pins = install.read_pins((install.PINS / f"{device}.txt").read_text())
    missing = []
    for name in pins:
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform; `msm doctor` tells about one that is really missing
        for text in requires:
            wanted = Requirement(text)
            key = install.normalise(wanted.name)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            if key == "torch" or (device == "cpu" and key in NOT_ON_CPU):
                continue
            if key not in pins or not wanted.specifier.contains(pins[key], prereleases=True):
                missing.append(f"{name} requires {text}, pinned: {pins.get(key)}")
    assert missing == []


def test_package_carries_its_data() -> None:
    """A wheel has every file that lies in the package, not only the modules."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "msm_ray"
    covered = {path for glob in settings["package-data"]["msm_ray"] for path in package.glob(glob)}
    data = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert [str(p.relative_to(ROOT)) for p in data if p not in covered] == []
