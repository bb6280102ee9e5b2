"""``msm run``, ``preview`` and ``submit``: what the command line does with a job."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msm_ray.errors import UserError
from msm_ray.preview_text import preview_text
from msm_ray.settings import Job, apply_settings, load_job
from msm_ray.terminal import tell_of_stopping

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from msm_ray.stage import StageFailed

STARTING_SECONDS = 60.0
EXCLUDED = [".git", ".venv", "msm-store", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"]


def _job(arguments: argparse.Namespace) -> Job:
    return apply_settings(load_job(arguments.job), arguments.settings)


def run(arguments: argparse.Namespace) -> int:
    """``msm run``: 0 when every declared cell is there, else 1."""
    if arguments.address is not None and not arguments.address.strip():
        raise UserError(
            "--address is empty; give HOST:6379, ray://HOST:10001 or auto, or leave it out to run"
            " on this machine"
        )
    job = _job(arguments)
    if arguments.dry_run:
        print(preview_text(job.preview(arguments.store)))
        return 0
    quiet = tell_of_stopping()
    try:
        result = job.run(arguments.store, arguments.address)
    except Exception as error:
        from msm_ray.stage import StageFailed  # only now: not every job is made of stages

        if not isinstance(error, StageFailed):
            raise
        return _stage_failed(error, arguments.store, str(getattr(job, "name", "job")))
    finally:
        quiet()
    lines = [*corpus_lines(result.report), *effect_lines(result.report)]
    if lines and (search := result.report.get("search")):
        print(f"of trial {search['shown']}, on the search's own seeds:")
    for line in lines:
        print(line)
    print(f"report: {result.report_html}")
    print(f"        {result.report_json}")
    if not result.complete:
        cells = result.report.get("cells", {})
        print(
            f"msm: incomplete: {cells.get('present')} of {cells.get('expected')} cells are there;"
            " the report names the missing ones, the same command continues",
            file=sys.stderr,
        )
        return 1
    return 0


def _stage_failed(failure: StageFailed, store: str, name: str) -> int:
    """Say which stage failed and how, in one line each; the traceback goes to a log in the store.

    Returns the exit code: 2 when what the user gave was wrong, though only the stage could see it.
    """
    from msm_ray.artifact import Store

    # Ray wraps what a task raised; the words for the user are those of the error itself.
    cause = getattr(failure.error, "cause", None) or failure.error
    wrong_input = isinstance(cause, UserError)
    words = " ".join(str(cause).split())
    kind = "" if wrong_input else f"{type(cause).__name__}: "
    print(
        f"msm: stage {failure.stage.name} ({failure.stage.id}) failed: {kind}{words}",
        file=sys.stderr,
    )
    log = f"runs/{name}/failed-{failure.stage.id}.log"
    opened = Store(store)
    opened.write_bytes(log, "".join(traceback.format_exception(failure.error)).encode())
    print(
        f"     log: {opened.url}/{log}; what is done stays, the same command continues",
        file=sys.stderr,
    )
    return 2 if wrong_input else 1


def corpus_lines(report: dict[str, Any]) -> list[str]:
    """What came of each corpus that a job about a spec wrote: kept, rejected by reason, failed."""
    if report.get("kind") not in ("corpus", "recipe"):
        return []
    lines = []
    for name, part in report.get("corpus", {}).get("by_corpus", {}).items():
        why = [f"{n} {reason}" for reason, n in part["rejected"].items()]
        why += [f"{part['failed']} failed"] if part["failed"] else []
        lost = f": {', '.join(why)}" if why else ""
        few = "  (fewer than half)" if part["kept"] < part["planned"] / 2 else ""
        lines.append(f"{name}: kept {part['kept']} of {part['planned']}{lost}{few}")
        lines += [f"  {path}" for path in part.get("files", [])]
    return lines


def effect_lines(report: dict[str, Any]) -> list[str]:
    """The main effects with their intervals and their worst base, for the terminal."""
    lines = []
    effects = report.get("effects", {})
    # A recipe has a separation for each eval: those by the likelier answer.
    by_eval = [
        name
        for name in effects
        if re.match(r"separation[-:]", name) and not re.search(r":(soft|text)(@|$)", name)
    ]
    main = ("separation", "separation_soft", "separation_msm_only", "aft_minus_base", *by_eval)
    for name in main:
        effect = effects.get(name)
        if effect is None:
            continue
        low, high = effect["ci95"]
        by_base: dict[str, list[float]] = {}
        for pair in effect["per_seed"]:
            by_base.setdefault(pair["base"], []).append(pair["value"])
        means = {base: sum(values) / len(values) for base, values in by_base.items()}
        worst = min(means, key=lambda base: means[base])
        if len(effect["per_seed"]) == 1:  # nothing is known of another seed
            about = f"one run; 95 % {low:+.3f} to {high:+.3f} over its items only"
            if not effect.get("over"):
                about = "one run: no interval"
            lines.append(f"{name}: {effect['value']:+.3f} ({about})")
            continue
        lines.append(
            f"{name}: {effect['value']:+.3f} (95 % {low:+.3f} to {high:+.3f}; "
            f"lowest {means[worst]:+.3f}, {worst})"
        )
    return lines


def preview(arguments: argparse.Namespace) -> int:
    """``msm preview``: the plan and its costs, as a table or as JSON."""
    counted = _job(arguments).preview(arguments.store)
    if arguments.json:
        print(json.dumps(counted, indent=2))
    else:
        print(preview_text(counted))
    return 0


# --------------------------------------------------------------------------------------- submit


def submit(arguments: argparse.Namespace) -> int:
    """``msm submit``: check the job here, run it on the cluster, follow its output to the end."""
    _job(arguments)  # wrong input is told before anything is uploaded
    address = arguments.address
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"--address {address}: must be the URL of the cluster's dashboard, http://HEAD:8265"
        )
    folder, job = _working_dir(Path(arguments.job))
    store = _store_for_cluster(arguments.store)
    command = [
        arguments.python or _python(address),
        "-m",
        "msm_ray.cli",
        "run",
        job,
        "--store",
        store,
    ]
    command += [f"--set={setting}" for setting in arguments.settings]
    command += ["--address", "auto"]
    client = _connect(address)
    submission = _submit(client, address, shlex.join(command), folder)
    print(f"submitted {submission} to {address}; store {store}", flush=True)
    try:
        return _follow(client, submission)
    except KeyboardInterrupt:
        print(
            f"\nmsm: stopped following; the job runs on. Its output: ray job logs --follow"
            f" --address {address} {submission}; to end it: ray job stop --address {address}"
            f" {submission}",
            file=sys.stderr,
        )
        return 130


def _submit(client: JobSubmissionClient, address: str, entrypoint: str, folder: Path) -> str:
    """The submission's id. A head that has only just started takes jobs after some seconds."""
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            submission: str = client.submit_job(
                entrypoint=entrypoint,
                runtime_env={"working_dir": str(folder), "excludes": EXCLUDED},
            )
            return submission
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise UserError(
                    f"--address {address}: no node took the job within {STARTING_SECONDS:.0f} s:"
                    " no job agent runs there; does another Ray node of that machine hold its port"
                    " (ray start --dashboard-agent-listen-port, 52365 by default)?"
                ) from error
            time.sleep(2)


def _python(address: str) -> str:
    """The interpreter to run: this one on this machine, else what the cluster calls ``python``."""
    host = urlsplit(address).hostname
    return sys.executable if host in ("localhost", "127.0.0.1", "::1") else "python"


def _working_dir(job: Path) -> tuple[Path, str]:
    """(folder to upload, the job's path in it): the current folder if the job lies below it."""
    here, file = Path.cwd().resolve(), job.resolve()
    folder = here if file.is_relative_to(here) else file.parent
    return folder, file.relative_to(folder).as_posix()


def _store_for_cluster(store: str) -> str:
    """The store as the cluster is to see it: a path must not be relative to the uploaded copy."""
    return store if "://" in store else str(Path(store).expanduser().resolve())


def _connect(address: str) -> JobSubmissionClient:
    """A client of the cluster at ``address``; UserError when there is none or the token is wrong.

    The token is Ray's own: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN).
    """
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        first = str(error).splitlines()[0]
        if "Missing authentication token" in first:
            what = "the cluster asks for a token and none was sent"
        elif "Invalid authentication token" in first:
            what = "the cluster does not accept this token"
        else:
            what = first.split(". ")[0]
        raise UserError(
            f"--address {address}: {what}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the"
            " file with the cluster's token"
        ) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there; is it started, and is this the"
            " dashboard's port (8265)?"
        ) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--address {address}: not usable: {reason}") from error


def _follow(client: JobSubmissionClient, submission: str) -> int:
    """Print the job's output until it ends; returns the exit code of the run on the cluster."""
    from ray.job_submission import JobStatus

    async def tail() -> None:
        async for text in client.tail_job_logs(submission):
            print(text, end="", flush=True)

    asyncio.run(tail())
    while not (status := client.get_job_status(submission)).is_terminal():
        time.sleep(0.5)
    if status == JobStatus.SUCCEEDED:
        return 0
    info = client.get_job_info(submission)
    if info.driver_exit_code is None:  # the output so far says nothing of why
        reason = ((info.message or "no reason given").strip().splitlines() or [""])[-1][:400]
        print(f"msm: job {submission} {status.value} before it began: {reason}", file=sys.stderr)
        return 1
    print(
        f"msm: job {submission} {status.value}, exit code {info.driver_exit_code}", file=sys.stderr
    )
    return 2 if info.driver_exit_code == 2 else 1
