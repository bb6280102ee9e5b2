"""Claims: which driver makes an artifact now, so that a second driver waits instead of repeating.

A courtesy that saves work, never a lock that results rely on: commits are safe without it. A claim
is a small file with a counter that its holder raises every few seconds. A claim is stale, and may
be taken over, when the counter stood still for a while by the reader's own clock (clocks of two
machines are never compared), or at once when the holder was a process of this machine that is gone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msm_ray.artifact import Store
from msm_ray.errors import UserError

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0


@dataclass
class _Seen:
    beat: str
    since: float  # monotonic seconds at which this process first read that beat


class Claims:
    """The claims of one driver. `close` gives all of them back."""

    def __init__(
        self, store: Store, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS
    ) -> None:
        """``beat`` and ``stale`` in seconds; ``stale`` must cover several beats."""
        self._store, self._beat, self._stale = store, beat, stale
        self._token = uuid.uuid4().hex
        self._held: dict[str, int] = {}  # id -> beats so far
        self._tried: set[str] = set()  # held, or between trying and holding
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, id: str) -> bool:
        """Claim ``id``; False while another driver holds it. Call again to see it go stale."""
        if id in self._held:
            return True
        self._tried.add(id)  # first: Ctrl-C may come between any two steps
        other = self._read(_name(id))  # waiting only reads
        if other is None:
            mine = self._store.create(_name(id), self._text(0))
        else:
            mine = self._is_stale(id, other) and self._take_over(id)
        if not mine:
            self._tried.discard(id)
            return False
        with self._lock:
            self._held[id] = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="claims", daemon=True)
                self._thread.start()
        self._seen.pop(id, None)
        return True

    def _take_over(self, id: str) -> bool:
        self._store.write_bytes(_name(id), self._text(0))
        time.sleep(0.05)  # of two drivers that take over at once, the later writer has it
        now = self._read(_name(id))
        return now is not None and now.get("token") == self._token

    def release(self, id: str) -> None:
        """Give ``id`` back if this driver still holds it."""
        with self._lock:
            self._held.pop(id, None)
        # A store that cannot be used now costs nobody a result: the claim goes stale by itself.
        with suppress(UserError, OSError):
            claim = self._read(_name(id)) if id in self._tried else None
            if claim is not None and claim.get("token") == self._token:
                self._store.remove(_name(id))
        self._tried.discard(id)

    def close(self) -> None:
        """Stop the beats and give everything back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for id in list(self._tried):
            self.release(id)

    def _text(self, beat: int) -> bytes:
        claim = {"token": self._token, "beat": beat, **_process(os.getpid())}
        return json.dumps(claim).encode()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            claim = json.loads(self._store.read_bytes(name))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}  # broken: nobody beats it, so it goes stale
        return claim if isinstance(claim, dict) else {}

    def _is_stale(self, id: str, claim: dict[str, Any]) -> bool:
        pid = claim.get("pid")
        mine = _process(os.getpid())
        if isinstance(pid, int) and claim.get("machine") == mine["machine"]:
            there = _process(pid)
            if there["started"] != claim.get("started"):
                return True  # the holder was killed; its number may even be another process now
        beat = f"{claim.get('token')} {claim.get('beat')}"
        seen = self._seen.get(id)
        if seen is None or seen.beat != beat:
            self._seen[id] = _Seen(beat, time.monotonic())
            return False
        return time.monotonic() - seen.since > self._stale

    def _run(self) -> None:
        while not self._stop.wait(self._beat):
            for id in list(self._held):
                try:
                    self._raise_beat(id)
                except (UserError, OSError):
                    # The store does not take the beat now. At worst another driver does the same
                    # work; the commit will say what is wrong with the store.
                    continue

    def _raise_beat(self, id: str) -> None:
        claim = self._read(_name(id))
        if claim is None or claim.get("token") != self._token:
            return  # taken over while this process stood still: the other one goes on
        with self._lock:
            if id not in self._held:
                return
            self._held[id] += 1
            self._store.write_bytes(_name(id), self._text(self._held[id]))


def _name(id: str) -> str:
    return f"claims/{id}.json"


def _process(pid: int) -> dict[str, Any]:
    """Which process this is, so that another one of the same machine can see whether it lives.

    ``machine`` includes the boot and the process namespace, in which process numbers have a
    meaning; ``started`` tells apart two processes that had the same number. None if it is gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, namespace = "", ""  # not Linux: only the counter tells
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rsplit(")", 1)[1].split()
        # field 3 is the state, 22 the start in ticks since boot (proc_pid_stat(5))
        started = None if fields[0] in "ZX" else fields[19]
    except OSError:
        started = None
    machine = f"{socket.gethostname()} {boot} {namespace}" if boot else None
    return {"machine": machine or uuid.uuid4().hex, "pid": pid, "started": started}
