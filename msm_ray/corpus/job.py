"""A corpus as a job: a spec, who plans and writes and judges, and what a document must be.

    spec -> plan -> corpus

Run, previewed and resumed like any other job. No Ray is needed: what is waited for is the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.corpus import verdicts
from msm_ray.corpus.hierarchy import HierarchyConfig
from msm_ray.corpus.making import read_items
from msm_ray.corpus.prompts import fingerprint, names
from msm_ray.corpus.screening import ScreenConfig
from msm_ray.corpus.structure import plan_structure
from msm_ray.errors import UserError
from msm_ray.llm.model import Model
from msm_ray.llm.price import CHARACTERS_PER_TOKEN
from msm_ray.llm.protocol import Sampling
from msm_ray.observe import Observer, cost_summary
from msm_ray.report.html import render_html
from msm_ray.settings import RunResult
from msm_ray.spec import check_size, fill, read_spec
from msm_ray.stage import LocalLauncher, Stage, StageFailed, run_dag, scan, topological

__all__ = ["CorpusJob", "Model"]

TOKENS_PER_WORD = 1.35  # of English prose, with what a scratchpad adds below
SCRATCHPAD_TOKENS = 220


@dataclass(frozen=True)
class CorpusJob:
    """What a corpus decides.

    ``planner``: who plans (None in structure mode). ``judge``: who judges what passes the screen
    (None keeps it). ``rewrite``: what the judge rejects goes back to the writer once with its
    problems. ``drafts``: how often a document is asked for at most, so that the corpus gets whole.
    ``items``: JSONL files of evaluation items that no document may hold.
    """

    name: str
    title: str
    spec: str
    plan: HierarchyConfig
    planner: Model | None
    writer: Model
    sampling: Sampling
    screen: ScreenConfig
    drafts: int
    judge: Model | None = None
    judge_sampling: Sampling | None = None
    rewrite: bool = False
    items: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.drafts < 1:
            raise UserError(f"drafts is {self.drafts}; allowed: 1 or more")
        if (self.planner is None) != (self.plan.mode == "structure"):
            has = "none is given" if self.planner is None else "one is given"
            raise UserError(f"planner: plan.mode is {self.plan.mode!r} and {has}")
        if (self.judge is None) != (self.judge_sampling is None):
            raise UserError("judge and judge_sampling belong together; one of them is missing")
        if self.rewrite and self.judge is None:
            raise UserError("rewrite is on without a judge; give one or switch it off")

    # ---- stages -------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """spec, plan, items, corpus: inputs before what reads them."""
        return topological([self.corpus_stage()])

    def spec_stage(self) -> Stage:
        """The spec's text as an artifact. UserError if it cannot be read or planned from."""
        text = read_spec(Path(self.spec))
        check_size(text, self.plan.spec_tokens)
        fill(text, self.plan.assistant, self.plan.maker)
        return Stage(
            kind="spec",
            version="1",
            config={"name": Path(self.spec).stem, "sha256": text.sha256},
            inputs={},
            run="msm_ray.sources:copy_spec",
            label=Path(self.spec).stem,
            runtime={"path": self.spec, "where": "driver", "cpus": 0},
            estimate={"seconds": 0.1},
        )

    def plan_stage(self) -> Stage:
        """From the spec to one row for each document."""
        config = {f.name: getattr(self.plan, f.name) for f in dataclasses.fields(self.plan)}
        config["sampling"] = self.plan.sampling.to_config() if self.plan.sampling else None
        return Stage(
            kind="corpus_plan",
            version="1",
            config={
                "plan": config,
                "planner": self.planner.identity() if self.planner else None,
                "prompts": fingerprint(n for n in names() if not n.startswith("judge")),
            },
            inputs={"spec": self.spec_stage()},
            run="msm_ray.corpus.making:plan",
            label=self.name,
            runtime=self._runtime(planner=self.planner),
            estimate={"seconds": 60.0 if self.planner else 1.0, "calls": self._planning_calls()},
        )

    def corpus_stage(self) -> Stage:
        """From the plan to the documents."""
        inputs = {"plan": self.plan_stage(), "spec": self.spec_stage()}
        if self.items:
            inputs["items"] = self._items_stage()
        calls, prompt_tokens, tokens, dollars = self._writing_costs()
        judge = self.judge_sampling.to_config() if self.judge_sampling else None
        return Stage(
            kind="corpus",
            version="1",
            config={
                "writer": self.writer.identity(),
                "sampling": self.sampling.to_config(),
                "judge": self.judge.identity() if self.judge else None,
                "judge_sampling": judge,
                "rewrite": self.rewrite,
                "drafts": self.drafts,
                "screen": dataclasses.asdict(self.screen),
                "assistant": self.plan.assistant,
                "maker": self.plan.maker,
                "prompts": fingerprint(verdicts.PROMPTS),
            },
            inputs=inputs,
            run="msm_ray.corpus.making:corpus",
            label=self.name,
            runtime=self._runtime(writer=self.writer, judge=self.judge),
            estimate={
                "seconds": max(5.0, calls * 10.0 / self.writer.http.concurrency),
                "documents": self._documents(),
                "calls": calls,
                "tokens": tokens,
                "prompt_tokens": prompt_tokens,
                "money": dollars,
            },
        )

    def _items_stage(self) -> Stage:
        digest = hashlib.sha256()
        for path in self.items:
            digest.update(json.dumps(read_items(Path(path))).encode())
        return Stage(
            kind="items",
            version="1",
            config={"sha256": digest.hexdigest()},
            inputs={},
            run="msm_ray.corpus.making:copy_items",
            label=self.name,
            runtime={"paths": list(self.items), "where": "driver", "cpus": 0},
            estimate={"seconds": 0.2},
        )

    @staticmethod
    def _runtime(**models: Model | None) -> dict[str, Any]:
        places = {role: model.place() for role, model in models.items() if model is not None}
        return {**places, "where": "driver", "cpus": 0.1}

    # ---- what it will cost --------------------------------------------------------------------

    def _documents(self) -> int:
        """Planned documents: exact without a planner, else what the counts ask for."""
        plan = self.plan
        if plan.mode == "structure":
            spec = fill(read_spec(Path(self.spec)), plan.assistant, plan.maker)
            return plan_structure(spec, plan).documents
        topics = plan.domains * plan.subdomains if plan.mode == "model" else self._rules()
        return topics * plan.types * plan.ideas

    def _rules(self) -> int:
        from msm_ray.spec import rules

        return len(rules(read_spec(Path(self.spec))))

    def _planning_calls(self) -> int:
        """Prompts of a planner that answers all it is asked for."""
        plan = self.plan
        if plan.mode == "structure":
            return 0

        def asked(count: int) -> int:
            return -(-count // plan.per_answer)

        if plan.mode == "rules":
            topics = self._rules()
            levels = [asked(plan.domains), topics * asked(plan.types)]
        else:
            topics = plan.domains * plan.subdomains
            levels = [asked(plan.domains), plan.domains * asked(plan.subdomains)]
            levels += [topics * asked(plan.assertions), topics * asked(plan.types)]
        return sum(levels) + topics * plan.types * asked(plan.ideas)

    def _writing_costs(self) -> tuple[int, int, int, float]:
        """Calls, prompt tokens, answer tokens, US dollars of one draft of each document."""
        documents = self._documents()
        spec = len(read_spec(Path(self.spec)).text) / CHARACTERS_PER_TOKEN
        words = self.plan.words * TOKENS_PER_WORD
        prompt = int(documents * (spec + 1_100))  # the writer's instructions and the request
        tokens = int(documents * min(words + SCRATCHPAD_TOKENS, self.sampling.max_tokens))
        dollars = self.writer.price.of(prompt, tokens)
        calls = documents
        if self.judge is not None:
            judged, verdict = int(documents * (words + 1_500)), documents * 150
            calls, prompt, tokens = calls + documents, prompt + judged, tokens + verdict
            dollars += self.judge.price.of(judged, verdict)
        if self.planner is not None:
            asked = self._planning_calls()
            per_prompt, per_answer = spec + 900, 80 * self.plan.per_answer
            dollars += self.planner.price.of(int(asked * per_prompt), asked * per_answer)
        return calls, prompt, tokens, round(dollars, 4)

    def preview(self, store_url: str) -> dict[str, Any]:
        """Documents, calls, tokens and dollars, before anything is spent."""
        store = Store(store_url, create=False)
        stages = self.stages()
        there = set(scan(stages, store).records)
        rows = []
        numbers = ("documents", "calls", "tokens", "prompt_tokens", "money")
        for stage in stages:
            is_there = stage.id in there
            row: dict[str, Any] = {"kind": stage.kind, "label": stage.label, "count": 1}
            row |= {"cached": int(is_there), "steps": 0, "flops": 0}
            row |= {n: 0 if is_there else stage.estimate.get(n, 0) for n in numbers}
            row["device_seconds"] = 0 if is_there else stage.estimate.get("seconds", 0)
            rows.append(row)
        columns = ("count", "cached", *numbers, "steps", "flops", "device_seconds")
        totals = {n: sum(row[n] for row in rows) for n in columns}
        sharing = {"stages_if_not_shared": len(rows), "stages": len(rows)}
        return {
            "name": self.name,
            "stages": rows,
            "totals": totals,
            "sharing": {**sharing, "device_seconds_saved": 0},
        }

    # ---- run ----------------------------------------------------------------------------------

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Make what is missing and write ``runs/NAME/report.{json,html}``.

        Raises:
            UserError: the input, the endpoint or its key is wrong; what was answered stays.
            StageFailed: a stage failed.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        stages = self.stages()
        store = Store(store_url)
        observer = Observer(events=store.events_path(self.name))
        failure: BaseException | None = None
        try:
            run_dag(stages, store, LocalLauncher(observer.progress), observer)
        except (StageFailed, UserError, KeyboardInterrupt) as error:
            failure = error
        records = {s.id: r for s in stages if (r := store.get(s.id)) is not None}
        report = self._report(store, stages, records, observer.state.made_ids)
        report["wall_seconds"] = round(time.monotonic() - clock, 2)
        report["provenance"]["started"] = started.isoformat()
        report["provenance"]["finished"] = datetime.now(UTC).isoformat()
        page = render_html(report).encode("utf-8")
        for folder in (f"runs/{self.name}/{report['fingerprint']}", f"runs/{self.name}"):
            json_url = store.write_json(f"{folder}/report.json", report)
            html_url = store.write_bytes(f"{folder}/report.html", page)
        if failure is not None:
            raise failure
        return RunResult(report, json_url, html_url, report["complete"])

    def _report(
        self, store: Store, stages: list[Stage], records: dict[str, Record], made: set[str]
    ) -> dict[str, Any]:
        last = stages[-1]
        is_there = last.id in records
        missing = [] if is_there else [{"arm": "corpus", "eval": self.name}]
        return {
            "name": self.name,
            "title": self.title,
            "kind": "corpus",
            "fingerprint": last.id[:16],
            "complete": is_there,
            "cells": {"expected": 1, "present": int(is_there), "missing": missing},
            "arms": {},
            "effects": {},
            "corpus": self._corpus(store, stages, records) if is_there else {},
            "cost": cost_summary([(r, r.id not in made) for r in records.values()]),
            "provenance": {
                "settings": dataclasses.asdict(self),
                "artifacts": [
                    {"id": s.id, "kind": s.kind, "label": s.label, "cached": s.id not in made}
                    for s in stages
                    if s.id in records
                ],
            },
        }

    def _corpus(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        last = stages[-1]
        card = json.loads((store.fetch(last.id) / "card.json").read_text(encoding="utf-8"))
        plan = last.inputs["plan"]
        hierarchy = json.loads(
            (store.fetch(plan.id) / "hierarchy.json").read_text(encoding="utf-8")
        )
        counts = {k: card[k] for k in ("planned", "kept", "rejected", "failed", "reasons")}
        part = {
            **counts,
            "writer": self.writer.endpoint.model,
            "tokens": card["tokens_kept"],
            "samples": card["samples"],
            "rejected_samples": card["rejected_samples"],
        }
        return {
            **counts,
            "by_corpus": {Path(self.spec).stem: part},
            "redrafted": card["redrafted"],
            "drafts_rejected": card["drafts_rejected"],
            "measures": card["measures"],
            "hierarchy": hierarchy,
        }
