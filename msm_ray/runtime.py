"""Ray: connecting, placing stages. The only reader of the environment besides engines.

Nothing in here is part of an artifact's identity: the same experiment gives the same ids on a
laptop and on a fleet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from msm_ray.artifact import Record
from msm_ray.errors import UnusablePlace, UserError
from msm_ray.stage import Stage, run_stage

OnProgress = Callable[[str, float, dict[str, Any]], None]

OBJECT_STORE_BYTES = 256 * 2**20  # stages pass artifacts through the store, not through Ray

STARTS = 3  # of Ray on this machine, before it is given up
RESTARTS = 3  # of a stage whose worker is lost

# Set before Ray starts, so that its workers inherit them.
ENVIRONMENT = {
    "RAY_process_group_cleanup_enabled": "true",  # a killed worker takes its children along
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints a box of the configuration otherwise
}


@contextlib.contextmanager
def cluster(address: str | None = None) -> Iterator[int]:
    """Connect to ``address``, or to the cluster this job was submitted to, or start one here.

    Yields:
        The cluster's CPU count. A cluster that was started here is stopped at the end.

    Raises:
        UserError: nothing answers at ``address``.
    """
    if ray.is_initialized():  # inside a Ray task, or a test's own cluster
        yield _cpus()
        return
    if address and address.startswith(("http://", "https://")):
        raise UserError(
            f"--address {address}: that is a dashboard, which msm submit takes; msm run takes "
            "HOST:6379 or ray://HOST:10001"
        )
    if address:
        _check_answers(address)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    try:
        if address and address != "local":
            ray.init(address=address, **options)
        else:
            # On a small machine Ray warns of workers beyond a few times its cores; the processes
            # of a stage (engine, readers, a trial's driver) hold fractions of one.
            cores = max(os.cpu_count() or 1, 4)
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(cores))
            # Ray ends idle processes above one for each core, actors counted. Engines, their pool
            # and trials alone are as many, and then each stage would begin by importing torch.
            os.environ.setdefault("RAY_num_workers_soft_limit", str(3 * cores))
            _start_here(options)
    except (ConnectionError, ray.exceptions.RaySystemError, ValueError) as error:
        if not address:
            raise
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"--address {address}: no Ray cluster can be used there ({first})"
        ) from error
    try:
        yield _cpus()
    finally:
        ray.shutdown()


def _start_here(options: dict[str, Any]) -> None:
    """Start a cluster on this machine; UnusablePlace where it does not come up in time.

    Ray (2.60) gives its own processes 30 seconds, which a busy machine may need more than once.
    """
    for _ in range(STARTS):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
            return
        except Exception as error:
            if "timed out" not in str(error):  # Ray raises a plain Exception for this
                raise
            late = error
            ray.shutdown()
    raise UnusablePlace(
        f"Ray did not start on this machine, {STARTS} times; it may be busy: run the same command"
        " again"
    ) from late


def _check_answers(address: str) -> None:
    """UserError if nothing listens at [ray://]HOST:PORT: Ray itself would ask for long."""
    place = address.removeprefix("ray://")
    host, _, port = (place if ":" in place or place == address else f"{place}:10001").rpartition(
        ":"
    )
    if "://" in place or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({error}); is it started?"
        ) from error


def _cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 1))


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Where running stages write how far they are; the driver reads it."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[float, dict[str, Any]]] = {}

    def put(self, stage_id: str, fraction: float, facts: dict[str, Any]) -> None:
        """Note a stage's progress."""
        self._rows[stage_id] = (fraction, facts)

    def take(self) -> dict[str, tuple[float, dict[str, Any]]]:
        """All that was noted since the last call."""
        rows, self._rows = self._rows, {}
        return rows


def gpu_note(stages: Sequence[Stage]) -> str | None:
    """What to tell the user of a cluster whose GPUs none of ``stages`` asks for, if it has any."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not gpus or any(s.runtime.get("ray_gpus") or s.runtime.get("use_gpu") for s in stages):
        return None
    return f"{gpus} GPUs are here: this job trains on CPU; a GPU build of vLLM takes one to write"


def _run_remote(stage: Stage, store_url: str, board: Any) -> Record:
    def progress(fraction: float, facts: dict[str, Any]) -> None:
        if board is not None:
            board.put.remote(stage.id, fraction, facts)

    return run_stage(stage, store_url, progress)


def _no_place(cpus: float, gpus: float) -> str:
    """Why a task of so many would wait for ever: no node has them, busy or not; "" if one has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return ""
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
    asked = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    return (
        f"it needs {asked} on one machine (threads, use_gpu), and no machine of the cluster has"
        f" them: at most {most['CPU']:g} CPUs, {most['GPU']:g} GPUs"
    )


class RayLauncher:
    """Runs each stage as a Ray task; see :class:`msm_ray.stage.Launcher`."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        """``on_progress(stage id, fraction, facts)``; None where nobody looks on."""
        self._refs: dict[Future[Record], Any] = {}
        self._stop = threading.Event()
        self._board: Any = None
        self._poller: threading.Thread | None = None
        if on_progress is not None:
            self._board = ProgressBoard.remote()  # type: ignore[attr-defined]
            self._poller = threading.Thread(
                target=self._poll, args=(on_progress,), name="progress", daemon=True
            )
            self._poller.start()

    def submit(self, stage: Stage, store_url: str) -> Future[Record]:
        """Start a stage; the future holds its record or the error that ended it."""
        cpus = stage.runtime.get("ray_cpus", stage.runtime.get("cpus", 1.0))
        gpus = stage.runtime.get("ray_gpus", 0)
        if problem := _no_place(cpus, gpus):
            refused: Future[Record] = Future()
            refused.set_exception(UserError(problem))
            return refused
        # A worker that dies (memory, a lost or preempted node) is started again, and goes on from
        # what its stage keeps; an error of the stage is final.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RESTARTS)(_run_remote)
        # Launched from a trial of a search, a task would be held to the trial's own resources.
        anywhere = PlacementGroupSchedulingStrategy(placement_group=None)
        name = f"{stage.kind} {stage.label}"
        ref = task.options(name=name, scheduling_strategy=anywhere).remote(
            stage, store_url, self._board
        )
        future: Future[Record] = ref.future()
        self._refs[future] = ref
        future.add_done_callback(lambda f: self._refs.pop(f, None))
        return future

    def cancel(self) -> None:
        """Stop everything that runs. What is committed stays."""
        for ref in list(self._refs.values()):
            ray.cancel(ref, force=True)

    def close(self) -> None:
        """Stop reading progress."""
        self._stop.set()
        if self._poller is not None:
            self._poller.join(timeout=2)

    def _poll(self, on_progress: OnProgress) -> None:
        while not self._stop.wait(0.5):
            try:
                rows = ray.get(self._board.take.remote(), timeout=5)
            except ray.exceptions.RayError:
                continue  # progress is a courtesy: the run goes on without it
            for stage_id, (fraction, facts) in rows.items():
                on_progress(stage_id, fraction, facts)
