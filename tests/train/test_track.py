from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.train.config import TrainRuntime
from msm_ray.train.track import check_tracker, make_tracker


@pytest.mark.parametrize("track", ["mlflow", "mlflow:", "tensorboard:x", ":x", "wandb"])
def test_a_tracker_is_named_with_where(track: str) -> None:
    with pytest.raises(UserError, match=r"track is .* allowed is mlflow:URI \| wandb:PROJECT"):
        TrainRuntime(track=track)


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
