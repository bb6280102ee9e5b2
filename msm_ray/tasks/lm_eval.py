"""Tasks of the Language Model Evaluation Harness by their names, against the served checkpoint.

The checkpoint is served by vLLM's own OpenAI-compatible server, proven to be that checkpoint, and
``lm_eval`` runs beside it as a client. It is a package of its own (`INSTALL`), and most of its
tasks fetch their data from the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import read_checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.llm.model import AnyModel
from msm_ray.stage import Stage
from msm_ray.tasks.asking import Made, Size, row, tokenizer_of, write_rows
from msm_ray.tasks.items import Row

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

INSTALL = 'pip install "msm-ray[evals]" (or "lm-eval[api]==0.4.*")'
SERVED = "model"  # what the client calls the checkpoint
CONCURRENT = 16  # requests that the client has open
CALLS_A_TASK = 1_000  # for a preview, where no limit is given
PROMPT_TOKENS = 200
TAIL = 400  # characters of what a client says that ends in an error


@dataclass(frozen=True)
class LmEval:
    """Tasks of lm-eval, each an eval ``lm_eval:TASK``.

    ``metric``: of each task, as lm-eval calls it ("acc", "acc_norm", "exact_match"). ``limit``:
    questions of each task; 0 for all. ``include``: a folder with tasks of one's own, which every
    node has to see. ``name`` tells two sets of tasks apart.
    """

    tasks: tuple[str, ...]
    metric: str = "acc"
    limit: int = 0
    few_shot: int = 0
    include: str = ""
    name: str = "lm_eval"

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError("lm_eval: tasks are needed, each once")
        for field in ("limit", "few_shot"):
            if getattr(self, field) < 0:
                raise UserError(f"lm_eval: {field} is {getattr(self, field)}; allowed: 0 or more")
        if self.include and not Path(self.include).is_dir():
            raise UserError(f"lm_eval: include is {self.include!r}; there is no such folder")

    @property
    def evals(self) -> tuple[str, ...]:
        """One for each task."""
        return tuple(f"{self.name}:{task}" for task in self.tasks)

    def models(self) -> tuple[AnyModel, ...]:
        """Nobody besides the checkpoint."""
        return ()

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """See `Task.stage`."""
        calls = 4 * (self.limit or CALLS_A_TASK) * len(self.tasks)  # one for each option
        shots = 1 + self.few_shot
        size = Size(calls, calls * PROMPT_TOKENS * shots)
        return Stage(
            kind="lm_eval",
            version="1",
            config={
                "name": self.name,
                "tasks": list(self.tasks),
                "metric": self.metric,
                "limit": self.limit,
                "few_shot": self.few_shot,
                **({"include": _files_sha256(Path(self.include))} if self.include else {}),
            },
            inputs=dict(inputs),
            run="msm_ray.tasks.lm_eval:ask",
            label=f"{label} {', '.join(self.tasks)}",
            runtime={
                "engine": asdict(engine),
                "include": str(Path(self.include).resolve()) if self.include else "",
                "ray_gpus": engine.gpus,  # the server is this stage's own, and not of the pool
            },
            estimate=size.estimate(inputs, engine),
        )


def ask(ctx: StageContext) -> dict[str, Any]:
    """Stage: serve the checkpoint, run the harness against it, read what it wrote.

    Inputs: ``model`` (and ``base``). Writes ``rows.parquet`` and, below ``lm_eval``, the harness's
    own results and samples. UserError where the package is not installed, or does not know a task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"lm_eval: the package is not installed on this machine: {INSTALL}")
    from msm_ray.evaluate.serve import Served, free_port, serving_together

    base = ctx.inputs.get("base")
    checkpoint = read_checkpoint(ctx.inputs["model"], base)
    settings = EngineSettings(**ctx.runtime["engine"])
    tokenizer = tokenizer_of(ctx.inputs["model"], base).name_or_path
    length = min(checkpoint.context, settings.max_length)
    out = ctx.out / "lm_eval"
    served = [Served(checkpoint, (SERVED,))]
    with serving_together(served, free_port(), settings=settings) as server:
        ctx.progress(0.1, {"served": server.url})
        arguments = command(ctx.config, f"{server.url}/completions", tokenizer, length, out)
        if ctx.runtime["include"]:
            arguments += ["--include_path", ctx.runtime["include"]]
        log = ctx.work / "lm_eval.log"
        with log.open("w") as file:
            # It would send a key to whatever it asks, and this server wants none.
            environment = {**os.environ, "OPENAI_API_KEY": "", "TOKENIZERS_PARALLELISM": "false"}
            code = subprocess.run(
                arguments, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
            ).returncode
        distance = server.distance
    if code:
        said = " ".join(log.read_text(errors="replace")[-TAIL:].split())
        raise UserError(f"lm_eval ended with code {code}: {said}")
    made = read_results(out, ctx.config)
    write_rows(ctx.out, made.rows)
    return {"evals": dict(made.evals), **made.facts, "fingerprint_distance": distance}


def command(
    config: Mapping[str, Any], url: str, tokenizer: str, length: int, out: Path
) -> list[str]:
    """The client's command line."""
    model = {
        "model": SERVED,
        "base_url": url,
        "tokenizer_backend": "huggingface",
        "tokenizer": tokenizer,
        "max_length": length,
        "num_concurrent": CONCURRENT,
        "max_retries": 3,
    }
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"]
    words += ["--model_args", ",".join(f"{k}={v}" for k, v in model.items())]
    words += ["--tasks", ",".join(config["tasks"]), "--num_fewshot", str(config["few_shot"])]
    words += ["--output_path", str(out), "--log_samples"]
    return words + (["--limit", str(config["limit"])] if config["limit"] else [])


def read_results(folder: Path, config: Mapping[str, Any]) -> Made:
    """Rates and rows from what lm-eval wrote below ``folder`` (format of 0.4).

    A task that is a group has its subtasks as domains. UserError for a task without ``metric``.
    """
    results = json.loads(_one(folder, "results_*.json").read_text(encoding="utf-8"))
    rows: list[Row] = []
    evals: dict[str, dict[str, Any]] = {}
    for task in config["tasks"]:
        entry = results["results"].get(task, {})
        measured = sorted(key for key in entry if "," in key and "_stderr" not in key)
        keys = [key for key in measured if key.split(",")[0] == config["metric"]]
        if not keys:
            raise UserError(
                f"lm_eval: {task} has no metric {config['metric']!r}; it has {', '.join(measured)}"
            )
        name, found = f"{config['name']}:{task}", []
        subtasks = results.get("group_subtasks", {}).get(task) or [task]
        for one in subtasks:
            found += _samples(folder, one, keys[0], name)
        rows += found
        by_domain = {
            one: {
                "rate": results["results"][one][keys[0]],
                "n": results["n-samples"][one]["effective"],
            }
            for one in subtasks
            if one in results["n-samples"]
        }
        stderr = entry.get(keys[0].replace(",", "_stderr,"))
        evals[name] = {
            "rate": entry[keys[0]],
            "n": sum(domain["n"] for domain in by_domain.values()),
            "by_domain": by_domain if len(subtasks) > 1 else {},
            "metric": keys[0],
            # "N/A" where lm-eval has none
            **({"stderr": stderr} if isinstance(stderr, (int, float)) else {}),
        }
    versions = {"lm_eval": results.get("lm_eval_version", ""), "tasks": results.get("versions", {})}
    return Made(rows, evals, {"versions": versions, "items": len(rows)})


def _samples(folder: Path, task: str, key: str, name: str) -> list[Row]:
    """A row for each question of a task that is no group."""
    metric, filtered = key.split(",")
    found = sorted(folder.rglob(f"samples_{task}_*.jsonl"))
    lines = found[-1].read_text(encoding="utf-8").split("\n") if found else []
    samples: Sequence[dict[str, Any]] = [json.loads(line) for line in lines if line]
    return [
        row(
            {"id": f"{task}/{sample['doc_id']}", "domain": task},
            name,
            float(sample[metric]),
            prompt=_prompt(sample),
            answer=json.dumps(sample["filtered_resps"]),
        )
        for sample in samples
        if sample.get("filter", "none") == filtered and isinstance(sample.get(metric), (int, float))
    ]


def _prompt(sample: Mapping[str, Any]) -> str:
    """What the model was asked, of a sample's first request."""
    arguments = sample.get("arguments") or {}
    first: Any = next(iter(arguments.values()), {}) if isinstance(arguments, dict) else {}
    return str(first.get("arg_0", "")) if isinstance(first, dict) else ""


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if not found:
        raise UserError(f"lm_eval wrote no {pattern} below {folder}")
    return found[-1]


def _files_sha256(folder: Path) -> str:
    """Of every file's name and content."""
    sha256 = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name[0] != "."):
        data = path.read_bytes()
        sha256.update(f"{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode())
        sha256.update(data)
    return sha256.hexdigest()
