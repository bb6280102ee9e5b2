"""Numbers of a run while it goes: ``metrics.jsonl`` and TensorBoard always, a tracker if asked."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from msm_ray.train.history import History
from msm_ray.train.track import Tracker

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
RECENT_STEPS = 20

log = logging.getLogger(__name__)


class Metrics:
    """The metrics files of one run in ``folder``; on one rank. They outlive a killed process.

    A line of ``metrics.jsonl`` is a step (``{"step", "loss", ...}``) or something that happened
    (``{"event", ...}``: a checkpoint, a restart, damage). A run that goes on from a checkpoint
    takes back the lines of the steps that it repeats, and keeps all events.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import FileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tracker: Tracker | None = None
        self.last_checkpoint: int | None = None
        self._lines: IO[str] = open(folder / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115
        text = (folder / METRICS_FILE).read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # torn when a process was killed: nothing joins it
            self._lines.write("\n")
        # Its queue holds 10 s of numbers unless told otherwise.
        self._tensorboard = FileWriter(str(folder / TENSORBOARD_FOLDER), flush_secs=5)

    def start(self, step: int) -> None:
        """Go on after ``step``: later lines are taken back, and TensorBoard told to hide them."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._lines.close()
        path = self.folder / METRICS_FILE
        part = path.with_suffix(".part")
        kept = [line for line in path.read_text().splitlines() if _stays(line, step)]
        part.write_text("".join(line + "\n" for line in kept))
        part.replace(path)
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed with the run
        session = SessionLog(status=SessionLog.START)
        self._tensorboard.add_event(Event(session_log=session), step + 1)
        self.event("start", step=step)

    def event(self, name: str, **values: Any) -> None:
        """Something that happened; what is out of the ordinary is logged as well."""
        if name == "checkpoint":
            self.last_checkpoint = values["step"]
        elif name not in ("start", "branched"):
            log.warning("training: %s %s", name, json.dumps(values))
        self._write({"event": name, "time": time.time(), **values})

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """The numbers of one step; ``loss_by_source`` is a mapping of its own."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write({"step": step, **values})
        flat = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
        sources = values.get("loss_by_source", {})
        flat |= {f"loss_by_source/{name}": value for name, value in sources.items()}
        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in flat.items()]
        self._tensorboard.add_summary(Summary(value=entries), step)
        if self.tracker is not None:
            self.tracker.log(step, flat)

    def close(self) -> None:
        """Write out everything; the tracker first, for what fails there is written down."""
        if self.tracker is not None:
            self.tracker.close()
        self._lines.close()
        self._tensorboard.close()

    def copy_to(self, out: Path) -> None:
        """Put the closed files into the folder of the model, for those of a killed attempt."""
        shutil.rmtree(out / TENSORBOARD_FOLDER, ignore_errors=True)
        shutil.copyfile(self.folder / METRICS_FILE, out / METRICS_FILE)
        shutil.copytree(self.folder / TENSORBOARD_FOLDER, out / TENSORBOARD_FOLDER)

    def _write(self, values: Mapping[str, Any]) -> None:
        # One write a line, so that a killed process leaves whole lines but perhaps the last.
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()


def _stays(line: str, step: int) -> bool:
    try:
        values = json.loads(line)
    except ValueError:  # torn when the process was killed
        return False
    return "event" in values or values["step"] <= step


class Pace:
    """How fast a run goes now, over its last steps, and when it will be done.

    ``flops_per_token`` and ``peak`` (FLOP/s of all ranks' devices) make the utilisation; without
    them there is none.
    """

    def __init__(self, flops_per_token: float = 0.0, peak: float = 0.0) -> None:
        self._flops, self._peak = flops_per_token, peak
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS + 1)

    def start(self, history: History) -> None:
        """Before the first step."""
        self._recent.append((history.seconds, history.tokens))

    def facts(self, history: History, steps: int) -> dict[str, float]:
        """``tokens_per_second``, ``seconds_left`` and, where it can be told, ``mfu`` (0..1)."""
        self._recent.append((history.seconds, history.tokens))
        (seconds, tokens), done = self._recent[0], len(self._recent) - 1
        elapsed = max(history.seconds - seconds, 1e-9)
        speed = (history.tokens - tokens) / elapsed
        facts = {
            "tokens_per_second": speed,
            "seconds_left": (steps - history.steps) * elapsed / done,
        }
        if self._peak:
            facts["mfu"] = speed * self._flops / self._peak
        return facts
