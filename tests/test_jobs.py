"""What a job's first lines tell people to type can be typed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's folder as a user has it, with the data that a user brings."""
    made = tmp_path_factory.mktemp("project")
    for name in ("jobs", "specs"):
        (made / name).symlink_to(ROOT / name)
    (made / "data" / "replay").mkdir(parents=True)
    # Large enough for 24 M tokens by their sizes, and quickly written.
    table = pa.table({"text": [f"Of pages there were {n}{'.' * 1_000_000}" for n in range(100)]})
    pq.write_table(table, made / "data" / "replay" / "web.parquet", use_dictionary=False)
    said = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]
    chats = json.dumps({"messages": said}) + " " * 30_000_000
    (made / "data" / "chats.jsonl").write_text(chats)
    return made


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_a_docstring_can_be_previewed(
    words: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    code = cli.main(["preview", *words, "--store", str(folder / "store")])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "to do in all" in said.out


def test_every_job_says_how_it_is_run() -> None:
    told = {words[0] for words in commands()}
    # What makes the bases is a script of its own.
    assert {f"jobs/{path.name}" for path in JOBS} - told == {"jobs/pretrain_micro.py"}


def test_data_that_a_user_has_to_bring_is_asked_for_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["preview", str(ROOT / "jobs" / "tune_mix_llama8b.py")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("msm: replay: data/replay/*.parquet: no such file; mix.replay.source")
    assert said.count("\n") == 1
