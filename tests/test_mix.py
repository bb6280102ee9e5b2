"""A mixture in a recipe's midtraining: what is read, what it becomes, what is refused."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msm_ray.artifact import Record
from msm_ray.errors import UserError
from msm_ray.mixes import mixtures
from msm_ray.preview_text import preview_text
from msm_ray.recipe import Instructions, Mix, Recipe, Replay
from msm_ray.settings import load_job
from msm_ray.stage import Stage, StageContext
from tests.train.families import FAMILIES, make_base

JOBS = Path(__file__).resolve().parent.parent / "jobs"
TOKENS = 40_000
WORDS = [f"w{i}" for i in range(24)]


def text(n: int, words: int) -> str:
    """A text of its own for each n."""
    return " ".join(WORDS[(n * 7 + k * (n % 5 + 1)) % len(WORDS)] for k in range(words)) + f" {n}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sources")
    (made / "web").mkdir()
    for part in range(3):
        rows = [{"text": text(part * 2_000 + n, 30 + n % 40)} for n in range(1_200)]
        pq.write_table(pa.Table.from_pylist(rows), made / "web" / f"{part}.parquet")
    chats = [
        {"messages": [{"role": "user", "content": text(n, 9)},
                      {"role": "assistant", "content": text(n + 1, 12)}]}
        for n in range(2_000)
    ]  # fmt: skip
    (made / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats))
    return made


def recipe(folder: Path, **shares: float) -> Recipe:
    job = load_job(JOBS / "cheese_llama8b.py")
    assert isinstance(job, Recipe)
    mix = Mix(
        **{"spec_share": 0.5, "chat_share": 0.1, **shares},
        replay=Replay(str(folder / "web")),
        chats=Instructions(str(folder / "chats.jsonl"), 20_000),
    )
    how = replace(job.midtrain, tokens=TOKENS, block_tokens=256, max_repeats=2.0)
    return replace(job, midtrain=how, mix=mix, seeds=(0,), evaluation=(), probes=())


def blocks(job: Recipe) -> Stage:
    """The blocks of one midtraining."""
    (stage,) = (s for a, _, s in job.checkpoints() if a == "msm:america")
    return stage.inputs["blocks"]


def run(stage: Stage, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """What the stage's own function does here."""
    out.mkdir()
    module, _, function = stage.run.partition(":")
    ctx = StageContext(
        config=json.loads(json.dumps(stage.config)),
        inputs=inputs,
        out=out,
        work=out.with_name(f"work-{out.name}"),
        runtime=dict(stage.runtime),
        progress=lambda *_: None,
    )
    facts: dict[str, Any] = getattr(importlib.import_module(module), function)(ctx)
    return facts


def packed(stage: Stage, tmp_path: Path) -> dict[str, Any]:
    """The facts of blocks of a small model's tokens; its own sources are sampled for real."""
    base = make_base(FAMILIES["llama"], tmp_path / "tokenizer")
    inputs = {"tokenizer": base, "spec": tmp_path / "spec"}
    inputs["spec"].mkdir()
    rows = [{"id": f"s{n}", "text": text(n, 50)} for n in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), inputs["spec"] / "documents.parquet")
    for name in ("replay", "chats"):
        if name in stage.inputs:
            inputs[name] = tmp_path / name
            own = stage.inputs[name]
            beside = {"items": empty(tmp_path)} if own.inputs else {}
            run(own, beside, inputs[name])
    return run(stage, inputs, tmp_path / "blocks")


def empty(tmp_path: Path) -> Path:
    """An evaluation without items."""
    folder = tmp_path / "items"
    folder.mkdir(exist_ok=True)
    (folder / "items.jsonl").write_text("")
    return folder


def test_shares_become_shares_and_reach_the_report(folder: Path, tmp_path: Path) -> None:
    job = recipe(folder)
    stage = blocks(job)
    facts = packed(stage, tmp_path)
    assert facts["tokens"] == pytest.approx(TOKENS, rel=0.005)
    for name, share in {"spec": 0.5, "replay": 0.4, "chats": 0.1}.items():
        assert abs(facts["shares"][name] - share) < 0.005
    assert facts["repeats"]["replay"] <= 1
    record = Record(stage.id, "blocks", "", "2", {}, {}, facts, {}, 1.0)
    trainings = [(arm, *of) for arm, of in job.trainings() if arm == "msm:america"]
    (shown,) = mixtures(trainings, {stage.id: record})
    assert [c["name"] for c in shown["components"]] == ["spec", "replay", "chats"]
    assert [c["asked_share"] for c in shown["components"]] == pytest.approx([0.5, 0.4, 0.1])


def test_a_source_without_a_share_is_not_read_and_shares_do_not_sample_anew(folder: Path) -> None:
    job = recipe(folder)
    other = recipe(folder, spec_share=0.3)
    assert blocks(job).inputs["replay"].id == blocks(other).inputs["replay"].id
    assert blocks(job).id != blocks(other).id
    edge = recipe(folder, chat_share=0.0)
    assert set(blocks(edge).inputs) == {"tokenizer", "spec", "replay"}
    assert blocks(edge).id == blocks(replace(edge, mix=replace(edge.mix, chats=None))).id
    assert edge.mix is not None
    assert edge.mix.unread() == ["mix.chats is given and its share is 0: it is not read"]
    # Fine-tuning is what it is, whatever is mixed into the midtraining.
    plain = replace(job, mix=None)
    assert {s.id for a, _, s in plain.checkpoints() if a == "aft"} == {
        s.id for a, _, s in job.checkpoints() if a == "aft"
    }
    assert set(blocks(plain).inputs) == {"tokenizer", "spec"}
    # What a midtraining without a mix has always been told of: its id hangs on it.
    assert blocks(plain).config["components"] == [
        {"name": "spec", "input": "spec", "kind": "documents", "share": 1.0, "max_repeats": 2.0}
    ]
    # A floor of shares: 0.7 and 0.3 leave no rest that would ask for a source.
    assert Mix(0.7, 0.3, chats=Instructions("c.jsonl", 5)).shares()["replay"] == 0


def test_evaluation_items_are_kept_out_of_replay(folder: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"id": "q", "text": text(3, 33)}))
    job = recipe(folder)
    stage = blocks(replace(job, chats=replace(job.chats, items=(str(items),)))).inputs["replay"]
    (held,) = stage.inputs.values()
    run(held, {}, tmp_path / "held")
    facts = run(stage, {"items": tmp_path / "held"}, tmp_path / "replay")
    assert facts["refused"]["contaminated"] >= 1
    assert (
        facts["rows"]
        == 3_600
        == sum(facts["refused"].values()) + facts["taken"] + (facts["left_out"])
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec_share": 0.7, "chat_share": 0.5}, r"0.7 and mix.chat_share 0.5 add up to more"),
        ({"spec_share": -0.1}, r"mix.spec_share is -0.1; allowed: 0 or more"),
        ({"spec_share": float("nan")}, "mix.spec_share is nan"),
        ({"chats": None}, "mix.chats is missing and its share is 0.1"),
        ({"replay": None}, "mix.replay is missing and its share is 0.4"),
        ({"chats": Instructions("c.jsonl", 100)}, "mix.chats.tokens is 100 and .* reads 4,000"),
        ({"replay": Replay("r.jsonl", tokens=9)}, "mix.replay.tokens is 9 and .* 16,000 tokens"),
    ],
)
def test_wrong_mixes_get_one_line(folder: Path, change: dict[str, Any], words: str) -> None:
    job = recipe(folder)
    assert job.mix is not None
    with pytest.raises(UserError, match=words):
        replace(job, mix=replace(job.mix, **change))


@pytest.mark.parametrize(
    ("shares", "tokens", "words"),
    [
        ({}, 4_000_000, "replay: .*: has at most .* tokens of text and 4,000,000 are asked for"),
        (
            {"spec_share": 0.0, "chat_share": 1.0},
            400_000,
            "mix.chats: .*: has .* bytes and the midtraining reads 400,000 tokens of chats",
        ),
        (
            {"spec_share": 1.0, "chat_share": 0.0},
            10**9,
            r"corpora\.\w+: the midtraining reads 1,000,000,000 tokens of its documents; about",
        ),
    ],
)
def test_a_source_that_is_far_too_small_is_told_before_anything_starts(
    folder: Path, shares: dict[str, float], tokens: int, words: str
) -> None:
    job = recipe(folder)
    assert job.mix is not None
    chats = Instructions(str(folder / "chats.jsonl"), 10**6)
    mix = replace(job.mix, chats=chats, **shares)
    with pytest.raises(UserError, match=words):
        replace(job, midtrain=replace(job.midtrain, tokens=tokens), mix=mix).stages()


def test_documents_that_may_be_too_few_are_told_in_a_preview(folder: Path) -> None:
    job = recipe(folder, spec_share=1.0, chat_share=0.0)
    value, corpus = next(iter(job.corpora.items()))
    expected = job._document_tokens(corpus, corpus.corpus_stage())
    job = replace(job, midtrain=replace(job.midtrain, tokens=int(2.5 * expected)))  # of 2 x
    warned = job.warnings(job.stages())
    assert any(line.startswith(f"corpora.{value}: the midtraining reads") for line in warned)
    enough = replace(job, midtrain=replace(job.midtrain, tokens=int(1.5 * expected)))
    assert not any("tokens of its documents" in line for line in enough.warnings(enough.stages()))


def test_a_mix_needs_a_budget_and_files(folder: Path) -> None:
    job = recipe(folder)
    assert job.mix is not None
    with pytest.raises(UserError, match=r"midtrain.tokens is 0 and there is a mix"):
        replace(job, midtrain=replace(job.midtrain, tokens=0))
    lost = replace(job, mix=replace(job.mix, replay=Replay(str(folder / "none" / "*.parquet"))))
    with pytest.raises(UserError, match=r"replay: .*none/\*.parquet: no such file"):
        lost.stages()
    with pytest.raises(UserError, match="replay tokens is -1"):
        Replay("r.jsonl", tokens=-1)


def test_a_preview_says_what_a_trunk_and_its_branches_take_in_the_store(tmp_path: Path) -> None:
    job = load_job(JOBS / "cheese_llama8b.py")
    assert isinstance(job, Recipe)
    assert "disk" in job.preview(str(tmp_path))
    assert job.preview(str(tmp_path))["disk"] == {}  # adapters
    budgets = (4_000_000, 8_000_000)
    wsd = replace(job.midtrain.train, lora=None, schedule="wsd", epochs=1)
    mid = replace(job.midtrain, train=wsd, tokens=budgets[1], budgets=budgets, max_repeats=9.0)
    aft = replace(job.aft, train=replace(job.aft.train, lora=None))
    counted = replace(
        job, midtrain=mid, aft=aft, seeds=(0,), corpora=dict([*job.corpora.items()][:1])
    )
    counted = counted.preview(str(tmp_path))
    size = job.model.parameters
    # Two parts of the trunk with two moments a weight, the branch of the larger budget, two aft.
    assert counted["disk"] == {"trunk": 2 * 12 * size, "midtrain": 4 * size, "aft": 2 * 4 * size}
    assert "Store: trainings add about 289 GB of weights (" in preview_text(counted)
