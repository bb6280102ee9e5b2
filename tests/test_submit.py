"""msm submit to a real head with token authentication, started by cluster/local.sh."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB = '''
"""A job as small as it gets: it asks the cluster it runs on for one task."""
import dataclasses, json, os, pathlib
from msm_ray.settings import RunResult

@dataclasses.dataclass(frozen=True)
class Tiny:
    number: int = 1

    def run(self, store_url, address=None):
        import ray
        ray.init(address=address)
        squared = ray.get(ray.remote(num_cpus=0.1)(lambda n: n * n).remote(self.number))
        pathlib.Path(store_url).mkdir(parents=True, exist_ok=True)
        path = pathlib.Path(store_url) / "report.json"
        path.write_text(json.dumps({"squared": squared, "pid": os.getpid()}))
        complete = self.number != 13
        return RunResult({"cells": {"present": 0, "expected": 1}}, str(path), "-", complete)

    def preview(self, store_url):
        return {}

def experiment():
    return Tiny()
'''


@dataclass
class Head:
    """A running head: its address, its token's file, and a folder with a job beside it."""

    address: str
    token: Path
    folder: Path
    printed: str

    def submit(self, *arguments: str, **auth: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | auth
        command = [sys.executable, "-m", "msm_ray.cli", "submit", "tiny.py"]
        return subprocess.run(
            [*command, "--address", self.address, "--python", sys.executable, *arguments],
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def with_token(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.submit(*arguments, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(self.token))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def session_of(pid: int) -> list[int]:
    """Processes of one session, zombies aside."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-s", str(pid)], capture_output=True, text=True, check=False
    )
    rows = (line.split() for line in listed.stdout.splitlines())
    return [int(number) for number, state in rows if not state.startswith("Z")]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Not pytest's folder: the path of a Unix socket has to be shorter than 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="msm-"))
    port, dashboard, client, agent = free_ports(4)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "MSM_CLUSTER_DIR": str(folder / "head"),
        "MSM_PORT": str(port),
        "MSM_DASHBOARD_PORT": str(dashboard),
        "MSM_RAY": str(Path(sys.executable).parent / "ray"),
        "PYTHONPATH": str(ROOT),
    }
    script = str(ROOT / "cluster" / "local.sh")
    options = [
        "--num-cpus=1",
        f"--object-store-memory={100 * 2**20}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
    ]
    (folder / "work").mkdir()
    (folder / "work" / "tiny.py").write_text(JOB)
    try:
        started = subprocess.run(
            [script, "start", *options],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stderr
        pid = int((folder / "head" / "pid").read_text())
        again = subprocess.run([script, "start"], env=environment, capture_output=True, check=False)
        assert again.returncode == 2, "a second start in one folder is refused"
        yield Head(
            f"http://127.0.0.1:{dashboard}",
            folder / "head" / "token",
            folder / "work",
            started.stdout,
        )
        subprocess.run([script, "stop"], env=environment, check=True)
        assert session_of(pid) == [], "stop ends what start began"
    finally:
        subprocess.run([script, "stop"], env=environment, capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_token_is_private_and_the_script_says_what_to_do(head: Head) -> None:
    assert head.token.stat().st_mode & 0o777 == 0o600
    assert len(head.token.read_text()) == 64
    assert f"RAY_AUTH_TOKEN_PATH={head.token}" in head.printed
    assert f"--address {head.address}" in head.printed


def test_without_the_token_nothing_runs(head: Head) -> None:
    for auth in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        run = head.submit("--store", str(head.folder / "closed"), **auth)
        assert run.returncode == 2, run.stdout + run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
        assert "RAY_AUTH_TOKEN_PATH" in run.stderr
    assert not (head.folder / "closed").exists()


def test_job_runs_on_the_cluster(head: Head) -> None:
    store = head.folder / "store"
    run = head.with_token("--store", str(store), "--set", "number=7")
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"squared": 49' in (store / "report.json").read_text()
    assert "report:" in run.stdout, "the job's own output is shown"


def test_exit_code_is_that_of_the_run(head: Head) -> None:
    wrong = head.with_token("--set", "numbr=7")
    assert wrong.returncode == 2
    assert "submitted" not in wrong.stdout, "wrong input is told before anything is sent"
    incomplete = head.with_token("--store", str(head.folder / "store"), "--set", "number=13")
    assert incomplete.returncode == 1
