"""``msm submit`` to a real cluster on this machine that asks for a token."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_cli import JOB

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Submit = Callable[..., subprocess.CompletedProcess[str]]


def free_ports(n: int) -> list[int]:
    """Ports below those that Ray gives to its workers."""
    found: list[int] = []
    while len(found) < n:
        port = 2000 + secrets.randbelow(7000)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """A head node with token authentication: (dashboard address, token file)."""
    folder = Path(tempfile.mkdtemp(prefix="msm"))  # short: Ray's socket paths are limited
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    names = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "ray-client-server-port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    log = folder / "head.log"
    with open(log, "w") as output:
        head = subprocess.Popen(
            [
                Path(sys.executable).parent / "ray",
                *("start", "--head", "--block", "--node-ip-address", "127.0.0.1"),
                *(word for name, port in ports.items() for word in (f"--{name}", str(port))),
                *("--num-cpus", "1", "--object-store-memory", str(100 * 2**20)),
                *("--temp-dir", str(folder / "ray"), "--disable-usage-stats"),
            ],
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{ports['dashboard-port']}", token
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def submit(cluster: tuple[str, Path], tmp_path: Path) -> Submit:
    address, token = cluster
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.py").write_text(JOB)

    def call(
        *words: str, mode: str = "token", path: Path = token
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "msm_ray.cli", "submit", "job.py", "--address", address, *words],
            cwd=work,
            env={**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(path)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


def test_a_job_runs_on_the_cluster_and_its_output_and_exit_code_come_back(
    submit: Submit, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = submit("--store", str(store), "--set", "name=far")
    assert done.returncode == 0, done.stderr
    assert "submitted raysubmit_" in done.stdout
    assert "runs/far/report.html" in done.stdout
    assert (store / "runs/far/report.json").exists()
    wrong = submit("--store", str(store), "--set", "outcome=user")
    assert wrong.returncode == 2
    assert "msm: the spec is empty" in wrong.stdout
    assert "FAILED, exit code 2" in wrong.stderr


def test_without_the_right_token_it_is_one_line_and_2(submit: Submit, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    for done, words in (
        (submit(mode="disabled"), "asks for a token and none was sent"),
        (submit(path=wrong), "does not accept this token"),
        (submit(path=tmp_path / "none"), "cannot be opened"),
    ):
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
