"""Checkpoints in one process: what is written, what is refused, what counts as damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from msm_ray.data.blocks import BlockReader
from msm_ray.errors import UserError
from msm_ray.manifest import file_sha256
from msm_ray.train.backends import make_backend
from msm_ray.train.checkpoint import Checkpoints, Plan, committed, step_of
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime
from msm_ray.train.history import History
from msm_ray.train.loop import Extras, train
from msm_ray.train.lora import add_adapter, first_weights, put
from msm_ray.train.model import init_model
from msm_ray.train.ranks import Ranks

Events = list[tuple[str, dict[str, Any]]]
IDENTITY = {"config": {"seed": 0}, "blocks": "abc"}


class Killed(Exception):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture
def start(tokenizer: Any, arch: dict[str, Any], blocks_dir: Path, config: TrainConfig) -> Any:
    """A run over all blocks: (history, weights, events); ``stop`` ends it after that step."""

    def run(
        folder: Path,
        *,
        stop: int | None = None,
        identity: dict[str, Any] = IDENTITY,
        plan: Plan = Plan(steps=4),  # noqa: B008  immutable
        config: TrainConfig = config,
    ) -> tuple[History, dict[str, torch.Tensor], Events]:
        events: Events = []
        model = init_model(arch, tokenizer, 0)
        if config.lora is not None:
            add_adapter(model, config.lora)
            put(model, first_weights(model, 0, None))
        backend = make_backend(model, config, TrainRuntime())
        checkpoints = Checkpoints(
            folder, identity, plan, Ranks(), lambda name, **values: events.append((name, values))
        )

        def on_step(step: int, steps: int, facts: dict[str, float]) -> None:
            if step == stop:
                checkpoints.close()
                raise Killed

        history = train(
            backend, BlockReader(blocks_dir), config, on_step, Extras(checkpoints=checkpoints)
        )
        state = backend.full_state()
        assert state is not None
        return history, {name: value.clone() for name, value in state.items()}, events

    return run


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


@pytest.mark.parametrize(
    "what",
    [{}, {"freeze": ("embeddings",)}, {"lora": Lora(4, 8, ("q_proj", "down_proj"))}],
    ids=["all", "frozen", "adapter"],
)
def test_a_run_that_goes_on_is_the_run_it_was(
    tmp_path: Path, start: Any, config: TrainConfig, what: dict[str, Any]
) -> None:
    """At each place between two checkpoints, and twice in one run."""
    run = replace(config, **what)
    whole, weights, _ = start(tmp_path / "whole", config=run)
    assert whole.steps == 14
    for stop in (5, 8, 11):
        folder = tmp_path / str(stop)
        with pytest.raises(Killed):
            start(folder, stop=stop, config=run)
        with pytest.raises(Killed):
            start(folder, stop=13, config=run)
        history, again, events = start(folder, config=run)
        assert events[0] == ("resumed", {"step": 12, "world_size_before": 1})
        assert (history.loss, history.grad_norm) == (whole.loss, whole.grad_norm)
        assert history.learning_rate == whole.learning_rate
        assert (history.tokens, history.loss_tokens) == (whole.tokens, whole.loss_tokens)
        assert same(again, weights)


def test_the_record_says_what_the_checkpoint_is(tmp_path: Path, start: Any) -> None:
    start(tmp_path)
    newest, before = committed(tmp_path)
    assert (step_of(newest), step_of(before)) == (12, 8)  # two stay
    record = json.loads((newest / "record.json").read_text())
    assert (record["step"], record["blocks"], record["world_size"]) == (12, 96, 1)
    assert record["identity"] == IDENTITY
    assert len(record["history"]["loss"]) == 12
    files = {str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()}
    assert {file["name"] for file in record["files"]} == files - {"record.json"}
    assert "random-00000.pt" in files
    for file in record["files"]:
        path = newest / file["name"]
        assert (path.stat().st_size, file_sha256(path)) == (file["size"], file["sha256"])
    assert not list(tmp_path.glob("*.part"))


def flip(folder: Path) -> str:
    """One bit in the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return "another sha256"


def truncate(folder: Path) -> str:
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-7])
    return "bytes, not"


def lose_a_file(folder: Path) -> str:
    next(folder.glob("random-*")).unlink()
    return "random-00000.pt is missing"


def lose_the_record(folder: Path) -> str:
    (folder / "record.json").unlink()
    return "record.json"


def tear_the_record(folder: Path) -> str:
    path = folder / "record.json"
    path.write_text(path.read_text()[:-40])
    return "record.json"


def swap_the_record(folder: Path) -> str:
    other = committed(folder.parent)[1]
    shutil.copyfile(other / "record.json", folder / "record.json")
    return "of step 8"


@pytest.mark.parametrize(
    "damage", [flip, truncate, lose_a_file, lose_the_record, tear_the_record, swap_the_record]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, start: Any, damage: Callable[[Path], str]
) -> None:
    whole, weights, _ = start(tmp_path)
    what = damage(committed(tmp_path)[0])
    history, again, events = start(tmp_path)
    assert [name for name, _ in events[:2]] == ["damaged", "resumed"]
    assert events[0][1]["checkpoint"] == "step-00000012"
    assert what in events[0][1]["what"]
    assert (tmp_path / events[0][1]["kept_as"]).is_dir()
    assert events[1][1]["step"] == 8
    assert history.loss == whole.loss
    assert same(again, weights)


def test_with_all_of_them_damaged_it_starts_anew(tmp_path: Path, start: Any) -> None:
    _, weights, _ = start(tmp_path)
    for folder in committed(tmp_path):
        flip(folder)
    _, again, events = start(tmp_path)
    assert [name for name, _ in events[:3]] == ["damaged", "damaged", "checkpoint"]
    assert same(again, weights)


def test_what_was_not_committed_does_not_count(tmp_path: Path, start: Any) -> None:
    start(tmp_path)
    newest = committed(tmp_path)[0]
    newest.rename(newest.with_name(f"{newest.name}.0123abcd.part"))
    _, _, events = start(tmp_path)
    assert events[0][1]["step"] == 8
    assert not list(tmp_path.glob("*.part"))


def test_another_runs_checkpoint_is_refused(tmp_path: Path, start: Any) -> None:
    start(tmp_path)
    with pytest.raises(UserError, match="another run .differs in blocks.; remove .* start anew"):
        start(tmp_path, identity={**IDENTITY, "blocks": "def"})
    with pytest.raises(UserError, match="differs in config"):
        start(tmp_path, identity={**IDENTITY, "config": {"seed": 1}})


def test_deepspeed_wants_as_many_workers(tmp_path: Path, start: Any) -> None:
    start(tmp_path)
    for folder in committed(tmp_path):
        path = folder / "record.json"
        record = json.loads(path.read_text()) | {"format": "deepspeed", "world_size": 2}
        path.write_text(json.dumps(record))

    class Three:
        state_format, world_size = "deepspeed", 3

    checkpoints = Checkpoints(tmp_path, IDENTITY, Plan(), Ranks())
    backend: Any = Three()
    with pytest.raises(UserError, match="DeepSpeed cannot go on with 3 workers .* written by 2"):
        checkpoints.resume(backend)
    with pytest.raises(UserError, match="SingleBackend cannot read"):
        start(tmp_path)


def test_a_checkpoint_holds_the_state_of_its_step_not_a_later_one(
    tmp_path: Path, config: TrainConfig, tokenizer: Any, arch: dict[str, Any], blocks_dir: Path
) -> None:
    """It is written while the weights change."""
    reader = BlockReader(blocks_dir)
    backend: Any = make_backend(init_model(arch, tokenizer, 0), config, TrainRuntime())
    train(backend, reader, replace(config, epochs=0.2))
    weights = {name: value.clone() for name, value in backend.model.state_dict().items()}
    moments = [s["exp_avg"].clone() for s in backend.optimizer.state.values()]
    written = backend.save_state(tmp_path)
    with torch.no_grad():
        for parameter in backend.model.parameters():
            parameter.zero_()
        for state in backend.optimizer.state.values():
            state["exp_avg"].zero_()
    written.result()
    backend.load_state(tmp_path)
    assert same(backend.model.state_dict(), weights)
    found = [s["exp_avg"] for s in backend.optimizer.state.values()]
    assert all(a.equal(b) for a, b in zip(found, moments, strict=True))


def test_random_numbers_go_on_where_they_were(tmp_path: Path, start: Any) -> None:
    torch.manual_seed(7)
    with pytest.raises(Killed):
        start(tmp_path, stop=5)
    expected = torch.rand(3)
    torch.manual_seed(8)
    start(tmp_path, plan=Plan())
    assert torch.rand(3).equal(expected)


def test_a_failed_write_is_raised(tmp_path: Path) -> None:
    class Full:
        state_format, world_size, rank = "dcp", 1, 0

        def save_state(self, folder: Path) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(OSError(28, "No space left on device"))
            return future

    checkpoints = Checkpoints(tmp_path, IDENTITY, Plan(steps=1), Ranks())
    backend: Any = Full()
    checkpoints.after_step(backend, History(loss=[1.0]), 8)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.close()
    assert committed(tmp_path) == []


def test_by_time_one_is_due_after_so_many_seconds(tmp_path: Path, start: Any) -> None:
    """A run shorter than that writes none; a time of next to nothing, one after another."""
    start(tmp_path / "short", plan=Plan(seconds=60.0))
    assert committed(tmp_path / "short") == []
    _, _, events = start(tmp_path / "often", plan=Plan(seconds=1e-6))
    assert 2 <= len([name for name, _ in events if name == "checkpoint"]) <= 14
    start(tmp_path / "never", plan=Plan())
    assert committed(tmp_path / "never") == []
