"""The same training, whatever computes it: against a loop written out here, and golden losses.

Fifty steps in fp32 over the same blocks. The model's vocabulary is large enough that its loss goes
through the head in chunks, and that ZeRO-3 cuts the head up; the loop here takes the plain way.
After a change that is meant to change losses: ``python tests/train/test_parity.py``.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from msm_ray.data.blocks import BlockReader, write_blocks
from msm_ray.data.order import EpochOrder
from msm_ray.errors import UserError
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime
from msm_ray.train.loop import steps_in_run
from msm_ray.train.model import init_model, load_model, save_model
from msm_ray.train.pretrain import pack_texts
from msm_ray.train.segment import plan_budgets, trunk_config
from msm_ray.train.weights import seeded_uniform
from msm_ray.train.worker import TrainJob, run_worker
from train.conftest import ARCH, make_texts, make_tokenizer
from train.ranks import start

STEPS, BATCH = 50, 6
RATE = {"full": 3e-3, "lora": 3e-2}
TOLERANCE = 1e-4  # nats
BF16_TOLERANCE = 5e-3  # nats; the largest seen is 2e-3
GOLDEN = Path(__file__).with_name("golden_losses.json")
GOLDEN_TOLERANCE = 1e-3  # nats: another CPU rounds otherwise, and fifty steps add that up
LORA = Lora(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"), rslora=True)
KINDS = ("full", "lora")
# a micro-batch of all blocks of a rank, or of half of them
PLACES = {
    "fsdp2 x1": ("fsdp2", 1, {}),
    "fsdp2 x2": ("fsdp2", 2, {}),
    "fsdp2 x3": ("fsdp2", 3, {}),
    "ZeRO-2 x2": ("deepspeed", 2, {"zero_stage": 2}),
    "ZeRO-3 x2": ("deepspeed", 2, {"zero_stage": 3}),
}
# FSDP2 with all its weights: test_resume.py
GOES_ON = (("fsdp2 x2", "lora"), ("ZeRO-3 x2", "lora"), ("ZeRO-3 x2", "full"))
# a trunk, a branch of it, and the branch's training in one
BRANCHES = (("fsdp2 x2", "full"), ("ZeRO-3 x2", "lora"))
SAVING = {"activation_checkpointing": True, "offload": True, "meta_init": True}


def make_inputs(folder: Path) -> None:
    """A tokenizer, blocks, and a base model for each kind: tied, and with a head of its own."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "blocks").mkdir()
    write_blocks(folder / "blocks", pack_texts(make_texts(180, 0), tokenizer, 32), {})
    for kind in KINDS:
        arch = {**ARCH, "vocab_size": 4096, "tie_word_embeddings": kind == "full"}
        model = init_model(arch, tokenizer, 0)
        save_model(
            model.state_dict(),
            model.config,
            folder / "tokenizer",
            folder / kind,
            architecture=type(model).__name__,
            generation_config=model.generation_config,
            save_dtype="fp32",
        )


def job(inputs: Path, kind: str, out: Path, runtime: TrainRuntime, **changes: Any) -> TrainJob:
    blocks = len(BlockReader(inputs / "blocks"))
    config = TrainConfig(
        learning_rate=RATE[kind],
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=0.5,
        warmup_fraction=0.0,
        schedule="cosine",
        final_lr_fraction=0.1,
        batch_blocks=BATCH,
        epochs=STEPS * BATCH / blocks,
        freeze=(),
        precision="fp32",
        seed=0,
        z_loss=1e-4,
        lora=LORA if kind == "lora" else None,
    )
    assert steps_in_run(blocks, config) == STEPS
    return TrainJob(
        config=replace(config, **changes),
        runtime=runtime,
        blocks=str(inputs / "blocks"),
        tokenizer=str(inputs / "tokenizer"),
        out=str(out),
        work=str(out.with_name(out.name + "-work")),
        model=str(inputs / kind),
    )


class LowRank(torch.nn.Module):
    """Hu et al. 2021, equation 3, with the scale of Kalajdzievski 2023."""

    def __init__(self, inner: torch.nn.Linear, name: str) -> None:
        super().__init__()
        self.inner = inner
        first = seeded_uniform((4, inner.in_features), 0, f"{name}.lora_A.default.weight")
        self.a = torch.nn.Parameter(first)
        self.b = torch.nn.Parameter(torch.zeros(inner.out_features, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x) + (8 / math.sqrt(4)) * (x @ self.a.t() @ self.b.t())
        return y


def plain_losses(inputs: Path, kind: str) -> list[float]:
    """The shortest loop one would write."""
    model = load_model(inputs / kind).train()
    if kind == "lora":
        model.requires_grad_(False)
        for i, layer in enumerate(model.model.layers):
            for part, name in (
                ("self_attn", "q_proj"),
                ("self_attn", "v_proj"),
                ("mlp", "down_proj"),
            ):
                owner = getattr(layer, part)
                path = f"model.layers.{i}.{part}.{name}"
                setattr(owner, name, LowRank(getattr(owner, name), path))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    reader = BlockReader(inputs / "blocks")
    order = EpochOrder(len(reader), 0)
    losses = []
    for step in range(STEPS):
        rows = order.take(step * BATCH, (step + 1) * BATCH)
        ids = torch.from_numpy(reader.rows("input_ids", rows)).long()
        positions = torch.from_numpy(reader.rows("position_ids", rows)).long()
        target = torch.from_numpy(reader.rows("loss_mask", rows)).bool()[:, 1:] & (
            positions[:, 1:] > 0
        )
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, :-1][
            target
        ]
        nats = torch.nn.functional.cross_entropy(logits, ids[:, 1:][target])
        (nats + 1e-4 * logits.logsumexp(-1).square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = RATE[kind] * (
                0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / (STEPS - 1)))
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(nats.item())
    return losses


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def plain(inputs: Path) -> dict[str, list[float]]:
    return {kind: plain_losses(inputs, kind) for kind in KINDS}


def runtimes() -> Iterator[tuple[str, str, TrainRuntime]]:
    """(name of the output, kind, runtime) of every run on several ranks."""
    for place, (backend, ranks, more) in PLACES.items():
        for kind in KINDS:
            for accumulation in (1, 2):
                micro = -(-BATCH // ranks // accumulation) if accumulation > 1 else 0
                runtime = TrainRuntime(backend, ranks, micro_blocks=micro, logits_mib=1, **more)
                yield f"{place} {kind} {accumulation}", kind, runtime
    for place in ("fsdp2 x2", "ZeRO-3 x2"):
        backend, ranks, more = PLACES[place]
        for kind in KINDS:
            runtime = TrainRuntime(backend, ranks, logits_mib=1, **more)
            yield f"{place} {kind} saving", kind, replace(runtime, **SAVING)
            yield f"{place} {kind} bf16", kind, runtime
        yield f"{place} full bf16 frozen", "full", runtime
    for place, kind in GOES_ON:
        backend, ranks, more = PLACES[place]
        # what the first leaves after its step 40 is where the second begins
        for name in ("whole", "resumed"):
            runtime = TrainRuntime(backend, ranks, logits_mib=1, checkpoint_steps=40, **more)
            yield f"{place} {kind} {name}", kind, runtime


NAMES = [name for name, _, _ in runtimes()]
# Without --long every place has each kind and each accumulation once, but not all pairs of them.
LONG = {name for name in NAMES if "x1" not in name and name.endswith(("full 1", "lora 2"))}


def changes(name: str) -> dict[str, Any]:
    """What a run's name says of its configuration."""
    return {
        **({"precision": "bf16"} if "bf16" in name else {}),
        **({"freeze": ("embeddings",)} if "frozen" in name else {}),
    }


@pytest.fixture(scope="module")
def trained(inputs: Path, long: bool) -> Path:
    """Every run, by one group of processes for each number of ranks."""
    out = inputs / "out"
    for ranks in (1, 2, 3):
        jobs = []
        for name, kind, runtime in runtimes():
            if runtime.num_workers == ranks and (long or name not in LONG):
                one = job(inputs, kind, out / name, runtime, **changes(name))
                before = one.work.replace("resumed-work", "whole-work")
                jobs.append(replace(one, work=before))
        if ranks == 2:
            jobs += [one for place, kind in BRANCHES for one in in_parts(inputs, place, kind)]
        start(ranks, jobs, inputs / f"ranks{ranks}")
    return out


def in_parts(inputs: Path, place: str, kind: str) -> list[TrainJob]:
    """A trunk, a branch of it, and the same training in one."""
    backend, ranks, more = PLACES[place]
    runtime = TrainRuntime(backend, ranks, logits_mib=1, **more)
    trunk, branch, whole = (
        job(inputs, kind, inputs / "out" / f"{place} {kind} {name}", runtime, schedule="wsd")
        for name in ("trunk", "branch", "in one")
    )
    (plan,) = plan_budgets((17 * BATCH * 32,), 32, branch.config)
    return [
        replace(trunk, config=trunk_config(trunk.config), segment=plan.trunk, keep_state=True),
        replace(branch, segment=plan.branch, trunk=trunk.out),
        replace(whole, segment=replace(plan.branch, start=0)),
    ]


def losses_of(folder: Path) -> list[float]:
    losses: list[float] = json.loads((folder / "training.json").read_text())["loss"]
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_the_golden_losses(plain: dict[str, list[float]], kind: str) -> None:
    golden = json.loads(GOLDEN.read_text())[kind]
    assert golden[0] - golden[-1] > 0.1  # it learns
    np.testing.assert_allclose(plain[kind], golden, rtol=0, atol=GOLDEN_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [{}, {"micro_blocks": 3}, {"logits_mib": 1}, {"activation_checkpointing": True}],
    ids=str,
)
def test_one_process_is_the_plain_loop(
    inputs: Path, plain: dict[str, list[float]], tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    run_worker(job(inputs, kind, tmp_path, TrainRuntime(**more)))
    np.testing.assert_allclose(losses_of(tmp_path), plain[kind], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(900)  # DeepSpeed builds an op at its first use
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in LONG else name
        for name in NAMES
        if "bf16" not in name
    ],
)
def test_several_ranks_are_the_plain_loop(
    inputs: Path, trained: Path, plain: dict[str, list[float]], name: str
) -> None:
    kind = "lora" if " lora " in name else "full"
    np.testing.assert_allclose(losses_of(trained / name), plain[kind], rtol=0, atol=TOLERANCE)
    # and the folders hold the same weights, under the same names
    file = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    first, got = load_file(trained / f"fsdp2 x1 {kind} 1" / file), load_file(trained / name / file)
    assert got.keys() == first.keys()
    for weight, value in first.items():
        torch.testing.assert_close(got[weight], value, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["full bf16", "full bf16 frozen", "lora bf16"])
def test_in_bf16_they_round_alike(inputs: Path, trained: Path, tmp_path: Path, name: str) -> None:
    """FSDP2 and ZeRO-3 on two ranks, beside one process; also as AFT runs, some of it frozen."""
    run_worker(job(inputs, name.split()[0], tmp_path, TrainRuntime(), **changes(name)))
    alone = losses_of(tmp_path)
    for place in ("fsdp2 x2", "ZeRO-3 x2"):
        folder = trained / f"{place} {name}"
        np.testing.assert_allclose(
            losses_of(folder), alone, rtol=0, atol=BF16_TOLERANCE, err_msg=place
        )
        if "frozen" in name:
            embedding = "model.embed_tokens.weight"
            before, after = (
                load_file(f / "model.safetensors")[embedding] for f in (inputs / "full", folder)
            )
            assert after.equal(before)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("place", "kind"), GOES_ON)
def test_a_run_goes_on_from_its_checkpoint(trained: Path, place: str, kind: str) -> None:
    """To the same bits; what is frozen below an adapter is in no checkpoint."""
    whole, resumed = (trained / f"{place} {kind} {name}" for name in ("whole", "resumed"))
    lines = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("event") == "resumed"] == [40]
    assert losses_of(resumed) == losses_of(whole)
    file = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    assert (resumed / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("place", "kind"), BRANCHES)
def test_a_branch_is_the_training_in_one(
    inputs: Path, trained: Path, tmp_path: Path, place: str, kind: str
) -> None:
    branch, whole = (trained / f"{place} {kind} {name}" for name in ("branch", "in one"))
    assert len(losses_of(whole)) == 17
    np.testing.assert_allclose(losses_of(branch), losses_of(whole), rtol=0, atol=1e-6)
    file = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    expected, found = load_file(whole / file), load_file(branch / file)
    assert found.keys() == expected.keys()
    for weight, value in expected.items():
        torch.testing.assert_close(found[weight], value, rtol=0, atol=1e-6)
    _, job, _ = in_parts(inputs, place, kind)
    here = replace(job, runtime=TrainRuntime(), out=str(tmp_path / "out"), work=str(tmp_path))
    if place.startswith("ZeRO"):
        with pytest.raises(UserError, match="which SingleBackend cannot read; go on with that one"):
            run_worker(here)
    else:  # one process goes on from what two ranks left
        run_worker(here)
        for weight, value in load_file(tmp_path / "out" / file).items():
            torch.testing.assert_close(value, expected[weight], rtol=0, atol=1e-5)


def test_another_seed_would_be_seen(
    inputs: Path, plain: dict[str, list[float]], tmp_path: Path
) -> None:
    one = job(inputs, "full", tmp_path, TrainRuntime())
    run_worker(replace(one, config=replace(one.config, seed=1)))
    assert np.abs(np.subtract(losses_of(tmp_path), plain["full"])).max() > 100 * TOLERANCE


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        make_inputs(Path(scratch))
        golden = {kind: [round(x, 6) for x in plain_losses(Path(scratch), kind)] for kind in KINDS}
    GOLDEN.write_text(json.dumps(golden) + "\n")
