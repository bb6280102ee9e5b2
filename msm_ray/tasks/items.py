"""Items of tasks: JSONL files of ``{id, domain, ...}``, packaged by name or a user's own by path.

==========  ==========================================================  =========================
form        keys beside ``id`` and ``domain``                           what an item is
==========  ==========================================================  =========================
pairs       ``aligned``, ``other``                                      two things of one kind
opinions    ``question``, ``aligned``, ``other``                        a question, two answers
choices     ``question``, ``correct``, ``wrong`` (list of three)        a question of knowledge
open_qa     ``question``                                                a question to be talked of
texts       ``text``                                                    a text that is to be likely
==========  ==========================================================  =========================

``aligned`` is what somebody with the value under test would choose. Identity is what the items say:
not where the file lies, nor how its JSON is spaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.identity import digest
from msm_ray.stage import Stage

Row = dict[str, Any]

KEYS: Mapping[str, tuple[str, ...]] = {
    "pairs": ("aligned", "other"),
    "opinions": ("question", "aligned", "other"),
    "choices": ("question", "correct", "wrong"),
    "open_qa": ("question",),
    "texts": ("text",),
}
# Between which an item has to leave a choice.
OPTIONS = {"pairs": ("aligned", "other"), "opinions": ("aligned", "other")}
WRONG = 3  # wrong answers of an item of knowledge


@dataclass(frozen=True)
class Items:
    """Items of one form: a packaged set by its name, or a file of one's own by its path."""

    form: str
    source: str

    @property
    def name(self) -> str:
        """What evals call it: the packaged name, or the file's without the form."""
        return _short(self.form, Path(self.source).stem) if self.is_path else self.source

    @property
    def is_path(self) -> bool:
        """Whether it is a file of the user's."""
        return "/" in self.source or "\\" in self.source or self.source.endswith(".jsonl")

    @property
    def path(self) -> Path:
        """The file. UserError for the name of a set that is not there."""
        if self.is_path:
            return Path(self.source)
        there = packaged(self.form)
        if self.source not in there:
            raise UserError(
                f"{self.form}: no items are called {self.source!r}; there are"
                f" {', '.join(there)}, and a path ends in .jsonl"
            )
        return there[self.source]

    def rows(self) -> list[Row]:
        """The items, sorted by id; see `read`."""
        return read(self.path, self.form)

    def stage(self) -> Stage:
        """The items as an artifact: the same for every checkpoint that is asked them."""
        path = self.path
        sha256, count = _summary(path, self.form, *_state(path))
        return Stage(
            kind="task_items",
            version="1",
            config={"form": self.form, "sha256": sha256},
            inputs={},
            run="msm_ray.tasks.items:copy",
            label=f"{self.form} {self.name}",
            runtime={"path": str(path), "where": "driver", "cpus": 0},
            estimate={"seconds": 0.1, "items": count},
        )


@lru_cache(maxsize=8)
def packaged(form: str) -> dict[str, Path]:
    """The sets of items that come with the package: name -> file."""
    folder = Path(str(files("msm_ray.tasks"))) / "packaged"
    found = sorted(folder.glob(f"{form}*.jsonl"))
    return {_short(form, path.stem): path for path in found}


def _short(form: str, stem: str) -> str:
    return stem.removeprefix(f"{form}_")


def read(path: Path, form: str) -> list[Row]:
    """The items of a file, sorted by id.

    Raises:
        UserError: no file, no items, a line that is no item of this form, an id that comes twice,
            or options that are the same.
    """
    return list(_read(path, form, *_state(path)))


def _state(path: Path) -> tuple[int, int]:
    """What changes with a file: its size, and when it was written."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _summary(path: Path, form: str, size: int, changed_ns: int) -> tuple[str, int]:
    """Hash and number of the items of a file."""
    rows = list(_read(path, form, size, changed_ns))
    return digest(rows), len(rows)


@lru_cache(maxsize=64)
def _read(path: Path, form: str, size: int, changed_ns: int) -> tuple[Row, ...]:
    """Read once as long as the file stays: every checkpoint of every trial is asked its items."""
    found: dict[str, Row] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        row = _row(line, form, where)
        if row["id"] in found:
            raise UserError(f"{where}: the id {row['id']!r} is there already; ids must differ")
        found[row["id"]] = row
    if not found:
        raise UserError(f"{path}: holds no items; a task needs at least one")
    return tuple(found[id] for id in sorted(found))


def copy(ctx: Any) -> dict[str, Any]:
    """Stage: bring the items into the store, as ``items.jsonl``, sorted by id.

    UserError if they are not those that the config has the hash of.
    """
    path = Path(ctx.runtime["path"])
    rows = read(path, ctx.config["form"])
    if digest(rows) != ctx.config["sha256"]:
        raise UserError(f"{path}: changed since this run began; run again")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (ctx.out / "items.jsonl").write_text(lines, encoding="utf-8")
    return {"items": len(rows)}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; items are JSON lines") from None


def _row(line: str, form: str, where: str) -> Row:
    """One item with the keys of its form; others are left out."""
    needed = ("id", "domain", *KEYS[form])
    try:
        given = json.loads(line)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise UserError(f"{where}: is no JSON object; an item has {', '.join(needed)}")
    missing = [key for key in needed if key not in given]
    if missing:
        raise UserError(f"{where}: has no {missing[0]!r}; an item has {', '.join(needed)}")
    row = {key: given[key] for key in needed}
    for key in needed:
        _check(row[key], key, where)
    options = [row[key] for key in OPTIONS.get(form, ())]
    options += [row["correct"], *row["wrong"]] if form == "choices" else []
    if len({_plain(option) for option in options}) < len(options):
        raise UserError(f"{where}: two of its options are the same ({options[0]!r}, ...)")
    return row


def _check(value: Any, key: str, where: str) -> None:
    if key == "wrong":
        if not isinstance(value, list) or len(value) != WRONG:
            raise UserError(f"{where}: 'wrong' is {value!r}; needed is a list of {WRONG} texts")
        for text in value:
            _check(text, "an entry of 'wrong'", where)
    elif not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key!r} is {value!r}; needed is a text")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
