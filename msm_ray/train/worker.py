"""One training run as Ray Train starts it: in this process, or in a group of workers."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from msm_ray.data.blocks import BlockReader
from msm_ray.data.stream import follow_blocks
from msm_ray.errors import UserError
from msm_ray.streams import StreamStopped
from msm_ray.terminal import sigint_kept
from msm_ray.train.backends import make_backend
from msm_ray.train.backends.base import Backend
from msm_ray.train.checkpoint import Checkpoints, Plan
from msm_ray.train.config import TrainConfig, TrainRuntime, check_batch
from msm_ray.train.flops import attended_tokens, device_peak, flops_per_token
from msm_ray.train.leave import Look, facts_of, leave_model, leave_state, write_training
from msm_ray.train.loop import Extras, OnStep, order_of, train
from msm_ray.train.metrics import Metrics, Pace
from msm_ray.train.model import dtype_of
from msm_ray.train.ranks import Ranks
from msm_ray.train.segment import Segment
from msm_ray.train.sources import SourceLoss, tokens_by_component
from msm_ray.train.start import start
from msm_ray.train.track import check_tracker, make_tracker
from msm_ray.train.watch import TrainingDiverged

FINAL = (UserError, TrainingDiverged, StreamStopped)  # what no repetition would change
Progress = Callable[[float, dict[str, Any]], None]
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
MOST_WAITING = 30 * 24 * 3600  # seconds


@dataclass(frozen=True)
class TrainJob:
    """A run, as plain values that travel to the workers.

    Starts from the folder ``model``, or with ``model=None`` afresh from ``arch`` (keywords of
    ``LlamaConfig``). ``tokenizer`` is the folder whose tokenizer files go into ``out``. Where
    ``model`` is an adapter, ``base`` is the folder of the model below it (None: where that lay when
    the adapter was trained). Checkpoints and metrics of the run lie in ``work``, and a run that
    finds checkpoints there goes on from them. ``live``: ``blocks`` is the stream of a stage that
    still runs. With several workers, all of them have to see these paths.

    ``segment``: the part of a training that this is (None: all of it); ``trunk``: the folder of the
    trunk that it goes on from. With ``keep_state`` it is a trunk itself: ``out`` gets the training
    state instead of a model.
    """

    config: TrainConfig
    runtime: TrainRuntime
    blocks: str
    tokenizer: str
    out: str
    work: str
    model: str | None = None
    base: str | None = None
    arch: Mapping[str, Any] | None = None
    save_dtype: str = "fp32"
    live: bool = False
    segment: Segment | None = None
    trunk: str | None = None
    keep_state: bool = False

    def to_json(self) -> str:
        """For the trip to another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainJob:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        values["config"] = TrainConfig.from_dict(values["config"])
        values["runtime"] = TrainRuntime(**values["runtime"])
        if values["segment"] is not None:
            values["segment"] = Segment(**values["segment"])
        return cls(**values)

    def fraction(self, step: int, steps: int) -> float:
        """How much of this run is done after ``step`` of the path's ``steps``."""
        first = self.segment.start if self.segment else 0
        return (step - first) / (steps - first)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Compute with this many threads, and without denormals; both are put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # Adam's second moments make them, and they are slow on CPUs
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # NumPy warns of it whenever it looks at its types
        torch.set_num_threads(before)


def run_worker(job: TrainJob, on_step: OnStep | None = None) -> dict[str, Any]:
    """Train on this rank; rank 0 writes the folder. Returns the run's facts."""
    with torch_threads(job.runtime.threads):
        dtype_of(job.save_dtype)  # wrong before the run, not after it
        begun = start(job.config, job.runtime, job.model, job.base, job.arch, job.tokenizer)
        model = begun.model
        look = Look(type(model).__name__, model.config, model.generation_config)
        reader = (follow_blocks if job.live else BlockReader)(Path(job.blocks))
        _check_fit(reader, model.config)
        torch.manual_seed(job.config.seed)
        backend = make_backend(model, job.config, job.runtime, begun.weights)
        extras = _extras(job, reader, model, backend)
        try:
            history = train(backend, reader, job.config, on_step, extras, job.segment)
        finally:
            if extras.metrics:
                extras.metrics.close()
        out = Path(job.out)
        if job.keep_state:
            assert extras.checkpoints is not None
            leave_state(job, backend, history, extras.checkpoints)
        elif (state := backend.full_state()) is not None:
            leave_model(job, state, begun, look)
        facts = facts_of(history)
        if extras.metrics:
            write_training(job, history, out)
            extras.metrics.copy_to(out)
            if job.segment and not job.keep_state:
                order = order_of(reader, job.config).take(0, job.segment.blocks)
                facts["read"] = tokens_by_component(reader, order)
        return facts


def _extras(job: TrainJob, reader: BlockReader, model: Any, backend: Backend) -> Extras:
    """Checkpoints, metrics and the rest around the steps of this rank."""
    ranks, work, runtime = Ranks(), Path(job.work), job.runtime
    metrics, pace, problem = None, Pace(), ""
    if ranks.first:
        metrics = Metrics(work / "metrics")
        problem = _start_tracker(metrics, job)
    if problem := ranks.from_first(problem):  # by all of them: none waits for one that has left
        raise UserError(problem)
    if metrics:
        device = torch.device("cuda" if runtime.use_gpu else "cpu")
        peak = device_peak(device, job.config.precision) * ranks.world_size
        pace = Pace(flops_per_token(model, attended_tokens(reader)), peak)
    identity = {"config": job.config.to_dict(), "blocks": reader.manifest_sha256}
    if job.segment is not None:
        identity["segment"] = asdict(job.segment)
    checkpoints = Checkpoints(
        work / "checkpoints",
        identity,
        Plan(runtime.checkpoint_seconds, runtime.checkpoint_steps),
        ranks,
        metrics.event if metrics else None,
        Path(job.trunk) if job.trunk else None,
    )
    return Extras(checkpoints, metrics, SourceLoss(reader, ranks), pace, runtime.spike_nats, work)


def _start_tracker(metrics: Metrics, job: TrainJob) -> str:
    """Rank 0: start the tracker that the job asks for; what speaks against it, "" if nothing."""

    def failed(what: str) -> None:
        metrics.event("tracker failed", what=what)

    config = job.config.to_dict()
    try:
        metrics.tracker = make_tracker(job.runtime.track, metrics.folder, config, failed)
    except UserError as error:
        return str(error)
    return ""


def _check_fit(reader: BlockReader, config: Any) -> None:
    if reader.block_tokens > config.max_position_embeddings:
        raise UserError(
            f"training: blocks have {reader.block_tokens} tokens, the model's context is "
            f"{config.max_position_embeddings}"
        )


def _ray_worker(values: dict[str, str]) -> dict[str, Any]:
    """The function that Ray Train runs on each of several workers."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    progress, job = Path(values["progress"]), TrainJob.from_json(values["job"])

    def write(step: int, steps: int, facts: dict[str, float]) -> None:
        # A small file replaced in place: the starting process polls it for its progress bar.
        part = progress.with_suffix(".part")
        done = job.fraction(step, steps)
        part.write_text(json.dumps([done, {"step": step, "steps": steps, **facts}]))
        part.replace(progress)

    try:
        return run_worker(job, write if rank == 0 else None)
    except FINAL as error:
        # The same on every rank and in every repetition: handed back, not raised, so that Ray
        # Train does not start the workers again for it.
        return {"error": str(error), "type": [isinstance(error, t) for t in FINAL].index(True)}


def run(job: TrainJob, progress: Progress) -> dict[str, Any]:
    """Run the job through Ray Train: in this process for one worker, else on a worker group.

    One worker needs no cluster and starts at once. Several need a running Ray; when one of them
    dies, Ray Train starts all of them again, ``runtime.max_failures`` times. They go on from the
    newest whole checkpoint, as does a run that is started again with the same ``job.work``.

    Args:
        job: what to run.
        progress: called with the fraction done and facts, from this process.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    check_batch(job.config, job.runtime)
    check_tracker(job.runtime.track)
    check_devices(job.runtime)
    work = Path(job.work)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    work.mkdir(parents=True, exist_ok=True)
    runtime = job.runtime
    run_config = RunConfig(
        name="train",
        storage_path=str(work.absolute()),
        failure_config=FailureConfig(max_failures=runtime.max_failures, controller_failure_limit=0),
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    if runtime.backend == "single":

        def in_process() -> dict[str, Any]:
            return run_worker(
                job,
                lambda step, steps, facts: progress(
                    job.fraction(step, steps), {"step": step, "steps": steps, **facts}
                ),
            )

        trainer = TorchTrainer(
            in_process, scaling_config=ScalingConfig(num_workers=0), run_config=run_config
        )
        return _result(trainer.fit())
    # Ray Train gives up on workers that have no place after a minute. Where trainings take turns on
    # the same GPUs, one waits for another; that there are enough has just been checked.
    os.environ[START_TIMEOUT] = str(MOST_WAITING)
    progress_file = work.absolute() / "progress.json"
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": job.to_json(), "progress": str(progress_file)},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if runtime.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=runtime.num_workers,
            use_gpu=runtime.use_gpu,
            resources_per_worker={"CPU": runtime.cpus_of_worker},
        ),
        run_config=replace(run_config, worker_runtime_env=_worker_environment(runtime)),
    )
    with _polling(progress_file, progress), sigint_kept():
        return _result(trainer.fit())


def check_devices(runtime: TrainRuntime) -> None:
    """``UserError`` where the run could only wait for devices that nothing here has.

    Of a cluster, what it has now counts: nodes that an autoscaler might add do not.
    """
    if runtime.backend == "single":
        if runtime.use_gpu and not torch.cuda.is_available():
            raise UserError("training runtime: use_gpu is true, and torch finds no GPU here")
        return
    import ray

    if not ray.is_initialized():  # Ray Train starts a cluster on this machine
        return
    there = ray.cluster_resources()
    workers = runtime.num_workers
    needs = {"CPU": workers * runtime.cpus_of_worker, "GPU": float(workers * runtime.use_gpu)}
    for name, need in needs.items():
        if need > there.get(name, 0.0):
            raise UserError(
                f"training runtime: {workers} workers need {need:g} {name}s, the cluster has "
                f"{there.get(name, 0.0):g}; use fewer workers or threads"
            )


def _worker_environment(runtime: TrainRuntime) -> dict[str, Any]:
    """Environment of the workers: threads of OpenMP, and the device that DeepSpeed is to see."""
    variables = {"OMP_NUM_THREADS": str(runtime.threads)}
    if runtime.backend == "deepspeed":
        variables["PYTHONWARNINGS"] = "ignore::FutureWarning"  # torch's, about DeepSpeed's calls
    if not runtime.use_gpu:
        variables["DS_ACCELERATOR"] = "cpu"
    return {"env_vars": variables}


def _result(result: Any) -> dict[str, Any]:
    assert isinstance(result.return_value, dict), "the training function returned nothing"
    facts = result.return_value
    if "error" in facts:
        raise FINAL[facts["type"]](facts["error"])
    return facts


@contextmanager
def _polling(path: Path, progress: Progress) -> Iterator[None]:
    """Pass on what rank 0 writes into ``path``, once a second."""
    path.unlink(missing_ok=True)
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(1.0):
            if path.is_file():
                fraction, facts = json.loads(path.read_text())
                progress(fraction, facts)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
