"""Checkpoints behind vLLM's own OpenAI-compatible server, proven to be those checkpoints."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import Checkpoint, Fingerprint, read_checkpoint
from msm_ray.evaluate.engine_settings import (
    BLOCK_TOKENS,
    WORKER_EXTENSION,
    EngineSettings,
    check_fits,
    environment,
    kv_cache_bytes,
    rank_reserved,
)
from msm_ray.evaluate.verification import FingerprintMismatch

START_SECONDS = 600.0  # large weights take their time to be read
STOP_SECONDS = 15.0
CHECKS = 16  # prompts of fingerprints that are asked at the same time
SETTINGS = EngineSettings(threads=os.cpu_count() or 1, max_num_seqs=16, max_length=8192)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Served:
    """A checkpoint and what clients may call it."""

    checkpoint: Checkpoint
    names: tuple[str, ...]


@dataclass(frozen=True)
class Client:
    """What clients need of the server: how chats become prompts, and calls of tools answers.

    ``tool_parser`` is a name that vLLM knows ("hermes", "llama3_json", ...).
    """

    tool_parser: str = ""
    chat_template: Path | None = None

    def __post_init__(self) -> None:
        check_tool_parser(self.tool_parser)


def check_tool_parser(name: str) -> None:
    """UserError unless vLLM has a parser of that name ("": none is needed).

    The names are read from vLLM's source, since importing it takes seconds; where there is no vLLM,
    nothing is checked.
    """
    found = importlib.util.find_spec("vllm")
    if not name or found is None or found.origin is None:
        return
    source = (Path(found.origin).parent / "tool_parsers" / "__init__.py").read_text("utf-8")
    known: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            known |= {str(k.value) for k in node.value.keys if isinstance(k, ast.Constant)}
    if known and name not in known:
        allowed = ", ".join(sorted(known))
        raise UserError(f"tool parser {name!r}: vLLM has none of that name; allowed: {allowed}")


PLAIN = Client()


def serve(
    models: Sequence[Served],
    port: int = 8000,
    host: str = "127.0.0.1",
    settings: EngineSettings = SETTINGS,
    client: Client = PLAIN,
    base_names: Sequence[str] = (),
) -> int:
    """Serve until Ctrl-C; says "ready" only when every fingerprint has been checked.

    Args:
        models: one whole model, or adapters over one base.
        base_names: what clients may call the model below the adapters, which vLLM serves too; its
            folder's name if none is given.

    Returns:
        0 after Ctrl-C, else the server's own exit code.

    Raises:
        UserError: models that cannot be served together, a port that cannot be used, or too little
            memory.
        FingerprintMismatch: the server computes something else than a checkpoint's trainer did.
    """
    try:
        with serving_together(models, port, host, settings, client, base_names) as server:
            below = f" (over {', '.join(server.base_names)})" if server.base_names else ""
            print(
                f"ready: {server.url} serves {', '.join(server.names)}{below}; log-probabilities"
                f" are within {server.distance:.1g} nats of the checkpoints' own; Ctrl-C ends it",
                flush=True,
            )
            return server.process.wait()
    except KeyboardInterrupt:
        return 0


@dataclass(frozen=True)
class Server:
    """A running server. ``distance``: how far it is from the recorded fingerprints, in nats."""

    process: subprocess.Popen[bytes]
    url: str
    names: tuple[str, ...]
    base_names: tuple[str, ...]
    distance: float


def serving(
    model_dir: str | Path,
    port: int = 8000,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    settings: EngineSettings = SETTINGS,
) -> contextlib.AbstractContextManager[Server]:
    """`serving_together` of one whole model; ``names``: its folder's if none is given."""
    checkpoint = read_checkpoint(model_dir)
    names = tuple(names) or (Path(checkpoint.path).name,)
    return serving_together([Served(checkpoint, names)], port, host, settings)


@contextlib.contextmanager
def serving_together(
    models: Sequence[Served],
    port: int = 8000,
    host: str = "127.0.0.1",
    settings: EngineSettings = SETTINGS,
    client: Client = PLAIN,
    base_names: Sequence[str] = (),
) -> Iterator[Server]:
    """A verified server for the length of the block; its processes end with the block.

    See `serve` for the arguments.
    """
    whole = _together(models)
    names = tuple(name for model in models for name in model.names)
    below: tuple[str, ...] = ()
    if models[0].checkpoint.base is not None:
        below = tuple(base_names) or (Path(whole.path).name,)
    if len({*names, *below}) < len(names) + len(below):
        raise UserError(f"two models have one name: {', '.join(sorted((*names, *below)))}")
    template = _template(models, client)
    check_fits(models[0].checkpoint, settings)
    _check_port(host, port)
    url = f"http://{'127.0.0.1' if host in ('', '0.0.0.0') else host}:{port}/v1"
    # Its own session: the terminal's Ctrl-C reaches this process only, which then stops all.
    process = subprocess.Popen(
        _command(models, below, port, host, settings, client.tool_parser, template),
        env=_environment(settings),
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        _wait_until_up(process, url)
        checks = [(name, model.checkpoint) for model in models for name in model.names]
        checks += [(name, whole) for name in below]
        yield Server(process, url, names, below, _verified(url, checks, settings))
    finally:
        _stop(process)


def _together(models: Sequence[Served]) -> Checkpoint:
    """The one whole model, or the base of the adapters; UserError if it is not one."""
    assert models, "nothing to serve"
    wholes = {m.checkpoint.architecture: m.checkpoint for m in models}
    if len(wholes) > 1 or (len(models) > 1 and models[0].checkpoint.base is None):
        kinds = ["a whole model" if m.checkpoint.base is None else "an adapter" for m in models]
        named = ", ".join(f"{m.names[0]} ({k})" for m, k in zip(models, kinds, strict=True))
        raise UserError(f"one whole model can be served, or several adapters of one base: {named}")
    return models[0].checkpoint.base or models[0].checkpoint


def check_length(models: Sequence[Served], length: int) -> None:
    """UserError unless every model reads ``length`` tokens."""
    short = min(models, key=lambda model: model.checkpoint.context)
    if not 1 <= length <= short.checkpoint.context:
        raise UserError(
            f"--max-length {length}: {short.names[0]} has a context of {short.checkpoint.context}"
            f" tokens; allowed: 1 to {short.checkpoint.context}"
        )


def _command(
    models: Sequence[Served],
    base_names: Sequence[str],
    port: int,
    host: str,
    settings: EngineSettings,
    tool_parser: str,
    template: Path | None,
) -> list[str]:
    first = models[0].checkpoint
    length = min(first.context, settings.max_length)
    options: dict[str, object] = {
        "--host": host,
        "--port": port,
        "--dtype": settings.precision,
        "--max-model-len": length,
        "--max-num-seqs": settings.max_num_seqs,
        "--block-size": BLOCK_TOKENS,
        "--kv-cache-memory-bytes": kv_cache_bytes(first, settings),
        "--generation-config": "vllm",
        "--uvicorn-log-level": "warning",
    }
    if settings.gpus > 1:
        options["--tensor-parallel-size"] = int(settings.gpus)
    if tool_parser:
        options["--tool-call-parser"] = tool_parser
    if template is not None:
        options["--chat-template"] = str(template)
    # Not the "vllm" program: in the CPU build it does not start, its distribution is not "vllm".
    words = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    words += ["--model", (first.base or first).path]
    if tool_parser:
        words.append("--enable-auto-tool-choice")
    if not settings.gpus:
        # A prompt with a seed that is read in pieces kills the engine on the CPU (vLLM 0.29).
        words += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens"]
        words.append(str(max(length, 4096)))
    if first.base is not None:
        options["--max-lora-rank"] = max(rank_reserved(m.checkpoint.rank) for m in models)
        options["--max-loras"] = min(len(models), settings.max_adapters)
        options["--max-cpu-loras"] = max(len(models), settings.max_adapters)
        if not settings.gpus:
            options["--worker-extension-cls"] = WORKER_EXTENSION
        modules = [
            json.dumps({"name": name, "path": model.checkpoint.path})
            for model in models
            for name in model.names
        ]
        words += ["--enable-lora", "--lora-modules", *modules]
    words += [str(word) for option in options.items() for word in option]
    words += ["--no-use-tqdm-on-load", "--served-model-name"]
    return [*words, *(base_names or models[0].names)]


def _template(models: Sequence[Served], client: Client) -> Path | None:
    """The chat template's file: the one that is asked for, else that beside the adapters.

    vLLM itself would take the base's; an adapter may have been trained on another one.
    """
    if client.chat_template is not None:
        if not client.chat_template.is_file():
            raise UserError(f"--chat-template {client.chat_template}: no such file")
        return client.chat_template
    beside = [Path(model.checkpoint.path) / "chat_template.jinja" for model in models]
    found = [path for path in beside if path.is_file()]
    if len({path.read_bytes() for path in found}) > 1:
        raise UserError("the adapters have different chat templates; give one as --chat-template")
    return found[0] if found else None


def _environment(settings: EngineSettings) -> dict[str, str]:
    ours = environment(settings.threads)
    del ours["VLLM_ENABLE_V1_MULTIPROCESSING"]
    return {**os.environ, **ours}


def free_port() -> int:
    """A port that nobody uses just now, for a server on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def _verified(
    url: str, checks: Sequence[tuple[str, Checkpoint]], settings: EngineSettings
) -> float:
    """The largest distance of any model; FingerprintMismatch if it is too large.

    All are asked at the same time: what goes wrong where adapters and their base stand in one batch
    is seen here.
    """
    worst = 0.0
    prompts = [
        (i, one)
        for i, (_, checkpoint) in enumerate(checks)
        for one in _single_prompts(checkpoint.fingerprint)
    ]
    with ThreadPoolExecutor(CHECKS) as threads:
        found = threads.map(lambda at: _distance(url, checks[at[0]][0], at[1]), prompts)
        for (i, _), distance in zip(prompts, found, strict=True):
            name, checkpoint = checks[i]
            if not distance <= settings.atol:
                raise FingerprintMismatch(
                    f"{checkpoint.path}: the server, asked for {name}, does not compute what"
                    f" fingerprint.json records: log-probabilities are off by up to"
                    f" {distance:.3g} nats"
                )
            worst = max(worst, distance)
    return worst


def _single_prompts(fingerprint: Fingerprint) -> list[Fingerprint]:
    rows = zip(fingerprint.prompts, fingerprint.token_ids, fingerprint.logprobs, strict=True)
    return [Fingerprint((a,), (b,), (c,)) for a, b, c in rows]


def _distance(url: str, name: str, recorded: Fingerprint) -> float:
    """Largest difference in nats between the server's answers and the recorded fingerprint."""
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
