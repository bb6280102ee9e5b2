"""The method on a model of one's own: scripted answers, real documents, blocks, LoRA, folders."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from msm_ray.corpus.rehearsal import respond
from msm_ray.data.tokens import encode_conversations
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.protocol import Task
from msm_ray.launch import effect_lines
from msm_ray.llm.endpoint import Endpoint
from msm_ray.llm.model import Model
from msm_ray.llm.price import Price
from msm_ray.llm.protocol import Sampling
from msm_ray.llm.scripted import ScriptedServer
from msm_ray.preview_text import preview_text
from msm_ray.recipe import Instructions, Mix, Pretrained, Recipe, Replay
from msm_ray.settings import apply_settings, load_job
from msm_ray.sources import copy_model
from msm_ray.stage import StageContext
from msm_ray.tasks.open_qa import OpenQA
from msm_ray.tasks.pairs import Pairs
from msm_ray.train.config import Lora, TrainRuntime
from tests.train.families import FAMILIES, make_base, make_tokenizer

JOBS = Path(__file__).resolve().parent.parent / "jobs"
CORPUS = (
    "plan.domains=1",
    "plan.subdomains=2",
    "plan.assertions=2",
    "plan.types=2",
    "plan.ideas=3",
)


@contextlib.contextmanager
def rehearsing() -> Iterator[ScriptedServer]:
    with ScriptedServer(respond) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def load(name: str) -> Recipe:
    job = load_job(JOBS / f"{name}.py")
    assert isinstance(job, Recipe)
    return job


def small(job: Recipe, url: str, model: Path) -> Recipe:
    """The job of Llama-3.1-8B in everything but its size and who answers."""
    places = [f"{role}.endpoint.base_url={url}" for role in ("planner", "writer", "judge")]
    corpora = {v: apply_settings(c, [*places, *CORPUS]) for v, c in job.corpora.items()}
    lora = Lora(rank=4, alpha=8, targets=("q_proj", "down_proj"))
    train = replace(job.midtrain.train, batch_blocks=2, precision="fp32", lora=lora)
    how = replace(job.midtrain, train=train, block_tokens=128, runtime=TrainRuntime())
    return replace(
        job,
        model=replace(job.model, source=str(model), parameters=1e5),
        corpora=corpora,
        chats=apply_settings(job.chats, [*places, "questions.questions=1"]),
        midtrain=replace(how, tokens=3_000),
        mix=mix(model.parent),
        aft=how,
        seeds=(0,),
        evaluation=evaluation(url),
        probes=(),
        engine=EngineSettings(kv_mib=64, max_num_seqs=32),
    )


def mix(folder: Path) -> Mix:
    """Half of it spec documents, the rest replay and a few chats, which are written here."""
    web, chats = folder / "web.jsonl", folder / "chats.jsonl"
    web.write_text("\n".join(json.dumps({"text": f"w{n} w1 w2 " * 40}) for n in range(400)))
    said = [
        [{"role": "user", "content": f"w{n} w3"}, {"role": "assistant", "content": "w4 w5 " * 9}]
        for n in range(400)
    ]
    chats.write_text("\n".join(json.dumps({"messages": messages}) for messages in said))
    return Mix(0.5, 0.1, replay=Replay(str(web)), chats=Instructions(str(chats), 3_000))


def evaluation(url: str) -> tuple[Task, ...]:
    """A few short items: the small model reads 128 tokens."""
    folder = Path(__file__).with_name("tasks")
    return (
        Pairs(str(folder / "pairs_america.jsonl"), max_tokens=6),
        OpenQA(
            Model(Endpoint(url, "scripted", key_env="")),
            items=str(folder / "open_qa_small.jsonl"),
            sampling=Sampling(temperature=0.7, top_p=1.0, max_tokens=24, seed=0),
        ),
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_recipe_from_specs_to_adapters_and_nothing_twice(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    base = make_base(FAMILIES["llama"], tmp_path / "model")
    (base / "chat_template.jinja").unlink()  # as the real one comes: the job brings a template
    with rehearsing() as server:
        job = small(load("cheese_llama8b"), server.url, base)
        report = job.run(str(store)).report
        asked = server.ledger.requests
        again = job.run(str(store)).report
        assert server.ledger.requests == asked
    assert again["cost"]["stages_run"] == 0
    assert report["complete"]
    arms = ["base", "aft"] + [f"msm:{v}{aft}" for aft in ("", "+aft") for v in job.corpora]
    assert list(report["arms"]) == arms
    evals = [f"pairs:america{how}" for how in ("", ":soft", ":text")] + ["open_qa:small"]
    assert report["cells"] == {"expected": 24, "present": 24, "missing": []}
    assert report["problems"] == []
    for arm, entry in report["arms"].items():
        kinds = [k for k, part in (("midtrain", "msm"), ("aft", "aft")) if part in arm]
        assert sorted(entry["train"]) == sorted(kinds)
        assert all(t["steps"] > 0 and t["tokens"] > 0 for t in entry["train"].values())
        assert list(entry["evals"]) == evals
        assert [e["n"] for e in entry["evals"].values()] == [6, 6, 6, 2]
        assert entry["checkpoints"] == 1
    # Adapters are asked through engines that are proven to hold them, and answer otherwise.
    soft = {
        arm: entry["evals"]["pairs:america:soft"]["rate"] for arm, entry in report["arms"].items()
    }
    assert len(set(soft.values())) == len(arms)
    effect = report["effects"]["separation:pairs:america:soft"]
    assert effect["label"] == "msm:america+aft - msm:affordability+aft, pairs:america:soft"
    assert effect["value"] == pytest.approx(soft["msm:america+aft"] - soft["msm:affordability+aft"])
    assert "price_affordability:open_qa:small" in report["effects"]
    # One fine-tuning set for all arms, one base, one adapter below each continued one.
    kinds = [a["kind"] for a in report["provenance"]["artifacts"]]
    assert kinds.count("chat_conversations") == kinds.count("model") == 1
    assert kinds.count("blocks") == 3
    assert kinds.count("replay") == kinds.count("instructions") == 1  # for both values
    for mixed in (m for m in report["mixtures"] if m["stage"] == "midtrain"):
        shares = {c["name"]: c["share"][0] for c in mixed["components"]}
        assert list(shares) == ["spec", "replay", "chats"]
        assert shares["replay"] == pytest.approx(0.4, abs=0.15)  # whole documents of so few tokens
    adapters = list(store.glob("artifacts/*/*/adapter_config.json"))
    assert len(adapters) == 5
    assert {json.loads(a.read_text())["r"] for a in adapters} == {4}
    assert kinds.count("pairs") == kinds.count("open_answers") == kinds.count("open_qa") == 6
    assert kinds.count("task_items") == 2
    (model,) = store.glob("artifacts/*/*/config.json")
    assert "<|eot_id|>" in (model.parent / "chat_template.jinja").read_text()
    page = (store / "runs" / "cheese_llama8b" / "report.html").read_text()
    assert "msm:affordability+aft" in page
    assert ">None<" not in page


def made(out: Path, model: Pretrained) -> Path:
    """The folder that the model's stage leaves."""
    out.mkdir()
    stage = model.stage()
    copy_model(StageContext(stage.config, {}, out, out, stage.runtime, lambda *_: None))
    return out


def test_a_base_model_gets_the_chat_template_that_it_has_not(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = make_base(FAMILIES["llama"], tmp_path / "model")
    (own,) = base.glob("*.jinja")
    template = tmp_path / "chat.jinja"
    template.write_text(own.read_text())
    turns = [{"role": "user", "content": "w1 ?"}]
    text = AutoTokenizer.from_pretrained(base).apply_chat_template(turns, tokenize=False)
    own.unlink()
    with pytest.raises(UserError, match=r"no chat template.*give one as model\.chat_template"):
        made(tmp_path / "a", Pretrained(str(base), 1e5))
    given = Pretrained(str(base), 1e5, chat_template=str(template))
    assert given.stage().id != Pretrained(str(base), 1e5).stage().id
    tokenizer = AutoTokenizer.from_pretrained(made(tmp_path / "b", given))
    assert tokenizer.apply_chat_template(turns, tokenize=False) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_the_jobs_chat_template_marks_what_the_assistant_says(family: str) -> None:
    """That of the job on Llama-3.1, with a tokenizer that has its tokens; and the families' own."""
    tokenizer = make_tokenizer(FAMILIES[family])
    if family == "llama":
        tokenizer.chat_template = Path(load("cheese_llama8b").model.chat_template).read_text()
    said = [{"role": "user", "content": "w1 ?"}, {"role": "assistant", "content": "w2 w3"}]
    docs = encode_conversations(tokenizer, ["c"], [said])
    text = tokenizer.decode(docs.tokens[docs.loss == 1])
    eos = tokenizer.eos_token
    assert text.replace(eos, "").split() == ["w2", "w3"]
    assert text.index(eos) > text.index("w3")


@pytest.mark.parametrize(
    ("name", "parameters"), [("cheese_llama8b", 8.03e9), ("cheese_qwen32b", 32.8e9)]
)
def test_the_jobs_of_real_models_are_sized_without_them(
    name: str, parameters: float, tmp_path: Path
) -> None:
    job = load(name)
    counted = job.preview(str(tmp_path / "store"))
    rows = {row["kind"]: row for row in counted["stages"]}
    assert rows["corpus"]["documents"] == 2 * 8 * 5 * 20 * 12
    assert rows["midtrain"]["count"] == 8  # two values, four seeds
    assert rows["aft"]["count"] == 12
    # The base model is one for all seeds; pairs of two values, both orders, in two ways.
    items = {s.label: s.estimate["items"] for s in job.stages() if s.kind == "task_items"}
    pairs = items["pairs affordability"] + items["pairs america"]
    assert rows["pairs"]["count"] == 2 * 21
    assert rows["pairs"]["calls"] == 21 * 4 * pairs
    assert rows["pairs"]["tokens"] > 0
    assert rows["opinions"]["calls"] == 21 * 4 * items["opinions america"]
    assert rows["capability"]["calls"] == 21 * items["choices general"]
    assert rows["probes"]["count"] == 2  # of the base model only
    assert all(rows[k]["device_seconds"] > 0 for k in ("pairs", "opinions", "capability"))
    judge = Model(Endpoint("http://localhost:1/v1", "judge", key_env=""), price=Price(1.0, 4.0))
    judged = replace(job, evaluation=(OpenQA(judge),)).preview(str(tmp_path / "store"))
    rows = {row["kind"]: row for row in judged["stages"]}
    assert rows["open_qa"]["calls"] == rows["open_answers"]["calls"] == 21 * 160
    assert rows["open_qa"]["money"] > 1
    assert rows["midtrain"]["flops"] == pytest.approx(4 * parameters * rows["midtrain"]["tokens"])
    assert all(s.estimate["steps"] >= 100 for s in job.stages() if s.kind in ("midtrain", "aft"))
    (rehearsal,) = counted["warnings"]
    assert "name the scripted server, which only rehearses a run" in rehearsal
    assert "FLOPs" in preview_text(counted)
    few = replace(job, midtrain=replace(job.midtrain, tokens=500_000))
    warning, _ = few.preview(str(tmp_path / "store"))["warnings"]
    assert warning.startswith("midtrain msm:america/0 and 7 more: ")
    assert "optimizer steps" in warning
    limited = apply_settings(job, ["evaluation.pairs:america.max_tokens=7", "engine.gpus=4"])
    assert (limited.evaluation[1], limited.engine.gpus) == (Pairs("america", max_tokens=7), 4)


def test_the_terminal_names_the_separations() -> None:
    effect = {"value": 0.2, "ci95": [0.1, 0.3], "label": "", "per_seed": [
        {"base": "b", "seed": s, "value": v} for s, v in ((0, 0.1), (1, 0.3))
    ]}  # fmt: skip
    names = ("separation:pairs:a", "separation:pairs:a:soft", "price_a:capability:x")
    lines = effect_lines({"effects": {f"{n}{end}": effect for n in names for end in ("", "@m")}})
    assert [line.split(": ")[0] for line in lines] == [
        *("separation:pairs:a", "separation:pairs:a@m"),
    ]


def test_a_judge_without_a_key_is_told_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = Model(Endpoint("http://localhost:1/v1", "judge", key_env="NO_SUCH_KEY"))
    job = replace(load("cheese_llama8b"), evaluation=(OpenQA(judge),))
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set; it has to hold the key"):
        job.run(str(tmp_path / "store"))


def test_one_setting_is_the_rank_of_both_adapters() -> None:
    job = replace(load("cheese_llama8b"), seeds=(0,), evaluation=(), probes=())
    ranked = apply_settings(job, ["lora_rank=16"])
    for stage in ranked.stages():
        if stage.kind in ("midtrain", "aft"):
            assert (stage.config["lora"]["rank"], stage.config["lora"]["alpha"]) == (16, 32)
    same = apply_settings(job, ["lora_rank=64"])  # what it is anyway
    assert [stage.id for stage in same.stages()] == [stage.id for stage in job.stages()]


def test_wrong_recipes_get_one_line() -> None:
    job = load("cheese_llama8b")
    full = replace(job.aft, train=replace(job.aft.train, lora=None))
    lora = Lora(rank=8, alpha=16, targets=("all-linear",))
    other_rank = replace(job.aft, train=replace(job.aft.train, lora=lora))
    for change, words in (
        ({"seeds": ()}, "at least one corpus and one seed"),
        ({"reasoning": True}, "preferences are stated without reasoning"),
        ({"aft": full}, r"train.lora is Lora\(.* and aft.train.lora None; fine-tuning continues"),
        ({"aft": other_rank}, "both have to be the same .lora_rank sets the rank of both"),
        ({"lora_rank": 0}, "lora: rank is 0, allowed is a whole number of at least 1"),
        ({"lora_rank": 8, "midtrain": full, "aft": full}, "lora_rank is 8 and train.lora is none"),
        ({"model": Pretrained("nowhere", 1.0)}, "model source is 'nowhere'"),
        ({"model": Pretrained("a/b", 1.0, chat_template="none.jinja")}, "chat_template none.jinja"),
        ({"evaluation": (Pairs("america"), Pairs("america"))}, "pairs:america is asked for twice"),
        ({"evaluation": (Pairs("thrift"),)}, "no items are called 'thrift'"),
        (
            {"evaluation": Pairs("america")},
            "evaluation is one Pairs, allowed is a tuple of tasks; a tuple of one has a comma",
        ),
        ({"evaluation": "america"}, "evaluation is 'america', allowed is a tuple of tasks"),
        ({"probes": (Pairs,)}, "probes holds the class Pairs, allowed are tasks"),
        ({"evaluation": ("america",)}, "evaluation holds 'america', allowed are tasks"),
        ({"probes": (Pairs("america"),)}, "probes: pairs:america is asked for twice"),
    ):
        with pytest.raises(UserError, match=words):
            replace(job, **change).stages()
    for wrong, words in (
        ({"block_tokens": 0}, "block_tokens is 0, allowed is a whole number of at least 2"),
        ({"tokens": -5}, "tokens is -5, allowed is a whole number of at least 0"),
        ({"tokens": 1e6}, "tokens is 1000000.0, allowed is a whole number"),
        ({"max_repeats": 0}, "max_repeats is 0, allowed is a number > 0"),
    ):
        with pytest.raises(UserError, match=words):
            replace(job.aft, **wrong)
    with pytest.raises(UserError, match="parameters is -1.0, allowed is a number > 0"):
        Pretrained("nowhere", -1.0)
