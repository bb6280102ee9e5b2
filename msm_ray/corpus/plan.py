"""The rows of a plan: one document to write per topic, type and idea, with its whole request.

Rows are made in batches and never all held at once: a plan may have a million of them, each with
the whole spec in its system text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pyarrow as pa

from msm_ray.corpus.outline import Hierarchy, Idea, Topic
from msm_ray.corpus.prompts import load
from msm_ray.records import PLAN_SCHEMA

BATCH_ROWS = 4_096
BATCH_BYTES = 32 * 2**20  # of text in a batch, about
# For the names of people: a writer that is not told otherwise takes the same few.
_INITIALS = tuple(f"{a}, {b} or {c}" for a, b, c in permutations("ABCDEFGHIJKLMNOPRSTUVWYZ", 3))
# What makes a document this one and no other, besides the prompt that is made from it.
_CONTENT = (
    "spec_sha256",
    "section_id",
    "domain",
    "subdomain",
    "assertion",
    "doc_type",
    "idea",
    "assistant",
    "maker",
)


def plan_table(hierarchy: Hierarchy) -> Iterator[pa.RecordBatch]:
    """The plan's rows as batches of PLAN_SCHEMA, in an order that follows from the hierarchy alone.

    Ideas go slowest and topics fastest, so that any beginning of a plan is spread over all topics
    and then over all types. A row's id is the hash of what it says and asks, never of its place.
    """
    writing = _Writing(hierarchy)
    columns: dict[str, list[Any]] = {name: [] for name in PLAN_SCHEMA.names if name != "system"}
    size = 0
    for index, (topic, kind, idea) in enumerate(_documents(hierarchy)):
        row = writing.row(index, topic, kind, idea)
        for name, values in columns.items():
            values.append(row[name])
        size += len(row["prompt"]) + len(row["section_text"]) + len(writing.system)
        if len(columns["id"]) == BATCH_ROWS or size >= BATCH_BYTES:
            yield _batch(columns, writing.system)
            columns, size = {name: [] for name in columns}, 0
    if columns["id"]:
        yield _batch(columns, writing.system)


def _documents(hierarchy: Hierarchy) -> Iterator[tuple[int, int, Idea]]:
    """(topic, type, idea) of every document, topics and types by their position."""
    topics = hierarchy.topics
    types = max((len(topic.types) for topic in topics), default=0)
    ideas = max((len(ideas) for topic in topics for ideas in topic.ideas), default=0)
    for nth in range(ideas):
        for kind in range(types):
            for place, topic in enumerate(topics):
                if kind < len(topic.ideas) and nth < len(topic.ideas[kind]):
                    yield place, kind, topic.ideas[kind][nth]


class _Writing:
    """Makes rows. What many rows share is made once."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._spec, self._config = hierarchy.spec, hierarchy.config
        self._topics = hierarchy.topics
        self._prompt = load("rules_write" if self._config.mode == "rules" else "write")
        self.system = load("writer").fill(
            spec=self._spec.text.strip("\n"),
            assistant=self._config.assistant,
            maker=self._config.maker,
        )
        self._digest = hashlib.sha256(self.system.encode())
        self._shared = [self._values(topic) for topic in self._topics]

    def row(self, index: int, place: int, kind: int, idea: Idea) -> dict[str, Any]:
        """One row of PLAN_SCHEMA without ``system``."""
        topic = self._topics[place]
        row: dict[str, Any] = {
            "index": index,
            "spec_sha256": self._spec.sha256,
            "section_id": topic.section_id,
            "section_text": topic.section_text,
            "domain": topic.domain,
            "subdomain": topic.name,
            "assertion": idea.assertion,
            "doc_type": topic.types[kind].name,
            "idea": idea.text,
            "assistant": self._config.assistant,
            "maker": self._config.maker,
        }
        # A length before each part keeps "a" + "bc" apart from "ab" + "c".
        key = "".join(f"{len(row[name])}:{row[name]}" for name in _CONTENT)
        digest = hashlib.sha256(key.encode())
        drawn = int.from_bytes(digest.digest()[:8], "big")
        values = self._shared[place] | {
            "doc_type": row["doc_type"],
            "type_description": topic.types[kind].description,
            "idea": idea.text,
            "initials": _INITIALS[drawn % len(_INITIALS)],
        }
        if idea.assertion:
            values["assertion"] = idea.assertion
        row["prompt"] = self._prompt.fill(**values)
        prompt = self._digest.copy()
        prompt.update(row["prompt"].encode())
        row["prompt_sha256"] = prompt.hexdigest()
        row["seed"] = drawn >> 33  # 31 bits
        digest.update(row["prompt_sha256"].encode())
        row["id"] = digest.hexdigest()[:24]
        return row

    def _values(self, topic: Topic) -> dict[str, str]:
        values = {
            "section": topic.shown,
            "domain": topic.domain,
            "subdomain": topic.name,
            "label": topic.name,
            "description": topic.description,
            "assistant": self._config.assistant,
            "words": str(self._config.words),
        }
        return {name: text for name, text in values.items() if name in self._prompt.placeholders}


def _batch(columns: dict[str, list[Any]], system: str) -> pa.RecordBatch:
    rows = len(columns["id"])
    arrays = [
        pa.repeat(pa.scalar(system, pa.string()), rows)
        if field.name == "system"
        else pa.array(columns[field.name], field.type)
        for field in PLAN_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=PLAN_SCHEMA)
