"""``msm``: the command line. Parses, dispatches, and turns errors into one line and an exit code.

Exit codes: 0 done; 1 the run failed or is incomplete; 2 the user's input is wrong (one line, no
traceback); 130 stopped with Ctrl-C. Nothing heavy is imported before a command needs it, so that
``msm --help`` answers at once.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from msm_ray.errors import UserError

DONE, FAILED, WRONG_INPUT, STOPPED = 0, 1, 2, 130
DEFAULT_STORE = "./msm-store"
_SETTING = re.compile(r"[\w.:+-]+=")


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog.split()[0]}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(WRONG_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="msm",
        description="Which corpus, which mix, which fine-tuning makes a Model Spec generalize?",
        epilog="Exit codes: 0 done, 1 failed or incomplete, 2 wrong input, 130 stopped.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    run = command("run", "run a job: what is missing in the store is made, the rest is reused")
    _job_arguments(run)
    run.add_argument("--address", metavar="ADDR", help="a running Ray cluster (default: none)")
    run.add_argument("--dry-run", action="store_true", help="show the preview and stop")
    preview = command("preview", "what a run would do and cost, without running it")
    _job_arguments(preview)
    preview.add_argument("--json", action="store_true", help="as JSON")
    submit = command("submit", "run a job on a Ray cluster through Ray Jobs")
    _job_arguments(submit)
    submit.add_argument("--address", metavar="URL", required=True, help="http://HEAD:8265")
    submit.add_argument(
        "--python",
        metavar="PATH",
        help="the interpreter there (default: this one if the cluster runs here, else python)",
    )
    ls = command("ls", "list the runs and artifacts of a store")
    ls.add_argument("--json", action="store_true", help="as JSON")
    show = command("show", "show one artifact's record, or a run in short")
    show.add_argument("id", metavar="ID", help="an artifact id, a run's name or a fingerprint")
    show.add_argument("--json", action="store_true", help="as JSON")
    verify = command("verify", "check the files of one artifact, or of all, against their sha256")
    verify.add_argument("id", metavar="ID", nargs="?", help="an artifact id, or the beginning")
    gc = command("gc", "remove interrupted attempts and set-aside data; what is committed stays")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    report = command("report", "write report.html of a run again, from its report.json")
    report.add_argument("run", metavar="RUN", help="the run's name or a fingerprint")
    compare = command("compare", "two runs side by side: settings, rates and effects that differ")
    compare.add_argument("runs", metavar="RUN", nargs=2, help="a run's name or a fingerprint")
    compare.add_argument("--json", action="store_true", help="as JSON")
    compare.add_argument("--html", metavar="FILE", help="write it as a page, too")
    serve = command("serve", "serve checkpoints over an OpenAI-compatible API (vLLM)")
    serve.add_argument(
        "ids",
        metavar="ID",
        nargs="+",
        help="a model's artifact id, or the beginning of one; several for adapters of one base",
    )
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="longest sequence in tokens (default: 8192, or the model's context if that is less)",
    )
    serve.add_argument(
        "--tool-parser", metavar="NAME", default="", help="vLLM's parser of tool calls (hermes...)"
    )
    serve.add_argument(
        "--chat-template", metavar="FILE", help="how chats become prompts (default: the model's)"
    )
    for each in (ls, show, verify, gc, report, compare, serve):
        _store_argument(each)
    command("doctor", "what this machine has, what is missing, and the command that mends it")
    return parser


def _store_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="URL",
        default=DEFAULT_STORE,
        help=f"folder or fsspec URL (default: {DEFAULT_STORE})",
    )


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB.py", help="a Python file that defines experiment()")
    _store_argument(parser)
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="a.b=c",
        action="append",
        default=[],
        help="change one value of the experiment; may be given several times",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Prints, and raises nothing but SystemExit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["doctor"]:
            from msm_ray import doctor

            return int(doctor.main(arguments[1:]))
        parsed = _parser().parse_args(_spread_settings(arguments))
        return _command(parsed.command)(parsed)
    except KeyboardInterrupt:
        print(
            "\nmsm: stopped. What is done stays in the store; the same command continues.",
            file=sys.stderr,
        )
        return STOPPED
    except BrokenPipeError:  # `msm ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        return _explain(error)


def _spread_settings(arguments: Sequence[str]) -> list[str]:
    """``--set a=1 b=2`` as ``--set=a=1 --set=b=2``: the word after --set, then all ``NAME=...``."""
    spread: list[str] = []
    after = 0  # words taken since the last --set; 0: none is open
    for word in arguments:
        if word == "--set":
            after = 1
            spread.append(word)
        elif after == 1 and not word.startswith("-"):
            spread[-1] = f"--set={word}"
            after = 2
        elif after == 2 and _SETTING.match(word) and not word.startswith("-"):
            spread.append(f"--set={word}")
        else:
            after = 0
            spread.append(word)
    return spread


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function that does command ``name``; its module is imported only now."""
    from msm_ray import commands, launch

    where: Any = launch if name in ("run", "preview", "submit") else commands
    function: Callable[[argparse.Namespace], int] = getattr(where, name)
    return function


def _explain(error: Exception) -> int:
    """Print what went wrong in the user's words; returns the exit code."""
    # What a Ray task raised comes wrapped, with the remote traceback as its message.
    cause = getattr(error, "cause", None)
    told = next((e for e in (cause, error) if isinstance(e, UserError)), None)
    if told is None and isinstance(error, ModuleNotFoundError):
        from msm_ray.doctor import missing

        told = missing(error)  # half an installation is not a bug
    if told is not None:
        print(f"msm: {_one_line(told)}", file=sys.stderr)
        return WRONG_INPUT
    traceback.print_exception(error)
    return FAILED


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def job_main(job: Callable[[], Any] | str | Path) -> NoReturn:
    """Make ``python JOB.py ...`` the same as ``msm run JOB.py ...``.

    The last line of a job file: ``if __name__ == "__main__": job_main(experiment)``.
    """
    path = job if isinstance(job, (str, Path)) else inspect.getfile(job)
    raise SystemExit(main(["run", os.path.relpath(path), *sys.argv[1:]]))


if __name__ == "__main__":
    raise SystemExit(main())
