"""What a job's first lines tell people to type can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from msm_ray import cli

ROOT = Path(__file__).parent.parent
JOBS = sorted((ROOT / "jobs").glob("*.py"))


def commands() -> list[tuple[str, ...]]:
    """The arguments of every ``msm run`` and ``msm preview`` in a job's docstring, each once."""
    found = {}
    for path in JOBS:
        docstring = path.read_text().split('"""')[1]
        for line in re.findall(r"^ *msm ((?:run|preview) .*)$", docstring, re.MULTILINE):
            words = shlex.split(line, comments=True)[1:]
            if "--address" in words:  # where it runs, not what
                at = words.index("--address")
                del words[at : at + 2]
            found[tuple(words)] = path
    return list(found)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_a_docstring_can_be_previewed(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    code = cli.main(["preview", *words, "--store", str(tmp_path / "store")])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "to do in all" in said.out


def test_every_job_says_how_it_is_run() -> None:
    told = {words[0] for words in commands()}
    # What makes the bases is a script of its own.
    assert {f"jobs/{path.name}" for path in JOBS} - told == {"jobs/pretrain_micro.py"}
