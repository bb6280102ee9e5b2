"""A training in parts leaves what it leaves in one: the same bits, the same record, whole facts.

On several ranks: test_parity.py.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msm_ray.data.blocks import BlockReader
from msm_ray.errors import UserError
from msm_ray.manifest import file_sha256
from msm_ray.stage import StageContext
from msm_ray.train.checkpoint import committed
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime
from msm_ray.train.model import init_model, save_model
from msm_ray.train.segment import Budget, Segment, plan_budgets, trunk_config
from msm_ray.train.stages import train, train_trunk
from msm_ray.train.worker import TrainJob, run_worker

BUDGETS = (40 * 32, 72 * 32, 101 * 32)  # of 105 blocks; the last step of the last is not full
LORA = Lora(4, 8, ("q_proj", "down_proj"))


class Killed(Exception):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, tokenizer_dir: Path) -> Path:
    from .conftest import ARCH

    model, out = init_model(ARCH, tokenizer, 0), tmp_path_factory.mktemp("base")
    save_model(
        model.state_dict(),
        model.config,
        tokenizer_dir,
        out,
        architecture=type(model).__name__,
        generation_config=model.generation_config,
        save_dtype="fp32",
    )
    return out


@pytest.fixture
def wsd(config: TrainConfig) -> TrainConfig:
    return replace(config, schedule="wsd")


Make = Callable[..., TrainJob]


@pytest.fixture
def make(tmp_path: Path, base: Path, blocks_dir: Path) -> Make:
    """(name, config, segment, the trunk's job, whether it is one) -> a job in its own folder."""

    def job(
        name: str,
        config: TrainConfig,
        segment: Segment,
        trunk: TrainJob | None = None,
        keep_state: bool = False,
        **runtime: Any,
    ) -> TrainJob:
        (tmp_path / name).mkdir(exist_ok=True)
        return TrainJob(
            config=trunk_config(config) if keep_state else config,
            runtime=TrainRuntime(**{"checkpoint_steps": 2, **runtime}),
            blocks=str(blocks_dir),
            tokenizer=str(base),
            out=str(tmp_path / name),
            work=str(tmp_path / f"{name}-work"),
            model=str(base),
            segment=segment,
            trunk=trunk.out if trunk else None,
            keep_state=keep_state,
        )

    return job


def path_jobs(make: Make, config: TrainConfig, plan: tuple[Budget, ...], **runtime: Any) -> Any:
    """Jobs of the trunks, of the branches, and of runs of their own over the same blocks."""
    trunks: list[TrainJob] = []
    branches, alone = [], []
    for i, budget in enumerate(plan):
        before = trunks[-1] if trunks else None
        trunks.append(make(f"trunk{i}", config, budget.trunk, before, True, **runtime))
        branches.append(make(f"branch{i}", config, budget.branch, trunks[-1], **runtime))
        whole = replace(budget.branch, start=0)
        alone.append(make(f"alone{i}", config, whole, **runtime))
    return trunks, branches, alone


def weights(job: TrainJob) -> str:
    name = "adapter_model" if job.config.lora else "model"
    return file_sha256(Path(job.out) / f"{name}.safetensors")


def record(job: TrainJob) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((Path(job.out) / "training.json").read_text())
    return values


OF_PATH = ("tokens", "steps", "curve", "loss_first", "loss_last")
SAME = ("loss", "learning_rate", "grad_norm", "tokens", "loss_tokens", "steps")


def test_a_branch_is_the_run_of_its_budget(make: Make, wsd: TrainConfig) -> None:
    trunks, branches, alone = path_jobs(make, wsd, plan_budgets(BUDGETS, 32, wsd))
    facts = [run_worker(job) for job in (*trunks, *branches)]
    own = [run_worker(job) for job in alone]
    for branch, run in zip(branches, alone, strict=True):
        assert weights(branch) == weights(run)
        assert {k: record(branch)[k] for k in SAME} == {k: record(run)[k] for k in SAME}
    assert len({weights(branch) for branch in branches}) == 3
    for mine, whole in zip(facts[3:], own, strict=True):
        assert {k: mine[k] for k in OF_PATH} == {k: whole[k] for k in OF_PATH}
        assert whole["tokens_new"] == whole["tokens"]
        assert mine["read"] == whole["read"] == {"pretraining": whole["tokens"]}
    # Every step that was taken counts once: the trunk's, and each decay's.
    assert [f["steps_new"] for f in facts] == [4, 3, 3, 1, 2, 3]
    assert sum(f["tokens_new"] for f in facts[:3]) == facts[2]["tokens"]
    for branched, trunk in zip(facts[3:], facts[:3], strict=True):
        assert branched["tokens_new"] == branched["tokens"] - trunk["tokens"]
        seconds = branched["train_seconds"] - trunk["train_seconds"]
        assert branched["train_seconds_new"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    "what",
    [{"precision": "bf16", "freeze": ("embeddings",)}, {"lora": LORA}],
    ids=["bf16-frozen", "adapter"],
)
def test_so_it_is_of_what_is_trained_in_part(
    make: Make, wsd: TrainConfig, what: dict[str, Any]
) -> None:
    config = replace(wsd, **what)
    trunks, branches, alone = path_jobs(make, config, plan_budgets(BUDGETS[1:], 32, config))
    for job in (*trunks, branches[-1], alone[-1]):
        run_worker(job)
    assert weights(branches[-1]) == weights(alone[-1])
    assert record(branches[-1])["loss"] == record(alone[-1])["loss"]


def kill_at(step: int) -> Callable[..., None]:
    def on_step(now: int, steps: int, facts: Any) -> None:
        if now == step:
            raise Killed

    return on_step


def wait_for(folder: Path) -> None:
    """Until the checkpoint that was being written is there: here the process has not ended."""
    until = time.monotonic() + 60
    while not folder.is_dir():
        assert time.monotonic() < until, folder
        time.sleep(0.01)


def test_killed_parts_go_on_from_their_own_checkpoints(make: Make, wsd: TrainConfig) -> None:
    (budget,) = plan_budgets(BUDGETS[-1:], 32, wsd)
    (trunk,), (branch,), (alone,) = path_jobs(make, wsd, (budget,))
    run_worker(alone)
    for job, step in ((trunk, 7), (branch, 13)):
        with pytest.raises(Killed):
            run_worker(job, kill_at(step))
        wait_for(Path(job.work) / "checkpoints" / f"step-{step - 1:08d}")
        facts = run_worker(job)
    assert weights(branch) == weights(alone)
    assert record(branch)["loss"] == record(alone)["loss"]
    lines = (Path(branch.out) / "metrics.jsonl").read_text().splitlines()
    events = [v["event"] for v in map(json.loads, lines) if "event" in v]
    assert events[:2] == ["branched", "start"]
    assert "resumed" in events
    assert facts["steps_new"] == 3  # also after a restart: those of the branch


def test_a_trunk_that_is_not_fit_is_refused_by_name(
    make: Make, wsd: TrainConfig, tmp_path: Path
) -> None:
    first, second, _ = plan_budgets(BUDGETS, 32, wsd)
    trunk = make("trunk", wsd, first.trunk, None, True)
    run_worker(trunk)
    (state,) = committed(Path(trunk.out))
    assert state.name == "step-00000004"

    def broken(change: Callable[[Path], None]) -> TrainJob:
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        shutil.copytree(trunk.out, tmp_path / "broken")
        change(tmp_path / "broken" / state.name)
        return replace(trunk, out=str(tmp_path / "broken"))

    def flip(folder: Path) -> None:
        path = max(folder.rglob("*.distcp"), key=lambda p: p.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))

    for number, (change, told) in enumerate(
        (
            (flip, "state of the trunk .*step-00000004 is damaged: .* has another sha256"),
            (lambda folder: (folder / "record.json").unlink(), "is damaged: record.json"),
            (shutil.rmtree, "broken has no state of a trunk"),
        )
    ):
        with pytest.raises(UserError, match=told):
            run_worker(make(f"no{number}", wsd, first.branch, broken(change)))
    for name, config, segment, told in (
        ("other", replace(wsd, seed=1), first.branch, r"another run \(differs in config\); make"),
        ("later", wsd, second.branch, "to go on after step 7, .* ends after step 4"),
    ):
        with pytest.raises(UserError, match=told):
            run_worker(make(name, config, segment, trunk))
    with pytest.raises(UserError, match="to go on after step 4, .* ends after step 0"):
        run_worker(make("none", wsd, first.branch))
    # How a branch decays is its own.
    run_worker(make("fast", replace(wsd, final_lr_fraction=0.0), first.branch, trunk))


def test_a_mixture_that_is_much_too_short_is_refused(
    make: Make, wsd: TrainConfig, blocks_dir: Path
) -> None:
    """Up to a batch of blocks are read again; beyond that something is wrong."""
    there = len(BlockReader(blocks_dir))
    (near,) = plan_budgets(((there + 8) * 32,), 32, wsd)
    facts = run_worker(make("near", wsd, replace(near.branch, start=0)))
    assert facts["tokens"] > BlockReader(blocks_dir).tokens.sum()
    (far,) = plan_budgets(((there + 9) * 32,), 32, wsd)
    told = f"a budget of {there + 9} blocks, and the mixture came out as {there}; ask for"
    with pytest.raises(UserError, match=told):
        run_worker(make("far", wsd, replace(far.branch, start=0)))


def test_the_stages_leave_a_state_and_a_model(
    tmp_path: Path, base: Path, blocks_dir: Path, wsd: TrainConfig
) -> None:
    (budget,) = plan_budgets(BUDGETS[:1], 32, wsd)
    inputs = {"model": base, "blocks": blocks_dir}
    seen: list[float] = []

    def context(name: str, config: TrainConfig, part: Segment) -> StageContext:
        out = tmp_path / name
        out.mkdir()
        segment = {"start": part.start, "blocks": part.blocks, "warmup": part.warmup}
        return StageContext(
            config={**config.to_dict(), "segment": segment},
            inputs=dict(inputs),
            out=out,
            work=tmp_path / f"{name}-work",
            runtime={"cpus": 1.0, "threads": 1},
            progress=lambda fraction, facts: seen.append(fraction),
        )

    trunk = context("trunk", trunk_config(wsd), budget.trunk)
    facts = train_trunk(trunk)
    assert sorted(path.name for path in trunk.out.iterdir()) == [
        "metrics.jsonl",
        "step-00000004",
        "tensorboard",
        "training.json",
    ]
    assert facts["steps"] == facts["steps_new"] == 4
    inputs["trunk"] = trunk.out
    seen.clear()
    branch = context("branch", wsd, budget.branch)
    facts = train(branch)
    assert (facts["steps"], facts["steps_new"]) == (5, 1)
    assert seen == [1.0]  # of this stage, not of the path
    assert (branch.out / "model.safetensors").is_file()
