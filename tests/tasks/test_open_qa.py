"""Free answers and their judge: verdicts are asked for once per store, and never made up."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.artifact import Store
from msm_ray.errors import UserError
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.requests import Request
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.model import Model
from msm_ray.llm.price import Price
from msm_ray.llm.protocol import Sampling
from msm_ray.llm.scripted import ScriptedServer
from msm_ray.recipe import Pretrained
from msm_ray.shelf import Shelf
from msm_ray.stage import StageContext
from msm_ray.tasks.asking import row, write_rows
from msm_ray.tasks.open_qa import ANSWERS, OpenQA, ask_open, judge, rated
from tests.tasks.asked import says, subject, tokenizer

ITEMS = [{"id": f"q{i}", "domain": "oversight", "question": f"Why {i}?"} for i in range(4)]


@contextlib.contextmanager
def judging(respond: Callable[[str, int], str]) -> Iterator[ScriptedServer]:
    with ScriptedServer(respond) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def model(url: str, **more: Any) -> Model:
    http = HttpRuntime(concurrency=4, max_attempts=2, backoff_s=0.01, flush_rows=1)
    return Model(Endpoint(url, "scripted", key_env=""), http, Price(1.0, 2.0), **more)


def graded(
    folder: Path, task: OpenQA, answers: Sequence[str], name: str = "one"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The judge's stage over ``answers`` to the items, in the store below ``folder``."""
    given, out, work = (folder / name / part for part in ("answers", "out", "work"))
    for path in (given, out, work):
        path.mkdir(parents=True)
    rows = [
        row(item, ANSWERS, None, prompt=item["question"], answer=said)
        for item, said in zip(ITEMS, answers, strict=True)
    ]
    write_rows(given, rows)
    stage = task.stage({"model": Pretrained("owner/name", 8e9).stage()}, name, EngineSettings())
    ctx = StageContext(
        config=json.loads(json.dumps(stage.config)),
        inputs={"answers": given},
        out=out,
        work=work,
        runtime=dict(stage.runtime),
        progress=lambda fraction, facts: None,
        input_ids={"answers": name},
        shelf=Shelf(Store(folder / "store")),
    )
    return judge(ctx), pq.read_table(out / "rows.parquet").to_pylist()


def score(prompt: str, seed: int) -> str:
    """As many points as the answer has letters."""
    said = prompt.split("----- answer")[1].split("-----\n")[1].split("\n-----")[0]
    return json.dumps({"reason": "counted", "score": len(said)})


def test_the_same_answer_is_judged_once_per_store(tmp_path: Path) -> None:
    with judging(score) as server:
        task = OpenQA(model(server.url))
        first, rows = graded(tmp_path, task, ["a", "bb", "ccc", "dddd"])
        assert first["evals"]["open_qa"]["rate"] == 2.5
        assert first["evals"]["open_qa"]["by_domain"] == {"oversight": {"rate": 2.5, "n": 4}}
        assert [r["value"] for r in rows] == [1, 2, 3, 4]
        assert first["calls"] == server.ledger.requests == 4
        assert first["money"] > 0
        # Another checkpoint, with two answers that are the same word for word.
        second, _ = graded(tmp_path, task, ["a", "bb", "c", "d"], "two")
        assert server.ledger.requests == 6
        assert (second["calls"], second["from_cache"]) == (2, 2)
        again, same = graded(tmp_path, task, ["a", "bb", "ccc", "dddd"], "three")
        assert server.ledger.requests == 6
        assert (again["from_cache"], again["money"], same) == (4, 0.0, rows)
        # What the verdict depends on besides: the rubric, and how the judge is asked.
        rubric = tmp_path / "rubric.txt"
        rubric.write_text("Count.")
        graded(tmp_path, OpenQA(model(server.url), rubric=str(rubric)), ["a"] * 4, "four")
        assert server.ledger.requests == 10
        # Not where it stands.
        moved = Model(Endpoint(server.url + "/", "scripted", key_env=""), HttpRuntime(1))
        graded(tmp_path, OpenQA(moved), ["a", "bb", "ccc", "dddd"], "five")
        assert server.ledger.requests == 10


def test_two_stages_side_by_side_do_not_ask_twice(tmp_path: Path) -> None:
    with judging(score) as server:
        task, found = OpenQA(model(server.url)), {}

        def run(name: str) -> None:
            found[name] = graded(tmp_path, task, ["a", "bb", "ccc", "dddd"], name)[0]

        threads = [threading.Thread(target=run, args=(f"t{i}",)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.ledger.requests == 4
        assert sorted(facts["from_cache"] for facts in found.values()) == [0, 4, 4]


def test_what_is_no_verdict_is_counted_and_is_no_score(tmp_path: Path) -> None:
    def respond(prompt: str, seed: int) -> str:
        if "Why 0?" in prompt:
            return "I'm sorry, but I can't help with that."
        return "seven" if "Why 1?" in prompt else score(prompt, seed)

    with judging(respond) as server:
        facts, rows = graded(tmp_path, OpenQA(model(server.url)), ["a", "bb", "ccc", "dddd"])
        assert server.ledger.requests == 6  # what is no verdict is asked for once more
        graded(tmp_path, OpenQA(model(server.url)), ["a", "bb", "ccc", "dddd"], "two")
        assert server.ledger.requests == 6  # and then that is what this judge says
    entry = facts["evals"]["open_qa"]
    assert (entry["rate"], entry["n"]) == (3.5, 2)
    assert (entry["refused"], entry["unparsed"], entry["failed"]) == (1, 1, 0)
    said = pq.read_table(tmp_path / "one" / "out" / "verdicts.parquet").to_pylist()
    assert [v["score"] for v in said] == [None, None, 3, 4]
    assert (said[1]["reason"], said[2]["reason"]) == ("broken_json", "counted")
    assert [(r["status"], r["value"]) for r in rows] == [
        *(("refused", None), ("unparsed", None), ("ok", 3), ("ok", 4))
    ]


def test_a_judge_that_only_refuses_gives_no_rate(tmp_path: Path) -> None:
    with judging(lambda prompt, seed: "I'm sorry, but I can't help with that.") as server:
        facts, rows = graded(tmp_path, OpenQA(model(server.url)), ["a", "bb", "ccc", "dddd"])
    assert facts["evals"] == {}
    assert facts["problems"] == [
        "open_qa: the judge gave no score for any of 4 answers (4 refused)"
    ]
    assert {r["value"] for r in rows} == {None}


def test_a_judge_that_is_not_there_ends_the_stage(tmp_path: Path) -> None:
    with judging(score) as server:
        url = server.url
    with pytest.raises(UserError):
        graded(tmp_path, OpenQA(model(url)), ["a", "bb", "ccc", "dddd"])
    assert not [p for p in (tmp_path / "store" / "cache").rglob("*") if p.is_file()]


def test_a_judge_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    asked = Model(Endpoint("http://localhost:1/v1", "judge", key_env="NO_SUCH_KEY"))
    (of_task,) = OpenQA(asked).models()
    with pytest.raises(UserError, match="the environment variable NO_SUCH_KEY is not set"):
        of_task.check()


def test_answers_are_drawn_with_a_seed_of_each_item_s_own() -> None:
    tokens = tokenizer()

    def one(text: str, request: Request) -> Sequence[float]:
        return says(tokens, f"{request.seed % 10}")

    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=40, seed=3)
    asked, seen = subject(one)
    made = ask_open(asked, ITEMS, sampling)
    assert [r.seed for r in seen.requests] == [sampling.seed_of(item["id"]) for item in ITEMS]
    assert {(r.temperature, r.top_p, r.max_tokens) for r in seen.requests} == {(0.7, 0.9, 40)}
    assert [r["answer"] for r in made.rows] == [str(r.seed % 10) for r in seen.requests]
    assert made.facts == {"items": 4, "cut": 0}
    short = Sampling(temperature=0.7, top_p=0.9, max_tokens=1, seed=3)
    made = ask_open(asked, ITEMS, short)
    assert (made.facts["cut"], {r["status"] for r in made.rows}) == (4, {"cut"})


def test_stages_and_what_they_cost(tmp_path: Path) -> None:
    inputs = {"model": Pretrained("owner/name", 8e9).stage()}
    task = OpenQA(model("http://localhost:1/v1"))
    one = task.stage(inputs, "base", EngineSettings())
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Count.")
    judged = OpenQA(model("http://localhost:1/v1"), rubric=str(rubric)).stage(
        inputs, "base", EngineSettings()
    )
    hot = OpenQA(
        model("http://localhost:1/v1"), sampling=Sampling(1.0, 1.0, max_tokens=512, seed=0)
    ).stage(inputs, "base", EngineSettings())
    assert one.id != judged.id
    assert one.inputs["answers"].id == judged.inputs["answers"].id != hot.inputs["answers"].id
    questions = one.inputs["answers"].inputs["items"].estimate["items"]
    assert one.estimate["calls"] == one.inputs["answers"].estimate["calls"] == questions
    assert one.estimate["money"] > 0
    assert one.estimate["money_at_most"] == pytest.approx(2 * one.estimate["money"], abs=2e-4)
    assert one.inputs["answers"].estimate["tokens"] == 250 * questions
    with pytest.raises(UserError, match="failed_share is 2"):
        OpenQA(model("http://localhost:1/v1"), failed_share=2)


def test_every_status_is_counted() -> None:
    rows = [
        {**row(item, "open_qa", None, prompt="", status=status), "value": value}
        for item, (status, value) in zip(
            ITEMS, [("ok", 5), ("failed", None), ("unparsed", None), ("ok", 8)], strict=True
        )
    ]
    entry = rated(rows, "open_qa")["evals"]["open_qa"]
    assert (entry["rate"], entry["n"], entry["failed"], entry["refused"]) == (6.5, 2, 1, 0)
