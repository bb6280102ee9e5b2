"""Rules about the code as a whole, so that they are kept and not only meant."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "msm_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The only modules that import these packages, at their top or inside a function. Everything else
# takes and returns plain values.
IMPORTERS = {
    "ray": {
        "data/ray_tokens.py",  # Ray Data tokenizes large files
        "evaluate/leasing.py",  # a task takes an engine from the pool and gives it back
        "evaluate/pool.py",  # engines that outlive stages, as actors
        "launch.py",  # the client of Ray Jobs
        "llm/ray_pass.py",  # Ray Data with vLLM
        "runtime.py",  # connecting, placing stages
        "search/tune.py",  # Ray Tune
        "train/worker.py",  # Ray Train
    },
    "vllm": {"evaluate/cpu_lora.py", "evaluate/engines.py"},
    "deepspeed": {"train/backends/deepspeed.py"},
    "inspect_ai": {"agentic/rounds.py", "agentic/task.py", "agentic/tools.py"},
}
# Never imported by the command line before a command needs them.
HEAVY = ("ray", "torch", "vllm", "transformers", "deepspeed")
# Pure logic: works where none of Ray, vLLM and DeepSpeed is installed.
PURE = (
    "msm_ray.agentic.counts",
    "msm_ray.agentic.job",
    "msm_ray.agentic.judge",
    "msm_ray.agentic.process",
    "msm_ray.agentic.rehearsal",
    "msm_ray.agentic.rolling",
    "msm_ray.agentic.rules",
    "msm_ray.agentic.scenarios",
    "msm_ray.artifact",
    "msm_ray.chat.instructions",
    "msm_ray.chat.job",
    "msm_ray.chat.screening",
    "msm_ray.cli",
    "msm_ray.commands",
    "msm_ray.compare",
    "msm_ray.corpus.compact",
    "msm_ray.corpus.contamination",
    "msm_ray.corpus.hierarchy",
    "msm_ray.corpus.measures",
    "msm_ray.corpus.naming",
    "msm_ray.corpus.near",
    "msm_ray.corpus.plan",
    "msm_ray.corpus.reading",
    "msm_ray.corpus.verdicts",
    "msm_ray.data.blocks",
    "msm_ray.data.cache",
    "msm_ray.data.feed",
    "msm_ray.data.mixture",
    "msm_ray.data.order",
    "msm_ray.data.packing",
    "msm_ray.data.stages",
    "msm_ray.data.windowed",
    "msm_ray.doctor",
    "msm_ray.evaluate.crossed",
    "msm_ray.evaluate.intervals",
    "msm_ray.evaluate.sampling",
    "msm_ray.evaluate.batching",
    "msm_ray.evaluate.checkpoints",
    "msm_ray.evaluate.slots",
    "msm_ray.evaluate.statistics",
    "msm_ray.items",
    "msm_ray.launch",
    "msm_ray.mix",
    "msm_ray.mixes",
    "msm_ray.observe",
    "msm_ray.preview",
    "msm_ray.records",
    "msm_ray.replay",
    "msm_ray.report.html",
    "msm_ray.rows",
    "msm_ray.search.dimensions",
    "msm_ray.search.halving",
    "msm_ray.search.law",
    "msm_ray.search.methods",
    "msm_ray.search.mixture",
    "msm_ray.search.objectives",
    "msm_ray.search.optuna_method",
    "msm_ray.search.simplex",
    "msm_ray.search.plan",
    "msm_ray.search.source",
    "msm_ray.search.space",
    "msm_ray.search.surrogates",
    "msm_ray.search.trials",
    "msm_ray.settings",
    "msm_ray.spec",
    "msm_ray.stage",
    "msm_ray.streams",
    "msm_ray.tasks.calibration",
    "msm_ray.tasks.capability",
    "msm_ray.tasks.judging",
    "msm_ray.tasks.lm_eval",
    "msm_ray.tasks.open_qa",
    "msm_ray.tasks.pairs",
    "msm_ray.tasks.probes",
    "msm_ray.tasks.verdicts",
    "msm_ray.world.task",
    "msm_ray.world.world",
)
# Paths of one machine or one user. Written in pieces: this file is read as well.
MACHINE_PATHS = re.compile(
    "|".join(["/wo" + "rk/", "/tm" + "p/", "/ro" + "ot/", "/ho" + r"me/\w", "/op" + "t/"])
)
TEXT = {".py", ".toml", ".md", ".txt", ".yaml", ".sh", ".html", ".css", ".js", ".json", ""}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, except for type checking only."""
    packages = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages


def files() -> list[Path]:
    """Files of the project: what git tracks or would track; without git, the source folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = ("msm_ray", "jobs", "specs", "cluster", "benchmarks", "tests")
        paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


@pytest.mark.parametrize("package", sorted(IMPORTERS))
def test_few_modules_import_it(package: str) -> None:
    found = {str(path.relative_to(PACKAGE)) for path in MODULES if package in imported(path)}
    assert found == IMPORTERS[package]


def test_command_line_starts_light() -> None:
    code = f"import sys, msm_ray.cli; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_pure_logic_needs_no_engine() -> None:
    code = (
        "import sys, importlib\n"
        "for name in ('ray', 'vllm', 'deepspeed'): sys.modules[name] = None\n"
        f"for name in {PURE}: importlib.import_module(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_files_are_short() -> None:
    sources = [path for path in files() if path.suffix == ".py"]
    assert sources
    # A test file mirrors one module and may hold more cases than that module has lines.
    limits = {path: 600 if path.is_relative_to(ROOT / "tests") else 400 for path in sources}
    long = {
        str(path.relative_to(ROOT)): lines
        for path, limit in limits.items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    }
    assert long == {}


def test_functions_are_short() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 80:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert long == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_no_file_names_a_machine_path() -> None:
    named = []
    for path in files():
        if path.suffix in TEXT:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if MACHINE_PATHS.search(line):
                    named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert named == []
