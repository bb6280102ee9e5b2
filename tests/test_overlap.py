"""Training while the corpus is being written gives what training afterwards gives, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from test_stage import Told

from msm_ray.artifact import Record, Store
from msm_ray.errors import UserError
from msm_ray.experiment import Experiment
from msm_ray.graph import build
from msm_ray.llm.endpoint import Endpoint
from msm_ray.llm.model import Model
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import LocalLauncher, Stage, run_dag

ROOT = Path(__file__).parent.parent
SMALL = (
    "midtrain.order=windowed",
    "corpus.writer=scripted",
    "corpus.documents=400",
    "midtrain.tokens=24000",
    "midtrain.spec_share=0.4",
    "midtrain.chat_share=0.1",
)
TIMED = ("training.json", "metrics.jsonl", "tensorboard/")  # they hold seconds
MADE = ("documents", "blocks", "midtrain")


class Order(Told):
    """Remembers what began and ended, in the order in which it did."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def started(self, stage: Stage) -> None:
        super().started(stage)
        self.events.append(f"{stage.kind} begins")

    def finished(self, stage: Stage, record: Record) -> None:
        super().finished(stage, record)
        self.events.append(f"{stage.kind} ends")


def small(*settings: str) -> Experiment:
    job = load_job(ROOT / "jobs" / "cheese_micro.py")
    assert isinstance(job, Experiment)
    job = dataclasses.replace(job, bases=job.bases[:1], seeds=(0,), specs=job.specs[:1])
    return apply_settings(job, [*SMALL, *settings])


def midtraining(exp: Experiment) -> Stage:
    (stage,) = {s.id: s for *_, name, s in build(exp).trainings if name == "midtrain"}.values()
    return stage


def make(exp: Experiment, store: Store, on_ray: bool = False) -> tuple[Stage, Order]:
    told = Order()
    stage = midtraining(exp)
    if not on_ray:
        run_dag([stage], store, LocalLauncher(told.progress), told, cpus=2)
        return stage, told
    from msm_ray.runtime import RayLauncher

    launcher = RayLauncher(told.progress)
    try:
        run_dag([stage], store, launcher, told, cpus=2)
    finally:
        launcher.close()
    return stage, told


def same(one: Store, other: Store, stage: Stage) -> None:
    """The artifacts of both stores are the same files, and say the same of themselves."""
    blocks = stage.inputs["blocks"]
    for made in (blocks.inputs["spec"], blocks, stage):
        files = [
            {f.path: f.sha256 for f in record.files if not f.path.startswith(TIMED)}
            for store in (one, other)
            if (record := store.get(made.id)) is not None
        ]
        assert len(files) == 2
        assert files[0] == files[1], made.name
    facts = [store.get(blocks.id) for store in (one, other)]
    assert facts[0] is not None
    assert facts[1] is not None
    assert facts[0].facts == facts[1].facts


def test_overlapped_is_one_after_the_other(tmp_path: Path) -> None:
    check(tmp_path, on_ray=False)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_so_it_is_with_an_engine_that_writes(ray_cluster: None, tmp_path: Path) -> None:
    check(tmp_path, "corpus.writer=vllm", on_ray=True)


def check(tmp_path: Path, *settings: str, on_ray: bool) -> None:
    after, overlapped = Store(tmp_path / "after"), Store(tmp_path / "overlapped")
    stage, told = make(small(*settings), after, on_ray)
    assert told.events[-4:] == ["blocks begins", "blocks ends", "midtrain begins", "midtrain ends"]
    other, told_overlapped = make(
        small(*settings, "midtrain_compute.overlap=true"), overlapped, on_ray
    )
    assert other.id == stage.id
    ends = [event for event in told_overlapped.events if event.split()[0] in MADE]
    assert ends == [*(f"{kind} begins" for kind in MADE), *(f"{kind} ends" for kind in MADE)]
    same(after, overlapped, stage)
    assert list((tmp_path / "overlapped" / "work").iterdir()) == []


def test_overlap_asks_for_what_it_needs() -> None:
    with pytest.raises(UserError, match="has to be 'windowed'"):
        small("midtrain_compute.overlap=true", "midtrain.order=shuffled")
    with pytest.raises(UserError, match=r"aft_compute\.overlap is True"):
        small("aft_compute.overlap=true")
    with pytest.raises(UserError, match=r"midtrain\.order is 'random'"):
        dataclasses.replace(small().midtrain, order="random")  # type: ignore[arg-type]
    model = Model(Endpoint("http://localhost:1/v1", "m", api="completions", key_env=""))
    asked = dataclasses.replace(small().corpus, writer="http", model=model)
    with pytest.raises(UserError, match="writer 'http'"):
        dataclasses.replace(small("midtrain_compute.overlap=true"), corpus=asked)
