"""The experiment's graph: what is shared, what a setting touches, what never changes an id."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.experiment import BaseModel, Experiment
from msm_ray.graph import Graph, build
from msm_ray.identity import folder_sha256
from msm_ray.settings import apply_settings, load_job
from msm_ray.stage import Stage
from msm_ray.world.bases import base_dir

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exp() -> Experiment:
    job = load_job(ROOT / "jobs" / "cheese_micro.py")
    assert isinstance(job, Experiment)
    return job


@pytest.fixture(scope="module")
def graph(exp: Experiment) -> Graph:
    return build(exp)


def ids(graph: Graph) -> dict[str, set[str]]:
    by_kind: dict[str, set[str]] = {}
    for stage in graph.stages:
        by_kind.setdefault(stage.kind, set()).add(stage.id)
    return by_kind


def changed(exp: Experiment, *settings: str) -> set[str]:
    """Kinds of which at least one artifact would have to be made for these settings."""
    before, after = ids(build(exp)), ids(build(apply_settings(exp, list(settings))))
    return {kind for kind in after if after[kind] - before.get(kind, set())}


def test_every_arm_base_and_seed_is_a_cell(exp: Experiment, graph: Graph) -> None:
    cells = {(c.arm, c.base, c.seed) for c in graph.cells}
    assert cells == {(a, b.name, s) for a in exp.arms for b in exp.bases for s in exp.seeds}
    assert len(graph.cells) == len(cells)


def test_what_arms_share_is_one_stage(graph: Graph) -> None:
    count = {kind: len(made) for kind, made in ids(graph).items()}
    bases, values, seeds = 3, 2, 2
    assert count["spec"] == values
    assert count["model"] == bases
    assert count["documents"] == bases * values
    assert count["midtrain"] == bases * values * seeds
    assert count["aft"] == bases * seeds * (values + 1)
    assert count["conversations"] == bases * seeds
    # the base model is evaluated once per base, whatever the seed
    assert count["evaluate"] == bases * (1 + seeds * (1 + 2 * values))


def test_aft_data_is_the_same_artifact_in_every_arm(graph: Graph) -> None:
    by_run: dict[tuple[str, int], set[str]] = {}
    for _, base, seed, name, stage in graph.trainings:
        if name == "aft":
            by_run.setdefault((base, seed), set()).add(stage.inputs["blocks"].id)
    assert len(by_run) == 6
    assert all(len(blocks) == 1 for blocks in by_run.values())


def test_aft_continues_the_midtrained_weights(graph: Graph) -> None:
    mids = {(a, b, s): st for a, b, s, name, st in graph.trainings if name == "midtrain"}
    for arm, base, seed, name, stage in graph.trainings:
        if name == "aft" and arm != "aft":
            assert stage.inputs["model"].id == mids[arm, base, seed].id


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [
        ("aft.train.learning_rate=3e-5", {"aft", "evaluate"}),
        ("aft.conversations=64", {"conversations", "blocks", "aft", "evaluate"}),
        ("aft.train.seed=5", {"aft", "evaluate"}),
        ("midtrain.train.learning_rate=3e-5", {"midtrain", "aft", "evaluate"}),
        ("evaluation.pairs_per_domain=3", {"items", "evaluate"}),
        (
            "corpus.temperature=0.33",
            {"documents", "blocks", "midtrain", "aft", "evaluate"},
        ),
    ],
)
def test_a_setting_touches_what_follows_it_only(
    exp: Experiment, setting: str, kinds: set[str]
) -> None:
    assert changed(exp, setting) == kinds


def test_a_world_is_named_by_what_it_has_more_than_the_first_one(
    exp: Experiment, graph: Graph
) -> None:
    base = BaseModel("base-3", str(base_dir(3, attributes=4)), world_seed=3, attributes=4)
    four = build(dataclasses.replace(exp, bases=(base,)))
    chats = apply_settings(exp, ["midtrain.chat_share=0.1"])
    named = {s.kind: s for s in build(dataclasses.replace(chats, bases=(base,))).stages}
    for kind in ("plan", "replay", "chats", "conversations", "items"):
        assert named[kind].config["attributes"] == 4, kind
        assert named[kind].config["world_seed"] == 3, kind
    assert named["documents"].config["task_args"] == {"world_seed": 3, "attributes": 4}
    assert "attributes" not in json.dumps([s.config for s in graph.stages])
    assert not {s.id for s in four.stages if s.kind != "spec"} & {s.id for s in graph.stages}


def test_where_it_runs_is_not_identity(exp: Experiment) -> None:
    assert not changed(
        exp,
        "midtrain_compute.backend=fsdp2",
        "aft_compute.backend=deepspeed",
        "aft_compute.num_workers=4",
        "midtrain_compute.threads=2",
        "title=another title",
    )


def test_ids_do_not_depend_on_the_process(graph: Graph, tmp_path: Path) -> None:
    code = (
        "from msm_ray.settings import load_job; from msm_ray.graph import build\n"
        f"g = build(load_job({str(ROOT / 'jobs' / 'cheese_micro.py')!r}))\n"
        "print(' '.join(s.id for s in g.stages))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split() == [s.id for s in graph.stages]


def test_a_model_is_its_files_not_its_path(exp: Experiment, tmp_path: Path) -> None:
    source = Path(exp.bases[0].path)
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert folder_sha256(copy) == folder_sha256(source)
    (copy / "training.json").write_text("{}")
    assert folder_sha256(copy) == folder_sha256(source), "how it was made is not what it is"
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes() + b"\n")
    assert folder_sha256(copy) != folder_sha256(source)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["midtrain.spec_share=-0.1"], "spec_share is -0.1"),
        (["midtrain.spec_share=nan"], "spec_share"),
        (["midtrain.spec_share=0.8", "midtrain.chat_share=0.3"], "more than 1"),
        (["midtrain.train.epochs=2"], "reads its mixture once"),
        (["assistant=bob"], "assistant"),
        (["corpus.documents=0"], "documents is 0"),
        (["corpus.writer=gpt"], "writer"),
        (["midtrain_compute.num_workers=2"], "backend single"),
        (["evaluation.evals=choice,taste"], "taste"),
        (["seeds=1,1"], "more than once"),
        (["name=a/b"], "letters"),
    ],
)
def test_wrong_values_are_told_in_one_line(exp: Experiment, settings: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        apply_settings(exp, settings)
    assert "\n" not in str(caught.value)


def test_missing_model_and_spec_are_told(exp: Experiment, tmp_path: Path) -> None:
    gone = dataclasses.replace(exp.bases[0], path=str(tmp_path / "no-model"))
    with pytest.raises(UserError, match="no-model"):
        build(dataclasses.replace(exp, bases=(gone,)))
    spec = dataclasses.replace(exp.specs[0], path=str(tmp_path / "no-spec.md"))
    with pytest.raises(UserError, match=r"no-spec\.md"):
        build(dataclasses.replace(exp, specs=(spec,)))


def test_targets_hold_every_stage_once(graph: Graph) -> None:
    stages: list[Stage] = graph.stages
    assert len({s.id for s in stages}) == len(stages)
    seen: set[str] = set()
    for stage in stages:
        assert {s.id for s in stage.inputs.values()} <= seen, "an input comes after its reader"
        seen.add(stage.id)


def test_overlap_is_no_part_of_the_identity_but_the_order_is(exp: Experiment) -> None:
    assert changed(exp, "midtrain.order=windowed") == {"blocks", "midtrain", "aft", "evaluate"}
    windowed = apply_settings(exp, ["midtrain.order=windowed"])
    assert changed(windowed, "midtrain_compute.overlap=true") == set()
    graph = build(apply_settings(windowed, ["midtrain_compute.overlap=true"]))
    streams = {stage.kind: stage.streams for stage in graph.stages if stage.streams}
    assert streams == {"blocks": {"spec"}, "midtrain": {"blocks"}}
    # What waits holds no CPU in Ray that the stage it waits for may need.
    waits = [stage.runtime for stage in graph.stages if stage.streams]
    assert sum(runtime["ray_cpus"] for runtime in waits[:2]) < 0.05
    assert all(not stage.streams for stage in build(windowed).stages)
