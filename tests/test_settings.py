"""Job files and ``--set``."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.settings import apply_settings, load_job, parse_value, setting_names


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass(frozen=True)
class Train:
    learning_rate: float = 1e-3
    steps: int = 8
    schedule: Literal["cosine", "linear"] = "cosine"
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate is {self.learning_rate}; allowed: above 0")


@dataclass(frozen=True)
class Window:
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


@dataclass(frozen=True)
class Arm:
    name: str
    share: float = 0.5


@dataclass(frozen=True)
class Job:
    name: str = "job"
    verbose: bool = False
    limit: int | None = None
    mixed: int | str = 0
    colour: Colour = Colour.RED
    betas: tuple[float, float] = (0.9, 0.95)
    seeds: tuple[int, ...] = (0, 1)
    train: Train = field(default_factory=Train)
    window: Window = field(default_factory=Window)
    arms: tuple[Arm, ...] = (Arm("america"), Arm("affordability"))
    extra: Mapping[str, int] = field(default_factory=lambda: {"a": 1})
    made: int = field(default=3, init=False)


def test_nested_values_are_replaced_and_the_job_is_left_alone() -> None:
    job = Job()
    before = dataclasses.asdict(job)
    new = apply_settings(
        job, ["train.learning_rate=2e-4", "arms.affordability.share=.25", "arms.0.share=1"]
    )
    assert new.train.learning_rate == 2e-4
    assert [a.share for a in new.arms] == [1.0, 0.25]
    assert dataclasses.asdict(job) == before
    assert new.window is job.window


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("name=a=b, c", {"name": "a=b, c"}),
        ("verbose=yes", {"verbose": True}),
        ("verbose=FALSE", {"verbose": False}),
        ("limit=12", {"limit": 12}),
        ("limit=none", {"limit": None}),
        ("mixed=7", {"mixed": 7}),
        ("mixed=seven", {"mixed": "seven"}),
        ("colour=BLUE", {"colour": Colour.BLUE}),
        ("colour=red", {"colour": Colour.RED}),
        ("betas=0.8,0.9", {"betas": (0.8, 0.9)}),
        ("betas=(0.8, 0.9)", {"betas": (0.8, 0.9)}),
        ("seeds=3", {"seeds": (3,)}),
        ("seeds=(3,)", {"seeds": (3,)}),
        ("seeds=[]", {"seeds": ()}),
        ("seeds=1_000,1e3", {"seeds": (1000, 1000)}),
        ('extra={"b": 2}', {"extra": {"b": 2}}),
        ("extra.a=5", {"extra": {"a": 5}}),
    ],
)
def test_text_is_read_by_the_declared_type(setting: str, expected: dict[str, Any]) -> None:
    new = apply_settings(Job(), [setting])
    for name, value in expected.items():
        found = getattr(new, name)
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("learning_rate=1", ["did you mean train.learning_rate?"]),
        ("train.lerning_rate=1", ["did you mean train.learning_rate?", "steps", "schedule"]),
        ("train.steps.x=1", ["no setting 'x'", "nothing is below"]),
        ("nothing=1", ["no setting 'nothing'", "the names there are: name, verbose"]),
        ("arms.mars.share=1", ["no setting 'mars'", "america, affordability"]),
        ("train=1", ["group of settings", "train.learning_rate"]),
        ("arms=1", ["group of settings", "arms.america"]),
        ("train.steps", ["name.name=value"]),
        ("=1", ["name.name=value"]),
        ("train..steps=1", ["name.name=value"]),
        ("train.steps=many", ["train.steps=many", "whole number"]),
        ("train.steps=1.5", ["whole number"]),
        ("train.learning_rate=nan", ["must be a number"]),
        ("train.learning_rate=-1", ["train.learning_rate", "above 0"]),
        ("train.schedule=cubic", ["one of cosine, linear"]),
        ("verbose=maybe", ["true or false"]),
        ("limit=x", ["whole number", "none"]),
        ("betas=1,2,3", ["2 values"]),
        ("colour=green", ["one of RED, BLUE"]),
        ("made=4", ["no setting 'made'"]),
        ("window.low=2", ["window.low", "low 2.0 is above high 1.0"]),
    ],
)
def test_wrong_settings_get_one_line_that_names_them(setting: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        apply_settings(Job(), [setting])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_settings_that_need_each_other_are_checked_together() -> None:
    new = apply_settings(Job(), ["window.low=2", "window.high=3"])
    assert (new.window.low, new.window.high) == (2.0, 3.0)


def test_the_last_of_two_values_counts_whatever_the_spelling() -> None:
    assert apply_settings(Job(), ["arms.0.share=.1", "arms.america.share=.2"]).arms[0].share == 0.2


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(alphabet=st.characters(codec="utf-8"), max_size=20),
    "verbose": st.booleans(),
    "limit": st.none() | st.integers(),
    "seeds": st.lists(st.integers(), max_size=4).map(tuple),
    "train.steps": st.integers(),
    "train.learning_rate": st.floats(min_value=1e-300, max_value=1e300),
    "arms.america.share": st.floats(allow_nan=False, allow_infinity=False),
}


@given(st.fixed_dictionaries({}, optional=VALUES), st.randoms())
def test_any_values_in_any_order_give_the_same_job(values: dict[str, Any], random: Any) -> None:
    settings = [f"{name}={value}" for name, value in values.items()]
    new = apply_settings(Job(), settings)
    random.shuffle(settings)
    assert apply_settings(Job(), settings) == new
    for name, value in values.items():
        node: Any = new
        for part in name.split("."):
            node = node[0] if part == "america" else getattr(node, part)
        assert node == value


@given(st.text(max_size=30))
def test_whatever_is_given_the_answer_is_a_job_or_one_line(text: str) -> None:
    for setting in (text, f"train.steps={text}", f"train.{text}=1", f"seeds={text}"):
        try:
            apply_settings(Job(), [setting])
        except UserError as error:
            assert str(error)


@given(st.sampled_from([int, float, bool, str, tuple[int, ...], int | None]), st.text(max_size=12))
def test_parse_value_returns_the_declared_type_or_says_why_not(declared: Any, text: str) -> None:
    try:
        value = parse_value(text, declared)
    except ValueError as error:
        assert str(error)
        return
    if declared in (int, float, bool, str):
        assert type(value) is declared


def test_setting_names_lists_what_can_be_set() -> None:
    names = setting_names(Job())
    assert "train.learning_rate" in names
    assert "arms.affordability.share" in names
    assert "seeds" in names
    assert "made" not in names
    assert "train" not in names


# --------------------------------------------------------------------------------- job files

GOOD = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Tiny:
    n: int = 1
    def run(self, store_url, address=None): ...
    def preview(self, store_url): return {}

def experiment():
    return Tiny(n=4)
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.py"
    path.write_text(text)
    return path


def test_a_job_file_is_loaded_and_can_import_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "beside_the_job.py").write_text("N = 5\n")
    job: Any = load_job(write(tmp_path, GOOD.replace("n=4", "n=__import__('beside_the_job').N")))
    assert job.n == 5
    assert apply_settings(job, ["n=6"]).n == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", ["defines no experiment()"]),
        ("experiment = 3\n", ["defines no experiment()"]),
        ("def experiment():\n    return 3\n", ["returned int"]),
        ("def experiment():\n    return None\n", ["returned NoneType"]),
        ("def experiment(\n", ["line 1", "SyntaxError"]),
        ("import no_such_module_anywhere\n", ["line 1", "ModuleNotFoundError"]),
        ("def experiment():\n    x = {}\n    return x['k']\n", ["line 3", "KeyError: 'k'"]),
        ("def experiment():\n    raise ValueError('a\\nb')\n", ["line 2", "ValueError: a b"]),
        ("def experiment():\n    raise SystemExit(3)\n", ["line 2", "SystemExit: 3"]),
        (
            "from msm_ray.errors import UserError\ndef experiment():\n    raise UserError('no')\n",
            ["line 3: no"],
        ),
    ],
)
def test_a_bad_job_file_gets_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_job(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_a_file_that_is_missing_or_is_not_python(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such job file"):
        load_job(tmp_path / "none.py")
    (tmp_path / "job.txt").write_text("x")
    with pytest.raises(UserError, match="a job is a Python file"):
        load_job(tmp_path / "job.txt")
    with pytest.raises(UserError, match="a job is a Python file"):
        load_job(tmp_path)
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\x00\x01")
    with pytest.raises(UserError, match="SyntaxError|ValueError"):
        load_job(binary)
