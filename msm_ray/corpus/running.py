"""What jobs about a spec have in common: previewed, run, resumed and reported in one way.

Ray is needed only where one of the models runs on the cluster: else what is waited for is the
network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.artifact import Record, Store
from msm_ray.corpus.making import items_sha256, read_items
from msm_ray.corpus.outages import check_share
from msm_ray.errors import UserError
from msm_ray.identity import digest
from msm_ray.llm.model import AnyModel
from msm_ray.llm.protocol import Sampling
from msm_ray.observe import cost_summary
from msm_ray.preview import count_by_kind, disk_space, few_steps, gpu_time, rehearsed
from msm_ray.provenance import artifacts
from msm_ray.settings import RunResult
from msm_ray.spec import check_size, fill, read_spec
from msm_ray.stage import Stage, scan


def spec_stage(path: str, tokens: int, assistant: str, maker: str) -> Stage:
    """A spec's text as an artifact. UserError if it cannot be read or its names filled in."""
    text = read_spec(Path(path))
    check_size(text, tokens)
    fill(text, assistant, maker)
    return Stage(
        kind="spec",
        version="1",
        config={"sha256": text.sha256},
        inputs={},
        run="msm_ray.sources:copy_spec",
        label=Path(path).stem,
        runtime={"path": path, "where": "driver", "cpus": 0},
        estimate={"seconds": 0.1},
    )


def titled(path: str) -> dict[str, str]:
    """For the config of a stage whose rows name the spec: ``title``, where its text has none.

    A spec without headings is called by its file; one with headings may be renamed.
    """
    spec = read_spec(Path(path))
    (first, *others) = spec.sections
    return {"title": spec.title} if not others and not first.level else {}


def items_stage(paths: Sequence[str], label: str) -> Stage:
    """The evaluation items of JSONL files as an artifact."""
    return Stage(
        kind="held_out_items",
        version="1",
        config={"sha256": items_sha256(read_items(Path(path)) for path in paths)},
        inputs={},
        run="msm_ray.corpus.making:copy_items",
        label=label,
        runtime={"paths": list(paths), "where": "driver", "cpus": 0},
        estimate={"seconds": 0.2},
    )


def runtime_of(failed_share: float, **models: AnyModel | None) -> dict[str, Any]:
    """The runtime of a stage that asks models, by their roles; `outages` on the share."""
    places = {role: model.place() for role, model in models.items() if model is not None}
    return {**places, "failed_share": failed_share, "where": "driver", "cpus": 0.1}


def check_drafting(
    drafts: int, judge: AnyModel | None, judge_sampling: Sampling | None, failed_share: float
) -> None:
    """UserError unless something can be drafted, and judged if it is to be."""
    check_share(failed_share)
    if drafts < 1:
        raise UserError(f"drafts is {drafts}; allowed: 1 or more")
    if (judge is None) != (judge_sampling is None):
        raise UserError("judge and judge_sampling belong together; one of them is missing")


def drafted_part(
    folder: Path, title: str, writer: AnyModel, names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a report says of one set of drafts, and its card; ``title`` names it there.

    ``folder``: the artifact's; ``names``: the files in it that people look for.
    """
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    counts = {k: card[k] for k in ("planned", "kept", "rejected", "failed", "reasons")}
    part = {
        **counts,
        "writer": writer.name,
        "tokens": card["tokens_kept"],
        "samples": card["samples"],
        "rejected_samples": card["rejected_samples"],
        "files": [str(folder / name) for name in names if (folder / name).is_file()],
    }
    report = {
        **counts,
        "by_corpus": {title: part},
        "redrafted": card["redrafted"],
        "drafts_rejected": card["drafts_rejected"],
        **{name: card[name] for name in ("unmetered", "items_too_short", "not_compared")},
    }
    return report, card


@dataclass(frozen=True)
class SpecJob:
    """A job about a spec; the last of its stages is its result."""

    name: str
    title: str

    def stages(self) -> list[Stage]:
        """All stages, inputs before what reads them."""
        raise NotImplementedError

    def result(
        self, store: Store, stages: list[Stage], records: dict[str, Record]
    ) -> dict[str, Any]:
        """The report's part ``corpus``; empty as long as what it is about is not there."""
        raise NotImplementedError

    def cells(self) -> list[tuple[str, str, Stage]]:
        """(arm, what of it, stage) of everything that the job declares."""
        return [("corpus", self.name, self.stages()[-1])]

    def models(self) -> list[AnyModel]:
        """Whom the stages ask."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return [value for value in values if isinstance(value, AnyModel)]

    def arms(self, records: Mapping[str, Record]) -> dict[str, Any]:
        """The report's part ``arms``; a corpus has none."""
        return {}

    def sharing(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """What making a stage once saves; nothing where there is one of each."""
        count = len(stages)
        return {"stages_if_not_shared": count, "stages": count, "device_seconds_saved": 0}

    def warnings(self, missing: Sequence[Stage]) -> list[str]:
        """What a preview warns of, of the stages that are to be made."""
        return few_steps(missing)

    def preview(self, store_url: str) -> dict[str, Any]:
        """Documents, calls, tokens and dollars, before anything is spent.

        ``calls`` and ``money`` are those of a first draft of everything; ``calls_at_most`` and
        ``money_at_most`` of all drafts, rewrites and further verdicts that a job allows.
        """
        store = Store(store_url, create=False)  # looks, and sets nothing aside
        stages = self.stages()
        there = set(scan(stages, store).records)
        numbers: tuple[str, ...] = ("documents", "calls", "tokens", "prompt_tokens", "money")
        numbers += ("calls_at_most", "money_at_most", "steps", "flops")
        rows, totals = count_by_kind(stages, there, numbers)
        sharing = self.sharing(stages)
        missing = [stage for stage in stages if stage.id not in there]
        return {
            "name": self.name,
            "stages": rows,
            "totals": totals,
            "sharing": sharing,
            "gpus": gpu_time(missing),
            "disk": disk_space(missing),
            "warnings": [*self.warnings(missing), *rehearsed(self, missing)],
        }

    # ---- run ----------------------------------------------------------------------------------

    def run(self, store_url: str, address: str | None = None) -> RunResult:
        """Make what is missing and write ``runs/NAME/report.{json,html}``.

        Raises as :func:`msm_ray.run.run_job`.
        """
        from msm_ray.run import run_job

        stages = self.stages()

        def report(
            store: Store, records: dict[str, Record], made: set[str], facts: dict[str, Any]
        ) -> dict[str, Any]:
            return self._report(store, stages, records, made, facts)

        return run_job(self.name, stages, store_url, address, report, self.models())

    def _report(
        self,
        store: Store,
        stages: list[Stage],
        records: dict[str, Record],
        made: set[str],
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        cells = self.cells()
        missing = [{"arm": arm, "eval": what} for arm, what, s in cells if s.id not in records]
        ids = [stage.id for _, _, stage in cells]
        return {
            "name": self.name,
            "title": self.title,
            "kind": "corpus",
            "fingerprint": (ids[0] if len(ids) == 1 else digest(ids))[:16],
            "wall_seconds": round(facts["wall_seconds"], 2),
            "complete": not missing,
            "cells": {
                "expected": len(cells),
                "present": len(cells) - len(missing),
                "missing": missing,
            },
            "arms": self.arms(records),
            "effects": {},
            "corpus": self.result(store, stages, records),
            "cost": cost_summary([(r, r.id not in made) for r in records.values()]),
            "provenance": {
                **{k: facts[k] for k in ("started", "finished", "versions", "machine")},
                "settings": dataclasses.asdict(self),
                "artifacts": artifacts((s for s in stages if s.id in records), made),
            },
        }
