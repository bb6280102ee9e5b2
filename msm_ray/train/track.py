"""Metrics to MLflow or Weights & Biases, where a run asks for it."""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from msm_ray.errors import UserError

FLUSH_SECONDS = 5.0  # between two requests to MLflow
PATIENCE = 20.0  # times as long as a failed request took, until the next: a run is not to wait
_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes the numbers of each step. What goes wrong once it is there must not stop a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


def check_tracker(track: str) -> None:
    """``UserError`` if the package that ``track`` needs is not installed."""
    name = track.partition(":")[0]
    if name and importlib.util.find_spec(name) is None:
        raise UserError(
            f"training runtime: track is {track!r}, and the package {name} is not installed"
            f" (pip install {_PACKAGES[name]})"
        )


def make_tracker(
    track: str, folder: Path, config: Mapping[str, Any], failed: Callable[[str], None]
) -> Tracker | None:
    """The tracker that ``track`` names ("mlflow:URI", "wandb:PROJECT"), None for "".

    ``folder`` keeps the id of its run, so that a run that is resumed goes on with the same one.
    ``failed`` is told, in words, of requests that failed; they are tried again.

    Raises:
        UserError: the package is not installed, or nothing takes a run there.
    """
    name, _, where = track.partition(":")
    check_tracker(track)
    if not name:
        return None
    try:
        if name == "mlflow":
            return _Mlflow(where, folder, config, failed)
        return _Wandb(where, folder, config, failed)
    except Exception as error:  # whatever the package raises: address, key, network, version
        raise UserError(
            f"training runtime: track is {track!r}, and no run can be started there:"
            f" {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


class _Mlflow:
    """One MLflow run; numbers are sent together, every few seconds."""

    def __init__(
        self,
        uri: str,
        folder: Path,
        config: Mapping[str, Any],
        failed: Callable[[str], None],
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric: Any = Metric
        self._client: Any = MlflowClient(tracking_uri=uri)
        self._failed = failed
        self._waiting: list[Any] = []
        self._next = time.monotonic() + FLUSH_SECONDS
        kept = folder / "mlflow-run"
        if kept.is_file():
            self._run = kept.read_text()
            return
        experiment = self._client.get_experiment_by_name("msm-ray")
        number = (
            experiment.experiment_id if experiment else self._client.create_experiment("msm-ray")
        )
        self._run = self._client.create_run(number).info.run_id
        params = [Param(key, str(value)) for key, value in config.items()]
        self._client.log_batch(self._run, params=params)
        kept.write_text(self._run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(k, float(v), now, step) for k, v in values.items()]
        if time.monotonic() > self._next:
            self._send()

    def close(self) -> None:
        if self._send():
            self._try(lambda: self._client.set_terminated(self._run))

    def _send(self) -> bool:
        while self._waiting:
            some = self._waiting[:1000]  # its limit
            if not self._try(lambda: self._client.log_batch(self._run, metrics=some)):  # noqa: B023
                return False
            del self._waiting[:1000]
        return True

    def _try(self, request: Callable[[], Any]) -> bool:
        started, pause = time.monotonic(), FLUSH_SECONDS
        try:
            request()
        except Exception as error:  # whatever its transport raises: the run itself goes on
            self._failed(f"MLflow: {_one_line(error)}")
            pause = max(pause, PATIENCE * (time.monotonic() - started))
            return False
        finally:
            self._next = time.monotonic() + pause
        return True


class _Wandb:
    """One W&B run; its own process sends, and tries again."""

    def __init__(
        self,
        project: str,
        folder: Path,
        config: Mapping[str, Any],
        failed: Callable[[str], None],
    ) -> None:
        import wandb

        self._failed = failed
        kept = folder / "wandb-run"
        if not kept.is_file():
            kept.write_text(uuid.uuid4().hex)
        self._run: Any = wandb.init(
            project=project,
            id=kept.read_text(),
            resume="allow",
            config=dict(config),
            dir=str(folder),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda: self._run.log(dict(values), step=step))

    def close(self) -> None:
        self._try(self._run.finish)

    def _try(self, request: Callable[[], Any]) -> None:
        try:
            request()
        except Exception as error:  # the run itself goes on
            self._failed(f"W&B: {_one_line(error)}")
