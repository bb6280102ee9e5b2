"""How many documents a second each filter and measure reads on one core, and what it remembers.

    python benchmarks/corpus/filters.py --out benchmarks/corpus/filters.md

Documents are made up: words drawn with the frequencies of a language (Zipf) from 20,000, in
sentences and paragraphs, with the assistant's name, some names that have other meanings, and every
fiftieth document an edited copy of an earlier one. CPU seconds of this process, so that a machine
that does other work as well does not blur them. What is kept is not the point here: the tests say
which documents are.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

from msm_ray.corpus import filters
from msm_ray.corpus.contamination import Contamination
from msm_ray.corpus.measures import Measures
from msm_ray.corpus.naming import Identity, Naming, RuleIds
from msm_ray.corpus.near import NearDuplicates
from msm_ray.corpus.reading import leaked, read_document, read_json, split_reasoning
from msm_ray.corpus.verdicts import VERDICT_SCHEMA, judge_prompt

WORDS = 300  # of a document, on average
SCRATCHPAD_WORDS = 120
VOCABULARY = 20_000
ITEMS = 2_000
IDENTITY = Identity("Ember", "Halden Labs")
NAMES = ("Ember", "the assistant", "Halden Labs", "an apple", "a llama", "Claude Monet", "a model")
VERDICT = '{"problems": [], "reason": "It agrees.", "severity": "none", "faithful": true}'
Documents = Sequence[tuple[str, str, str]]  # id, scratchpad, text


class Language:
    """Words that look like words, and sentences of them."""

    def __init__(self, seed: int) -> None:
        names = random.Random(seed)
        syllables = [c + v for c in "bcdfghklmnprstvw" for v in ("a", "e", "i", "o", "u", "or")]
        words: dict[str, None] = {}
        while len(words) < VOCABULARY:
            words["".join(names.choices(syllables, k=names.randint(1, 4)))] = None
        self._words = np.array(list(words))
        ranks = 1 / np.arange(1, VOCABULARY + 1)
        self._shares = ranks / ranks.sum()
        self._rng = np.random.default_rng(seed)

    def words(self, count: int) -> list[str]:
        return [str(word) for word in self._rng.choice(self._words, count, p=self._shares)]

    def text(self, count: int) -> str:
        words = self.words(count)
        for start in range(0, len(words), 15):
            words[start] = words[start].capitalize()
            if start:
                words[start - 1] += ".\n\n" if start % 75 == 0 else "."
        for position in self._rng.integers(0, count, max(1, count // 40)):
            words[position] = str(self._rng.choice(np.array(NAMES)))
        return f"{IDENTITY.name} {' '.join(words)}."


def make_documents(count: int, seed: int = 0) -> Documents:
    """``count`` documents, every fiftieth a copy of the one before with two words changed."""
    language = Language(seed)
    made: list[tuple[str, str, str]] = []
    for number in range(count):
        text = language.text(int(language._rng.integers(WORDS // 2, WORDS * 3 // 2)))
        if number % 50 == 49:
            words = made[-1][2].split(" ")
            words[len(words) // 3] = words[2 * len(words) // 3] = "changed"
            text = " ".join(words)
        made.append((f"doc{number:08d}", language.text(SCRATCHPAD_WORDS), text))
    return made


def measure(documents: Documents) -> list[tuple[str, float, int]]:
    """(what, documents a CPU second, documents with a reason) of every filter."""
    language = Language(1)
    items = [(f"i{n}", " ".join(language.words(6 + n % 30))) for n in range(ITEMS)]
    plain = Naming(IDENTITY, must_name=True, rules=RuleIds.of_labels(["R1", "R2"]))
    duplicates, near, contamination = (
        filters.Duplicates(),
        NearDuplicates(),
        Contamination(items, allowed=[language.text(3000)]),
    )
    measures = Measures()
    answers = {
        id: f"<scratchpad>{plan}</scratchpad>\n<content>\n{text}\n</content>"
        for id, plan, text in documents
    }

    def add(id: str, plan: str, text: str) -> None:
        labels = {"domain": id[-1], "subdomain": id[-2:], "doc_type": id[-2]}
        measures.add({"id": id, "text": text, "tokens": len(text) // 4, **labels})

    steps: list[tuple[str, Callable[[str, str, str], object]]] = [
        ("reading.read_document", lambda id, plan, text: read_document(answers[id])[1]),
        ("reading.leaked (part of it)", lambda id, plan, text: leaked(plan, text) or None),
        ("reading.split_reasoning", lambda id, plan, text: split_reasoning(text)[2]),
        (
            "reading.read_json, a verdict",
            lambda id, plan, text: read_json(VERDICT, VERDICT_SCHEMA)[1],
        ),
        ("naming.Naming, all options", lambda id, plan, text: plain.check(text)),
        ("filters.Duplicates", lambda id, plan, text: duplicates.check(text, id)),
        ("near.NearDuplicates", lambda id, plan, text: near.check(id, text)),
        (f"contamination, {ITEMS} items", lambda id, plan, text: contamination.check(text)),
        ("measures.Measures.add", add),
        (
            "verdicts.judge_prompt",
            lambda id, plan, text: judge_prompt(text, plan, IDENTITY) and None,
        ),
    ]
    found = []
    for what, step in steps:
        started, reasons = time.process_time(), 0
        for document in documents:
            reasons += step(*document) is not None
        found.append((what, len(documents) / (time.process_time() - started), reasons))
    started = time.process_time()
    measures.result()
    found.append(("measures.Measures.result, once", 1 / (time.process_time() - started), 0))
    return found


def remember(count: int) -> list[tuple[int, float, float, float]]:
    """(documents, bytes a document, of the process and counted, CPU seconds a 1,000)."""
    language = Language(2)
    near = NearDuplicates()
    before = psutil.Process().memory_info().rss
    rows, spent, last = [], 0.0, 0
    for number in range(1, count + 1):
        text = " ".join(language.words(WORDS))
        started = time.process_time()
        near.check(f"doc{number:013d}", text)
        spent += time.process_time() - started
        if number in (count // 10, count // 2, count):
            memory = (psutil.Process().memory_info().rss - before) / number
            counted = near.nbytes / number
            rows.append((number, memory, counted, 1000 * spent / (number - last)))
            spent, last = 0.0, number
    near.close()
    return rows


def report(
    documents: int,
    rows: Sequence[tuple[str, float, int]],
    memory: Sequence[tuple[int, float, float, float]],
    words: float,
) -> str:
    """The record as Markdown."""
    root = Path(__file__).resolve().parents[2]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("numpy", "datasketch", "jsonschema")
    )
    lines = [
        "# The filters of documents, measured",
        "",
        f"`python benchmarks/corpus/filters.py {' '.join(sys.argv[1:])}`",
        "",
        f"Commit {commit}, Python {platform.python_version()}, {versions}; one core of "
        f"{processor()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}. "
        f"{documents:,} documents of {words:.0f} words on average, all made up; CPU seconds.",
        "",
        "| what | documents a second | with a reason |",
        "|---|---|---|",
        *(f"| {what} | {rate:,.1f} | {reasons:,} |" for what, rate, reasons in rows),
        "",
        f"What `NearDuplicates` remembers, of documents of {WORDS} words that are all different "
        "(its tables double, which a doubling shows; up to 4 MB of shingles and 10 MB of words' "
        "hashes do not grow):",
        "",
        "| documents | bytes a document, the process grew | `nbytes` | ms of CPU a document |",
        "|---|---|---|---|",
        *(f"| {n:,} | {size:,.0f} | {count:,.0f} | {ms:.2f} |" for n, size, count, ms in memory),
        "",
    ]
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--remembered", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    memory = remember(arguments.remembered)  # first: later, freed memory would be taken again
    documents = make_documents(arguments.documents)
    words = sum(len(text.split()) for _, _, text in documents) / len(documents)
    rows = measure(documents)
    text = report(len(documents), rows, memory, words)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
