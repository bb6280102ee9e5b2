from __future__ import annotations

import importlib.util
import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.train import track as tracking
from msm_ray.train.config import TrainConfig, TrainRuntime
from msm_ray.train.metrics import Metrics
from msm_ray.train.ranks import Ranks
from msm_ray.train.track import check_tracker, make_tracker
from msm_ray.train.worker import TrainJob, run_worker


@pytest.mark.parametrize("named", ["mlflow", "mlflow:", "tensorboard:x", ":x", "wandb"])
def test_a_tracker_is_named_with_where(named: str) -> None:
    with pytest.raises(UserError, match=r"track is .* allowed is mlflow:URI \| wandb:PROJECT"):
        TrainRuntime(track=named)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *rest: None if n == name else found(n, *rest)
    )
    with pytest.raises(UserError, match=rf"package {name} is not installed \(pip install {name}"):
        check_tracker(f"{name}:somewhere")


def test_without_one_there_is_none(tmp_path: Path) -> None:
    check_tracker("")
    assert make_tracker("", tmp_path, {}, print) is None


class Failing:
    """Stands for MLflow's client, and for W&B; what it is told to, fails."""

    def __init__(self, **_: Any) -> None:
        self.fails = ""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.calls.append(name)
            if name == self.fails:
                raise ConnectionError(f"{name}:\n  refused")
            return SimpleNamespace(experiment_id="1", info=SimpleNamespace(run_id="r"))

        return call


def put_in(monkeypatch: pytest.MonkeyPatch, fails: str) -> Failing:
    """Both packages, as :class:`Failing` has them."""
    client = Failing()
    client.fails = fails
    mlflow, entities, wandb = (ModuleType(n) for n in ("mlflow", "mlflow.entities", "wandb"))
    for module in (mlflow, entities, wandb):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def init(**_: Any) -> Failing:
        client.init()
        return client

    monkeypatch.setattr(mlflow, "MlflowClient", lambda **_: client, raising=False)
    monkeypatch.setattr(entities, "Metric", lambda *args: args, raising=False)
    monkeypatch.setattr(entities, "Param", lambda *args: args, raising=False)
    monkeypatch.setattr(wandb, "init", init, raising=False)
    return client


@pytest.mark.parametrize(
    ("track", "fails"), [("mlflow:http://host", "create_run"), ("wandb:project", "init")]
)
def test_what_cannot_be_started_is_one_line_on_every_rank(
    track: str,
    fails: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: dict[str, Any],
    blocks_dir: Path,
    tokenizer_dir: Path,
    config: TrainConfig,
) -> None:
    client = put_in(monkeypatch, fails)
    expected = f"track is '{track}', and no run can be started there: {fails}: refused"
    with pytest.raises(UserError, match=re.escape(expected)):
        make_tracker(track, tmp_path, {}, print)
    job = TrainJob(
        config=config,
        runtime=TrainRuntime(track=track),
        blocks=str(blocks_dir),
        tokenizer=str(tokenizer_dir),
        out=str(tmp_path / "out"),
        work=str(tmp_path / "work"),
        arch=arch,
    )
    with pytest.raises(UserError, match="no run can be started there"):
        run_worker(job)
    # Another rank is told by the first one.
    monkeypatch.setattr(Ranks, "first", property(lambda self: False))
    monkeypatch.setattr(Ranks, "from_first", lambda self, value: expected)
    tried = len(client.calls)
    with pytest.raises(UserError, match="no run can be started there"):
        run_worker(job)
    assert len(client.calls) == tried


@pytest.mark.parametrize(
    ("track", "fails"),
    [
        ("mlflow:http://host", "log_batch"),
        ("mlflow:http://host", "set_terminated"),
        ("wandb:project", "log"),
        ("wandb:project", "finish"),
    ],
)
def test_what_fails_later_is_written_down_and_stops_nothing(
    track: str, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = put_in(monkeypatch, "")
    metrics = Metrics(tmp_path)
    metrics.tracker = make_tracker(
        track, tmp_path, {}, lambda what: metrics.event("tracker failed", what=what)
    )
    metrics.start(0)
    client.fails = fails
    metrics.step(1, {"loss": 1.0})
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (failure,) = [line for line in lines if line.get("event") == "tracker failed"]
    assert failure["what"].endswith(f": {fails}: refused")


def test_a_server_that_hangs_is_not_asked_at_every_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failed request took ten seconds: the next comes after PATIENCE times as long."""
    client = put_in(monkeypatch, "")
    now = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    tracker = make_tracker("mlflow:http://host", tmp_path, {}, lambda what: None)
    assert tracker is not None
    client.calls.clear()
    slow = client.log_batch

    def hang(*args: Any, **more: Any) -> None:
        now[0] += 10.0
        slow(*args, **more)

    client.log_batch = hang
    client.fails = "log_batch"
    for step in range(400):
        now[0] += 1.0
        tracker.log(step, {"loss": 1.0})
    assert len(client.calls) == 2


def test_mlflow_gets_every_number_once_also_of_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more packages
    from mlflow import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    failures: list[str] = []
    for first in (1, 4):
        tracker = make_tracker(f"mlflow:{uri}", tmp_path, {"seed": 0}, failures.append)
        assert tracker is not None
        for step in range(first, first + 3):
            tracker.log(step, {"loss": float(step)})
        tracker.close()
    assert failures == []
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("msm-ray")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(s, float(s)) for s in range(1, 7)]
