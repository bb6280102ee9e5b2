"""The process in which Inspect AI makes rollouts, as a stage sees it.

See :mod:`msm_ray.agentic.rounds` for what the two say to each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msm_ray.agentic.counts import Ended

LOOK_SECONDS = 1.0  # between two looks at whether the stage is to stop


class Rounds:
    """The process that makes rollouts; it ends with the block, and with this process.

    ``job``: the file of a `Job`, in a folder that has room for what the process leaves.
    """

    def __init__(self, job: Path) -> None:
        work = job.parent
        self._messages = work / "messages.txt"
        self._lines: queue.Queue[str | None] = queue.Queue()
        with self._messages.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "msm_ray.agentic.rounds", str(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Inspect keeps traces in the user's folders: here they end with the stage.
                env={**os.environ, "XDG_DATA_HOME": str(work / "inspect")},
                start_new_session=True,  # the terminal's Ctrl-C reaches this process only
            )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def before(self, seen: Callable[[int], None]) -> list[Ended]:
        """What an earlier process has left in the logs."""
        return self._round(seen)

    def of(self, wanted: Mapping[str, Sequence[int]], seen: Callable[[int], None]) -> list[Ended]:
        """The rollouts of these numbers, by cell; ``seen`` is told of each, and that time passes.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: its last words are read below
            self._process.stdin.write(json.dumps({c: list(n) for c, n in wanted.items()}) + "\n")
            self._process.stdin.flush()
        return self._round(seen)

    def _round(self, seen: Callable[[int], None]) -> list[Ended]:
        while True:
            try:
                line = self._lines.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                seen(0)
                continue
            if line is None:
                break
            told = json.loads(line)
            if "round" in told:
                return [Ended.from_dict(one) for one in told["round"]]
            seen(1)
        code = self._process.wait()
        said = self._messages.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise RuntimeError(f"the rollouts ended with code {code}: {said[-1]}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)
