"""A stage's version says what its code makes: another result needs another version.

Ids hash a stage's version, not its code. If a change makes one of these stages write something
else, old stores would serve what the new code would not make. Then raise the stage's version in
``msm_ray/graph.py`` and run ``python tests/test_versions.py`` to write the new hashes down.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msm_ray.experiment import Experiment
from msm_ray.graph import build
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import Stage, StageContext

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).with_name("golden_versions.json")
KINDS = ("spec", "plan", "documents", "replay", "chats", "conversations", "items", "blocks")
SMALL = (
    "corpus.writer=scripted",
    "corpus.documents=40",
    "midtrain.tokens=3000",
    "midtrain.max_repeats=100",
    "midtrain.chat_share=0.1",
    "aft.conversations=20",
    "evaluation.pairs_per_domain=1",
)


def stages() -> list[Stage]:
    job = load_job(ROOT / "jobs" / "cheese_micro.py")
    assert isinstance(job, Experiment)
    return build(apply_settings(job, list(SMALL))).stages


def make(stage: Stage, made: dict[str, Path], folder: Path) -> Path:
    """Run the stage here, its inputs first; the folder with what it wrote."""
    if stage.id in made:
        return made[stage.id]
    inputs = {name: make(of, made, folder) for name, of in stage.inputs.items()}
    out, work = folder / stage.id, folder / f"work-{stage.id}"
    out.mkdir()
    work.mkdir()
    module, _, function = stage.run.partition(":")
    getattr(importlib.import_module(module), function)(
        StageContext(
            config=json.loads(json.dumps(stage.config)),
            inputs=inputs,
            out=out,
            work=work,
            runtime=dict(stage.runtime),
            progress=lambda fraction, facts: None,
            input_ids={name: of.id for name, of in stage.inputs.items()},
        )
    )
    made[stage.id] = out
    return out


def content(folder: Path) -> str:
    """The hash of what a stage wrote; rows as JSON, so that Parquet's own version is left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            # the writer's name is an artifact id: it changes with every model
            rows = table.drop_columns([c for c in ("model",) if c in table.column_names])
            digest.update(json.dumps(rows.to_pylist(), sort_keys=True, default=str).encode())
        elif path.is_file() and path.suffix != ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def hashes(folder: Path) -> dict[str, dict[str, str]]:
    """The first stage of each kind: its version and what it makes."""
    made: dict[str, Path] = {}
    found: dict[str, dict[str, str]] = {}
    for stage in stages():
        if stage.kind in KINDS and stage.kind not in found:
            made_here = content(make(stage, made, folder))
            found[stage.kind] = {"version": stage.version, "makes": made_here}
    return found


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return hashes(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("kind", KINDS)
def test_another_result_has_another_version(kind: str, now: dict[str, Any]) -> None:
    golden = json.loads(GOLDEN.read_text())[kind]
    if now[kind]["makes"] != golden["makes"]:
        assert now[kind]["version"] != golden["version"], f"{kind} makes something else: {__doc__}"
        pytest.fail("a new version: run python tests/test_versions.py and commit the file")
    assert now[kind]["version"] == golden["version"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GOLDEN.write_text(json.dumps(hashes(Path(name)), indent=1) + "\n")
