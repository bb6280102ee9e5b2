"""The stage and the pretraining entry, in one process: no cluster is started."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msm_ray.data.blocks import BlockReader, write_blocks
from msm_ray.data.stream import StreamReader, StreamWriter
from msm_ray.data.tokens import encode_documents
from msm_ray.errors import UserError
from msm_ray.stage import StageContext
from msm_ray.streams import RUNNING_FILE, StreamStopped
from msm_ray.train import fingerprint as fp
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.model import load_model
from msm_ray.train.pretrain import pack_texts, pretrain
from msm_ray.train.stages import train
from msm_ray.train.watch import TrainingDiverged
from msm_ray.train.worker import run_worker

from .conftest import make_texts


@pytest.fixture(scope="module")
def base(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_dir: Path,
    arch: dict[str, Any],
    texts: list[str],
) -> Path:
    """A base model, pretrained by the package's own entry."""
    out = tmp_path_factory.mktemp("base") / "model"
    pretrain(
        arch,
        texts,
        TrainConfig(1e-2, 0.9, 0.95, 0.1, 1.0, 0.05, "cosine", 0.1, 8, 2.0, (), "bf16", 0),
        tokenizer_dir=tokenizer_dir,
        block_tokens=32,
        out=out,
        runtime=TrainRuntime(),
        save_dtype="bf16",
    )
    return out


def context(
    tmp_path: Path, inputs: dict[str, Path], config: dict[str, Any], name: str = "out"
) -> tuple[StageContext, list[float]]:
    out = tmp_path / name
    out.mkdir()
    seen: list[float] = []
    return (
        StageContext(
            config=json.loads(json.dumps(config)),
            inputs=inputs,
            out=out,
            work=tmp_path / "work",
            runtime={"cpus": 1.0, "threads": 1},
            progress=lambda fraction, facts: seen.append(fraction),
        ),
        seen,
    )


def test_midtraining_leaves_a_complete_folder(
    tmp_path: Path, base: Path, blocks_dir: Path, config: TrainConfig
) -> None:
    ctx, seen = context(tmp_path, {"model": base, "blocks": blocks_dir}, asdict(config))
    facts = train(ctx)
    assert sorted(path.name for path in ctx.out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "fingerprint.json",
        "generation_config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tensorboard",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    record = json.loads((ctx.out / "training.json").read_text())
    assert record["config"]["learning_rate"] == 3e-3
    assert len(record["loss"]) == len(record["learning_rate"]) == record["steps"] == facts["steps"]
    assert facts["tokens"] == record["tokens"] == BlockReader(blocks_dir).tokens.sum()
    assert (facts["loss_first"], facts["loss_last"]) == (record["loss"][0], record["loss"][-1])
    assert facts["curve"][-1][0] == facts["steps"]
    assert facts["tokens_per_second"] > 0
    assert seen[-1] == 1
    assert seen == sorted(seen)
    assert len(seen) <= 3 + facts["train_seconds"] / 0.5  # not at every step
    stored = json.loads((ctx.out / "fingerprint.json").read_text())
    assert stored == fp.fingerprint(load_model(ctx.out).eval())
    assert stored["logprobs"] != json.loads((base / "fingerprint.json").read_text())["logprobs"]


def test_it_starts_from_the_model_and_a_rerun_gives_the_same_bytes(
    tmp_path: Path, base: Path, blocks_dir: Path, config: TrainConfig
) -> None:
    inputs = {"model": base, "blocks": blocks_dir}
    weights = []
    for name in ("a", "b"):
        ctx, _ = context(tmp_path, inputs, asdict(config), name)
        facts = train(ctx)
        weights.append((ctx.out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert facts["loss_first"] < 3.9  # a fresh model has log(69) = 4.2


def test_threads_are_put_back(
    tmp_path: Path, base: Path, blocks_dir: Path, config: TrainConfig
) -> None:
    before = torch.get_num_threads()
    short = replace(config, epochs=0.01)
    ctx, _ = context(tmp_path, {"model": base, "blocks": blocks_dir}, asdict(short))
    ctx.runtime["threads"] = before + 1
    train(ctx)
    assert torch.get_num_threads() == before


def test_one_worker_needs_no_cluster_and_no_other_process(
    tmp_path: Path,
    base: Path,
    blocks_dir: Path,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Going through Ray Train costs an arm of a few seconds next to nothing."""
    ran_in = []

    def noted(*args: Any) -> Any:
        ran_in.append(os.getpid())
        return run_worker(*args)

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("msm_ray.train.worker.run_worker", noted)
    monkeypatch.setattr("ray.init", refused)
    short = replace(config, epochs=0.01)
    ctx, _ = context(tmp_path, {"model": base, "blocks": blocks_dir}, asdict(short), "out")
    train(ctx)
    assert ran_in == [os.getpid()]


def test_wrong_input_is_one_line(
    tmp_path: Path, base: Path, blocks_dir: Path, config: TrainConfig, tokenizer: Any
) -> None:
    inputs = {"model": base, "blocks": blocks_dir}
    ctx, _ = context(tmp_path, inputs, {**asdict(config), "learning_rat": 1.0}, "a")
    with pytest.raises(UserError, match="no field learning_rat"):
        train(ctx)
    ctx, _ = context(tmp_path, inputs, asdict(config), "b")
    ctx.runtime.update(backend="fsdp2", num_workers=3)
    with pytest.raises(UserError, match="multiple of the second"):
        train(ctx)
    long = tmp_path / "long"
    long.mkdir()
    write_blocks(long, pack_texts(["w1 w2 w3"], tokenizer, 64), {})
    ctx, _ = context(tmp_path, {"model": base, "blocks": long}, asdict(config), "c")
    with pytest.raises(UserError, match="blocks have 64 tokens, the model's context is 32"):
        train(ctx)
    ctx, _ = context(tmp_path, {"model": tmp_path, "blocks": blocks_dir}, asdict(config), "d")
    with pytest.raises(UserError, match="not a Hugging Face model folder"):
        train(ctx)


def test_divergence_is_the_runs_error(
    tmp_path: Path, base: Path, blocks_dir: Path, config: TrainConfig
) -> None:
    wild = replace(config, learning_rate=1e38, weight_decay=0.0, warmup_fraction=0.0)
    ctx, _ = context(tmp_path, {"model": base, "blocks": blocks_dir}, asdict(wild))
    with pytest.raises(TrainingDiverged, match="a lower learning_rate"):
        train(ctx)
    assert not (ctx.out / "model.safetensors").exists()


def test_pretraining_takes_texts_blocks_or_a_folder_alike(
    tmp_path: Path,
    tokenizer: Any,
    tokenizer_dir: Path,
    arch: dict[str, Any],
    texts: list[str],
    config: TrainConfig,
) -> None:
    blocks = pack_texts(texts, tokenizer, 32)
    folder = tmp_path / "blocks"
    folder.mkdir()
    write_blocks(folder, blocks, {})
    weights = []
    steps: list[int] = []
    for i, source in enumerate((iter(texts), blocks, folder)):
        out = tmp_path / f"out{i}"
        pretrain(
            arch,
            source,
            replace(config, epochs=0.3),
            tokenizer_dir=tokenizer_dir,
            block_tokens=32,
            out=out,
            runtime=TrainRuntime(),
            on_step=lambda step, total, facts: steps.append(step),
        )
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    assert steps == list(range(1, len(steps) // 3 + 1)) * 3
    with pytest.raises(UserError, match="there are no texts"):
        pack_texts([], tokenizer, 32)


def test_blocks_that_are_still_being_made_are_waited_for(
    tmp_path: Path, base: Path, tokenizer: Any, config: TrainConfig
) -> None:
    """A stream read as it grows, and the finished blocks: the same weights."""
    docs = encode_documents(tokenizer, [f"d{i}" for i in range(180)], make_texts(180, 0))
    place = tmp_path / "place"
    place.mkdir()
    (place / RUNNING_FILE).touch()

    def write() -> None:
        writer = StreamWriter(
            place, 32, tokenizer.pad_token_id, components=["spec"], window_blocks=8, blocks=60
        )
        for at in range(len(docs)):
            if writer.is_full:
                break
            writer.append("spec", docs.select(np.array([at])))
            time.sleep(0.005)
        writer.close()

    thread = threading.Thread(target=write)
    ctx, _ = context(tmp_path, {"model": base, "blocks": place}, asdict(config), "live")
    ctx.live = frozenset({"blocks"})
    thread.start()
    facts = train(ctx)
    thread.join()
    after, _ = context(tmp_path, {"model": base, "blocks": place}, asdict(config), "after")
    after.work = tmp_path / "work-after"
    expected = train(after)
    assert facts["steps"] == expected["steps"] == 8
    assert facts["waited_seconds"] > expected["waited_seconds"] == 0
    weights = [(c.out / "model.safetensors").read_bytes() for c in (ctx, after)]
    assert weights[0] == weights[1]
    # A checkpoint written while the stream grew fits the finished blocks.
    assert StreamReader(place).manifest_sha256 == BlockReader(place).manifest_sha256
    losses = [json.loads(line) for line in (ctx.out / "metrics.jsonl").read_text().splitlines()]
    assert any("spec" in line.get("loss_by_source", {}) for line in losses)


def test_blocks_that_will_not_come_stop_the_training(
    tmp_path: Path, base: Path, tokenizer: Any, config: TrainConfig
) -> None:
    docs = encode_documents(tokenizer, ["d0"], make_texts(1, 0))
    writer = StreamWriter(tmp_path / "place", 32, 0, blocks=60)
    writer.append("spec", docs)
    writer.abandon()
    inputs = {"model": base, "blocks": tmp_path / "place"}
    ctx, _ = context(tmp_path, inputs, asdict(config))
    ctx.live = frozenset({"blocks"})
    with pytest.raises(StreamStopped):
        train(ctx)
