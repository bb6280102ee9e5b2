"""Replay: pretraining-like text of one's own, mixed into midtraining against forgetting.

A sample of documents, drawn by their content and a seed: neither the order of the files nor how
they are split decides what is in it. The text is read in passes and never held.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msm_ray.corpus import contamination
from msm_ray.corpus.contamination import Contamination
from msm_ray.corpus.making import items_of
from msm_ray.errors import UserError
from msm_ray.execute import StageContext
from msm_ray.identity import digest
from msm_ray.llm.price import CHARACTERS_PER_TOKEN
from msm_ray.rows import File, files_of, is_text
from msm_ray.stage import Stage

NOT_A_ROW = "not_a_row"
NO_TEXT = "no_text"
DUPLICATE = "duplicate"
REASONS = {
    NOT_A_ROW: "the line is no JSON object",
    NO_TEXT: "no text in the column 'text'",
    DUPLICATE: "the same text as an earlier row",
    **contamination.REASONS,
}
SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
# Sampled for each token that is asked for, where there is so much: what current tokenizers need of
# English is below, so that a mixture does not run dry.
SAMPLED_CHARACTERS = 6
BATCH_CHARACTERS = 2**22  # of text that is written together
READ_BYTES = 1e8  # a second, for a preview

Refuse = Callable[[str], bool]  # whether a text must not be in the sample


@dataclass(frozen=True)
class Replay:
    """Text for a midtraining's mixture.

    ``source``: Parquet or JSONL with a column ``text``: a file, a folder or a glob, as a path or an
    fsspec URL (``s3://bucket/web/*.parquet``). ``tokens``: how many the sample is for, in tokens of
    4 characters; 0: as many as the whole midtraining reads, so that trainings that differ in their
    shares sample once. ``seed``: another one draws other documents.
    """

    source: str
    tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(
                    f"replay {name} is {value!r}, allowed is a whole number of at least 0"
                )

    def stage(self, tokens: int, items: Stage | None = None) -> Stage:
        """The sample as an artifact: replay/documents.parquet {id, text}.

        The files' contents are part of its identity, their names are not.

        Args:
            tokens: what ``tokens`` stands for where it is 0.
            items: the stage of the evaluation items that are kept out.

        Raises:
            UserError: the source cannot be read, or its size says that it has too little text.
        """
        try:
            files = files_of(self.source)
        except UserError as error:
            raise UserError(
                f"replay: {error}; mix.replay.source has to name Parquet or JSONL with a column"
                " 'text'"
            ) from None
        wanted = self.tokens or tokens
        sizes = [file.most_characters("text") for file in files]
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes) and sum(known) < wanted * CHARACTERS_PER_TOKEN:
            raise UserError(_too_little(self.source, wanted, sum(known), {}, "at most"))
        return Stage(
            kind="replay",
            version="1",
            config={
                "content": _content(files),
                "tokens": wanted,
                "seed": self.seed,
            },
            inputs={"items": items} if items is not None else {},
            run="msm_ray.replay:make",
            label=Path(files[0].path).parent.name if len(files) > 1 else Path(files[0].path).stem,
            runtime={"source": self.source, "where": "driver", "cpus": 0.1},
            estimate={"seconds": 1.0 + 2 * sum(file.size for file in files) / READ_BYTES},
        )


def make(ctx: StageContext) -> dict[str, Any]:
    """Write documents.parquet (SCHEMA): the sample.

    Config: ``content`` of the files, ``tokens``, ``seed``. Input: ``items``, where there are
    evaluation items. Runtime: ``source``. Facts: see `sample`.
    """
    source, config = ctx.runtime["source"], ctx.config
    files = sorted(files_of(source), key=File.content)  # whatever they are called
    if _content(files) != config["content"]:
        raise UserError(f"replay: {source}: changed while the run was starting; run it again")
    filter = Contamination(items_of(ctx))

    def read() -> Iterator[Any]:
        return (row for file in files for row in file.rows("text"))

    def contaminated(text: str) -> bool:
        return filter.check(text) is not None

    out = ctx.out / "documents.parquet"
    return sample(read, config["tokens"], config["seed"], source, out, contaminated)


def sample(
    read: Callable[[], Iterable[Any]],
    tokens: int,
    seed: int,
    source: str,
    out: Path,
    refuse: Refuse | None = None,
) -> dict[str, Any]:
    """Write so many documents of rows ``{text}`` that they hold ``tokens`` tokens.

    Each text has a place in an order that its content and the seed decide; the first of them are
    taken, `SAMPLED_CHARACTERS` for each token or all there is, at least 4 characters for each.

    ``read`` is called once for the sizes, at 12 bytes a row, and again for those that are taken;
    once more where ``refuse`` refuses some of these.

    Returns:
        ``{rows, refused: {reason: rows}, reasons, left_out, taken, characters, tokens}``; rows =
        refused + left out + taken. What is left out is not looked at by ``refuse``.

    Raises:
        UserError: there is too little text.
    """
    refused: Counter[str] = Counter()
    places, sizes, rows = _places(read, seed, refused)
    wanted, ends = tokens * SAMPLED_CHARACTERS, np.cumsum(sizes)
    least = tokens * CHARACTERS_PER_TOKEN
    taken = characters = done = 0
    with _Writer(out) as writer:
        while characters < wanted and done < len(places):
            before = int(ends[done - 1]) if done else 0
            # Beyond the first time, more than is missing: some of it may be refused, too.
            more = (wanted - characters) * (2 if done else 1)
            stop = min(len(places), int(np.searchsorted(ends, before + more)) + 1)
            for place, text in _chosen(read, seed, places[done:stop]):
                if refuse is not None and refuse(text):
                    refused[contamination.CONTAMINATED] += 1
                    continue
                writer.add(place, text)
                taken, characters = taken + 1, characters + len(text)
            done = stop
    if characters < least:
        raise UserError(_too_little(source, tokens, characters, refused))
    return {
        "rows": rows,
        "refused": dict(refused.most_common()),
        "reasons": {reason: REASONS[reason] for reason in refused},
        "left_out": len(places) - done,
        "taken": taken,
        "characters": characters,
        "tokens": characters // CHARACTERS_PER_TOKEN,
    }


def _places(
    read: Callable[[], Iterable[Any]], seed: int, refused: Counter[str]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], int]:
    """The places of all different texts in order, their characters, and how many rows there are."""
    found, lengths, rows = array("Q"), array("I"), 0
    for row in read():
        rows += 1
        text, reason = read_text(row)
        if reason is not None:
            refused[reason] += 1
            continue
        found.append(_place(seed, text))
        lengths.append(len(text))
    places, first = np.unique(np.frombuffer(found, np.uint64), return_index=True)
    if twice := len(found) - len(places):
        refused[DUPLICATE] += twice
    return places, np.frombuffer(lengths, np.uint32)[first].astype(np.int64), rows


def _chosen(
    read: Callable[[], Iterable[Any]], seed: int, places: NDArray[np.uint64]
) -> Iterator[tuple[int, str]]:
    """(place, text) of those with ``places``, which are sorted; each once."""
    met = np.zeros(len(places), np.bool_)
    missing = len(places)
    for row in read():
        text, reason = read_text(row)
        if reason is not None:
            continue
        place = _place(seed, text)
        at = int(np.searchsorted(places, np.uint64(place)))
        if at < len(places) and places[at] == place and not met[at]:
            met[at] = True
            yield place, text
            missing -= 1
            if not missing:
                return
    raise UserError("replay: its text changed while it was read; run it again")


def read_text(row: Any) -> tuple[str, str | None]:
    """(the text of a row, None), or ("", why there is none)."""
    if not isinstance(row, Mapping):
        return "", NOT_A_ROW
    text = row.get("text")
    if not isinstance(text, str) or not text.strip() or not is_text(text):
        return "", NO_TEXT
    return text, None


class _Writer:
    """Writes documents in batches of some megabytes."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA)
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._characters = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._file.close()

    def add(self, place: int, text: str) -> None:
        self._ids.append(f"replay-{place:016x}")
        self._texts.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._ids:
            self._file.write_table(pa.table({"id": self._ids, "text": self._texts}, schema=SCHEMA))
        self._ids, self._texts, self._characters = [], [], 0


def _too_little(
    source: str, tokens: int, characters: int, refused: Mapping[str, int], bound: str = "about"
) -> str:
    there = characters // CHARACTERS_PER_TOKEN
    why = f" (refused: {dict(refused)})" if refused else ""
    return (
        f"replay: {source}: has {bound} {there:,} tokens of text{why} and {tokens:,} are asked for:"
        f" {tokens - there:,} are missing; give it more text, or set mix.replay.tokens to what the"
        " mixture needs"
    )


def _place(seed: int, text: str) -> int:
    salt = seed.to_bytes(16, "little")
    data = text.encode("utf-8")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=salt).digest(), "little")


def _content(files: Sequence[File]) -> str:
    return digest(sorted(file.content() for file in files))
