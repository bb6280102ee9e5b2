"""Identity: one text for one value, on every machine, and its hash.

The id of an artifact is the sha256 of the canonical JSON of what it was made from. Canonical JSON
has sorted keys, no spaces and ASCII escapes only. Integers, floats and booleans stay apart (``1``,
``1.0`` and ``true`` are three values); floats are written as the shortest text that reads back as
the same float. A tuple and a list of the same items are the same value, since JSON has only one
kind of list. Strings are taken as they are, code point by code point: no Unicode normalisation,
because a stage sees the exact string and may well answer differently to its two spellings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError

MAX_DEPTH = 64  # deeper than any settings; a value that holds itself ends here


def canonical(value: Any, where: str = "value") -> Any:
    """``value`` as plain JSON values (dict, list, str, int, float, bool, None).

    ``where`` names the value in the error: ``UserError`` says which key holds what has no stable
    form (a set, a path, an object, nan, infinity, a key that is not a string).
    """
    return _plain(value, where, 0)


def canonical_json(value: Any, where: str = "value") -> str:
    """The one text of ``value``; the errors are those of `canonical`."""
    return json.dumps(
        canonical(value, where),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=True,
    )


def digest(value: Any, where: str = "value") -> str:
    """sha256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value, where).encode("ascii")).hexdigest()


def folder_sha256(folder: Path, needed: str = "config.json") -> str:
    """The hash of what a model is: its files' names and contents, the same on every machine.

    How it was made (``training.json`` holds seconds) and how an engine is checked
    (``fingerprint.json``) are left out: the same weights are the same model. UserError unless the
    file ``needed`` is there; an adapter has ``adapter_config.json``.
    """
    if not (folder / needed).is_file():
        raise UserError(f"{folder}: no model there; a Hugging Face folder with {needed} is needed")
    sha256 = hashlib.sha256()
    files = (p for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")
    for path in sorted(p for p in files if p.name not in ("training.json", "fingerprint.json")):
        sha256.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while piece := file.read(2**24):
                sha256.update(piece)
    return sha256.hexdigest()


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise UserError(f"{where[:80]}...: nested more than {MAX_DEPTH} deep, or holds itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where}: {value!r} has no stable form; give a finite number")
        return float(value)
    if isinstance(value, Mapping):
        plain: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: key {key!r} is not a string")
            plain[_text(key, where)] = _plain(item, f"{where}.{key}", depth + 1)
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise UserError(
        f"{where}: a {type(value).__name__} has no stable form; allowed are None, true or false, "
        "whole and finite numbers, text, lists, and mappings from text"
    )


def _text(value: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {value!r} is not valid Unicode text") from None
    return str.__str__(value)
