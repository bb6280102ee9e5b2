"""A checkpoint behind vLLM's own OpenAI-compatible server, proven to be that checkpoint."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from msm_ray.errors import UserError
from msm_ray.evaluate.engines import (
    ATOL,
    BLOCK_TOKENS,
    Checkpoint,
    EngineSettings,
    FingerprintMismatch,
    check_fits,
    environment,
    kv_cache_bytes,
    read_checkpoint,
)

START_SECONDS = 600.0  # large weights take their time to be read
STOP_SECONDS = 15.0
SETTINGS = EngineSettings(threads=os.cpu_count() or 1, max_num_seqs=16, max_length=8192)
_PR_SET_PDEATHSIG = 1


def serve(
    model_dir: str | Path, port: int = 8000, host: str = "127.0.0.1", names: Sequence[str] = ()
) -> int:
    """Serve a model folder until Ctrl-C; says "ready" only when its fingerprint has been checked.

    Args:
        model_dir: Hugging Face folder with ``fingerprint.json``.
        names: what clients may call the model; the folder's name if none is given.

    Returns:
        0 after Ctrl-C, else the server's own exit code.

    Raises:
        UserError: no such model, a port that cannot be used, or too little memory.
        FingerprintMismatch: the server computes something else than the checkpoint's trainer did.
    """
    try:
        with serving(model_dir, port, host, names) as server:
            print(
                f"ready: {server.url} serves {', '.join(server.names)}; log-probabilities are"
                f" within {server.distance:.1g} nats of the checkpoint's own; Ctrl-C ends it",
                flush=True,
            )
            return server.process.wait()
    except KeyboardInterrupt:
        return 0


class Server:
    """A running server. ``distance``: how far it is from the recorded fingerprint, in nats."""

    def __init__(
        self, process: subprocess.Popen[bytes], url: str, names: Sequence[str], distance: float
    ) -> None:
        self.process, self.url, self.names, self.distance = process, url, tuple(names), distance


@contextlib.contextmanager
def serving(
    model_dir: str | Path,
    port: int = 8000,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    settings: EngineSettings = SETTINGS,
) -> Iterator[Server]:
    """A verified server for the length of the block; its processes end with the block."""
    checkpoint = read_checkpoint(model_dir)
    names = tuple(names) or (Path(checkpoint.path).name,)
    check_fits(checkpoint, settings)
    _check_port(host, port)
    url = f"http://{'127.0.0.1' if host in ('', '0.0.0.0') else host}:{port}/v1"
    # Its own session: the terminal's Ctrl-C reaches this process only, which then stops all.
    process = subprocess.Popen(
        _command(checkpoint, port, host, names, settings),
        env=_environment(settings),
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        _wait_until_up(process, url)
        distance = _distance(url, names[0], checkpoint)
        if not distance <= ATOL:
            raise FingerprintMismatch(
                f"{checkpoint.path}: the server does not compute what fingerprint.json records:"
                f" log-probabilities are off by up to {distance:.3g} nats"
            )
        yield Server(process, url, names, distance)
    finally:
        _stop(process)


def _command(
    checkpoint: Checkpoint, port: int, host: str, names: Sequence[str], settings: EngineSettings
) -> list[str]:
    options = {
        "--host": host,
        "--port": port,
        "--dtype": "float32",  # what the fingerprint is recorded in
        "--max-model-len": min(checkpoint.context, settings.max_length),
        "--max-num-seqs": settings.max_num_seqs,
        "--block-size": BLOCK_TOKENS,
        "--kv-cache-memory-bytes": kv_cache_bytes(checkpoint, settings),
        "--generation-config": "vllm",
        "--uvicorn-log-level": "warning",
    }
    # Not the "vllm" program: in the CPU build it does not start, its distribution is not "vllm".
    words = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    words += ["--model", checkpoint.path]
    words += [str(word) for option in options.items() for word in option]
    words += ["--enforce-eager", "--no-use-tqdm-on-load"]
    return [*words, "--served-model-name", *names]


def _environment(settings: EngineSettings) -> dict[str, str]:
    ours = environment(settings.threads)
    del ours["VLLM_ENABLE_V1_MULTIPROCESSING"]
    return {**os.environ, **ours}


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port {port} at {host} cannot be used ({error}); give a free port, 1024 to 65535"
        ) from error


def _end_with_parent() -> None:
    """In the child, before the server starts: be asked to stop if this program is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"vLLM's server ended with code {process.returncode} before it was ready; its"
                " messages stand above"
            )
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/models", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"vLLM's server was not ready after {START_SECONDS:.0f} s")


def _distance(url: str, name: str, checkpoint: Checkpoint) -> float:
    """Largest difference in nats between the server's answers and the recorded fingerprint."""
    recorded = checkpoint.fingerprint
    worst = 0.0
    for prompt, ids, logprobs in zip(
        recorded.prompts, recorded.token_ids, recorded.logprobs, strict=True
    ):
        reply = httpx.post(
            f"{url}/completions",
            json={
                "model": name,
                "prompt": list(prompt),
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(ids),
                "logprob_token_ids": list(ids),
                "return_tokens_as_token_ids": True,
            },
            timeout=60,
        )
        reply.raise_for_status()
        got = reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]
        for token, expected in zip(ids, logprobs, strict=True):
            difference = abs(got.get(f"token_id:{token}", math.inf) - expected)
            worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and every process it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):  # what did not listen
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
