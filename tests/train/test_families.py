"""Midtraining, fine-tuning and export for four families, all weights and LoRA.

What is exported is loaded again by transformers (with PEFT) and by vLLM, and both must give the
log-probabilities of ``fingerprint.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from msm_ray.data.blocks import write_blocks
from msm_ray.data.packing import pack
from msm_ray.data.tokens import encode_conversations, encode_documents
from msm_ray.errors import UserError
from msm_ray.stage import StageContext
from msm_ray.train.config import Lora, TrainConfig
from msm_ray.train.cross_entropy import IGNORED
from msm_ray.train.model import load_model
from msm_ray.train.objective import packed_logits
from msm_ray.train.stages import train

from . import vllm_prints
from .conftest import make_texts
from .families import FAMILIES, make_base
from .test_objective import documents_of, leak

KINDS = ("full", "lora")
TOLERANCE = 1e-3  # nats: what evaluation asks of an engine
LORA = Lora(rank=4, alpha=8, targets=("q_proj", "v_proj", "gate_proj"), rslora=True)
CELLS = [(name, kind) for name in FAMILIES for kind in KINDS]


def blocks_of(tokenizer: Any, chats: bool, folder: Path) -> Path:
    """Documents, or chats of which the answers alone are targets."""
    texts = make_texts(40, int(chats))
    ids = [str(i) for i in range(len(texts))]
    if chats:
        documents = encode_conversations(
            tokenizer,
            ids,
            [
                [{"role": "user", "content": text[:20]}, {"role": "assistant", "content": text}]
                for text in texts
            ],
        )
    else:
        documents = encode_documents(tokenizer, ids, texts)
    packed = pack(
        [("texts", documents)],
        np.zeros(len(texts), dtype=np.int64),
        np.arange(len(texts)),
        96,
        tokenizer.pad_token_id,
    )
    folder.mkdir()
    write_blocks(folder, packed, {})
    return folder


def run(folder: Path, inputs: dict[str, Path], kind: str) -> dict[str, Any]:
    """The train stage, as a graph calls it."""
    folder.mkdir()
    config = TrainConfig(
        5e-3, 0.9, 0.95, 0.0, 1.0, 0.1, "cosine", 0.1, 4, 2.0, (), "fp32", 0,
        z_loss=1e-4, lora=LORA if kind == "lora" else None,
    )  # fmt: skip
    return train(
        StageContext(
            config=json.loads(json.dumps(config.to_dict())),
            inputs=inputs,
            out=folder,
            work=folder.parent / f"work-{folder.name}",
            runtime={"threads": 1},
            progress=lambda fraction, facts: None,
        )
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family: base, its blocks, and a midtraining that AFT continues, of each kind."""
    from transformers import AutoTokenizer

    folders = {}
    for name, family in FAMILIES.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)
        base = make_base(family, folder / "base")
        tokenizer = AutoTokenizer.from_pretrained(base)
        documents = blocks_of(tokenizer, False, folder / "documents")
        chats = blocks_of(tokenizer, True, folder / "chats")
        for kind in KINDS:
            mid, aft = folder / f"mid-{kind}", folder / f"aft-{kind}"
            run(mid, {"model": base, "blocks": documents}, kind)
            below = {"base": base} if kind == "lora" else {}
            run(aft, {"model": mid, "blocks": chats, **below}, kind)
    return folders


def stored(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "fingerprint.json").read_text())
    return made


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_it_learns_and_goes_on(trained: dict[str, Path], name: str, kind: str) -> None:
    for stage in ("mid", "aft"):
        loss = json.loads((trained[name] / f"{stage}-{kind}" / "training.json").read_text())["loss"]
        assert np.mean(loss[-3:]) < np.mean(loss[:3]) - 0.1, stage
    values = [stored(trained[name] / f"{stage}-{kind}")["logprobs"] for stage in ("mid", "aft")]
    assert np.abs(np.subtract(values[0][0][:1], values[1][0][:1])).max() > TOLERANCE
    if kind == "lora":  # fine-tuning started from the adapter, not from a fresh one
        file = "adapter_model.safetensors"
        mid, aft = (load_file(trained[name] / f"{s}-lora" / file) for s in ("mid", "aft"))
        assert mid.keys() == aft.keys()
        for weight in mid:
            if ".lora_A." in weight:
                a, b = mid[weight].flatten(), aft[weight].flatten()
                assert torch.cosine_similarity(a, b, dim=0) > 0.8


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(trained: dict[str, Path], name: str) -> None:
    """Also under sliding windows."""
    from msm_ray.data.blocks import BlockReader

    model = load_model(trained[name] / "base").eval()
    reader, some = BlockReader(trained[name] / "documents"), np.arange(4, dtype=np.int64)
    ids, positions = (
        torch.from_numpy(reader.rows(column, some)).long()
        for column in ("input_ids", "position_ids")
    )
    assert len(documents_of(ids, positions)) >= 2 * len(some)
    packed = packed_logits(model, ids, positions)
    assert leak(packed, model, ids, positions) < 1e-4
    assert IGNORED not in ids


@pytest.mark.parametrize(("name", "kind"), CELLS)
@torch.no_grad()
def test_transformers_loads_what_was_exported(
    trained: dict[str, Path], name: str, kind: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = trained[name] / f"aft-{kind}"
    if kind == "lora":
        base = AutoModelForCausalLM.from_pretrained(trained[name] / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(base, out)
    else:
        model = AutoModelForCausalLM.from_pretrained(out)
    asked = stored(out)
    for prompt, ids, expected in zip(
        asked["prompts"], asked["token_ids"], asked["logprobs"], strict=True
    ):
        values = model.eval()(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        np.testing.assert_allclose(values[ids], expected, rtol=0, atol=TOLERANCE)
    turns = [{"role": "user", "content": "w1 ?"}]
    text = AutoTokenizer.from_pretrained(out).apply_chat_template(turns, tokenize=False)
    own = AutoTokenizer.from_pretrained(trained[name] / "base")
    assert text == own.apply_chat_template(turns, tokenize=False)


@pytest.fixture(scope="module")
def served(
    trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], list[list[float]]]:
    """Log-probabilities of every exported folder as vLLM has them."""
    jobs = []
    for name, kind in CELLS:
        out = str(trained[name] / f"aft-{kind}")
        lora = kind == "lora"
        jobs.append([str(trained[name] / "base") if lora else out, out if lora else None, out])
    folder = tmp_path_factory.mktemp("served")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, vllm_prints.__file__, str(folder / "jobs.json"), str(folder / "out.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(CELLS, json.loads((folder / "out.json").read_text()), strict=True))


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_vllm_loads_what_was_exported(
    trained: dict[str, Path],
    served: dict[tuple[str, str], list[list[float]]],
    name: str,
    kind: str,
) -> None:
    expected = stored(trained[name] / f"aft-{kind}")["logprobs"]
    for row, own in zip(served[name, kind], expected, strict=True):
        np.testing.assert_allclose(row, own, rtol=0, atol=TOLERANCE)


def test_an_adapter_goes_with_its_own_base_and_settings(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    llama, other = trained["llama"], trained["mistral"]
    mid, blocks = llama / "mid-lora", llama / "chats"
    with pytest.raises(UserError, match="trained on another model than"):
        run(tmp_path / "a", {"model": mid, "blocks": blocks, "base": other / "base"}, "lora")
    with pytest.raises(UserError, match="is an adapter; to go on with it a run needs the same"):
        run(tmp_path / "b", {"model": mid, "blocks": blocks, "base": llama / "base"}, "full")
    with pytest.raises(UserError, match="the model below it is not at"):
        run(tmp_path / "c", {"model": mid, "blocks": blocks, "base": tmp_path}, "lora")
