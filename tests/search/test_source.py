"""A job file from a job: it reads as the same job, and as a person would have written it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.search.source import job_source
from msm_ray.settings import load_job
from tests.search.shapes import Leaf, OtherLeaf, Whole

ROOT = Path(__file__).resolve().parent.parent.parent
JOBS = [
    path for path in sorted((ROOT / "jobs").glob("*.py")) if "def experiment" in path.read_text()
]


def built(source: str) -> Any:
    """What the source's experiment() returns."""
    names: dict[str, Any] = {"__name__": "job"}
    exec(compile(source, "job.py", "exec"), names)
    return names["experiment"]()


def ruff(folder: Path) -> str:
    """What ruff finds in the files of a folder, by the rules of this project."""
    said = ""
    for command in (["check"], ["format", "--check", "--diff"]):
        words = [sys.executable, "-m", "ruff", *command, "--no-cache"]
        words += ["--config", str(ROOT / "pyproject.toml"), str(folder)]
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        said += "" if run.returncode == 0 else run.stdout + run.stderr
    return said


def test_every_job_reads_back_as_itself_and_as_ruff_wants_it(tmp_path: Path) -> None:
    assert len(JOBS) > 20
    for path in JOBS:
        job = load_job(path)
        file = tmp_path / f"{path.stem}_written.py"
        file.write_text(job_source(job), encoding="utf-8")
        again = load_job(file)
        assert again == job, path
        assert repr(again) == repr(job), path  # 1 is not 1.0 there
    odd = Whole(
        "odd",
        "A title with \"both\" 'kinds' of quotes, which is so long that it has to be broken up, "
        "and a back\\slash; not \"\"\" an end",
        parts=("/a/very/long/path" * 12, "x" * 300, 'say "so"' * 20, "don't\n" * 30),
        named={"one tuple": ("long enough to be broken " * 3, ), "none": (), "list": [1, [2.0]]},
    )  # fmt: skip
    (tmp_path / "odd.py").write_text(job_source(odd), encoding="utf-8")
    assert load_job(tmp_path / "odd.py") == odd
    assert ruff(tmp_path) == ""


def test_what_is_repeated_has_a_name_and_what_is_default_is_left_out() -> None:
    text = job_source(load_job(ROOT / "jobs" / "values_llama8b.py"))
    assert text.count("MODEL = Model(") == 1
    assert "Price" not in text, "it has its default everywhere"
    assert 'Pairs("america")' in text
    assert len(text.splitlines()) < 700
    micro = job_source(load_job(ROOT / "jobs" / "cheese_micro.py"), title="The best of 24")
    assert micro.startswith('"""The best of 24"""\n')
    assert 'BaseModel(name="base-0", path=str(base_dir(0)), world_seed=0)' in micro
    assert "writer_model" not in micro
    assert "tokens=200_000" in micro
    assert "learning_rate=1e-4" in micro


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=150),
)
LEAVES = st.builds(
    Leaf,
    text=st.text(st.characters(exclude_categories=("Cs",)), max_size=120),
    count=st.integers(0, 5),
    rate=st.sampled_from([0.5, 1, 1.0, 1e-9, 8.03e9]),
    on=st.booleans(),
)
VALUES = st.recursive(
    SCALARS | LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
        st.builds(OtherLeaf, leaf=LEAVES, anything=inner),
    ),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=3), VALUES)
@settings(max_examples=60)
def test_any_job_reads_back_as_itself(parts: list[Any], value: Any) -> None:
    job = Whole("n", "t", parts=(*parts, value, value), maybe=OtherLeaf(anything=value))
    source = job_source(job)
    again = built(source)
    assert again == job
    assert repr(again) == repr(job)
    assert max(map(len, source.splitlines())) <= 100


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1, 2}, r"^parts\.1: a set cannot be written to a job file$"),
        (float("nan"), r"^parts\.1: nan cannot be written"),
        ([{"a": float("inf")}], r"^parts\.1\.0\.a: inf cannot"),
        (Path("a"), r"^parts\.1: a PosixPath cannot"),
        (Leaf("t", count=Leaf), r"^parts\.1\.count: a type cannot"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_written_names_its_field(value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        job_source(Whole("n", "t", parts=(0, value)))


def test_a_class_that_no_file_could_import_is_refused() -> None:
    local = dataclasses.make_dataclass("Local", ["x"], frozen=True)
    with pytest.raises(UserError, match=r"parts\.0: Local cannot be imported from"):
        job_source(Whole("n", "t", parts=(local(1),)))
    with pytest.raises(UserError, match="the job is dict; allowed is a frozen dataclass"):
        job_source({})
