"""Where evaluations spend their time: warm engines against transformers, in three cases.

A random Llama of 30 M parameters (context 2,048), one thread each, in alternating turns:

- prefix: packaged pairs with the spec in the prompt, as `Probes` asks for its ceiling. Against
  transformers that computes every prompt as a whole, in batches; and against transformers that is
  given the keys and values of what all prompts share, computed once, by hand;
- answers: packaged open questions, answered greedily; each answer ends at a length of its own,
  drawn from a fixed seed. Against transformers in batches, which go on until their longest ends;
- adapters: eight of them, each asked pairs and open questions: all in one batch, one adapter after
  the other through the same engine, and transformers with each adapter merged into the base.

Of transformers the best of the batch sizes that were tried is taken. Every turn has copies of the
models under other names, so that no turn finds what an earlier one has cached; loading them, and
the proof that an engine holds them, is part of every time. All answers are compared. Writes
shared_prompts.json; some five minutes on two idle cores.

    OMP_NUM_THREADS=1 python benchmarks/evaluation/shared_prompts.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from engine import commit, cpu, ratios, timed
from random_models import random_model
from rival import Transformers

from msm_ray.errors import UserError
from msm_ray.evaluate.checkpoints import Checkpoint, read_checkpoint
from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.leasing import answer
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.tasks import common_length
from msm_ray.provenance import versions
from msm_ray.spec import fill, read_spec
from msm_ray.tasks.items import Items
from msm_ray.tasks.pairs import PROMPTS, by_logprob
from msm_ray.tasks.probes import SYSTEM, WITH_SPEC
from msm_ray.tasks.subject import Open, Subject
from msm_ray.train.config import Lora
from msm_ray.train.fingerprint import fingerprint_of, write_fingerprint
from msm_ray.train.lora import add_adapter, save_adapter
from msm_ray.train.model import load_model

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
SPEC, VALUE, ASSISTANT, MAKER = ROOT / "specs/novelty.md", "novelty", "Lyra", "Norvik Labs"
CONTEXT, VOCABULARY = 2048, 8000
LONGEST, SHORTEST = 200, 10  # tokens of an answer
ADAPTERS = 8
SETTINGS = EngineSettings(threads=1, kv_mib=768)
Answers = list[list[float]]
Way = Callable[[], Answers]


@dataclass(frozen=True)
class Sizes:
    """How much is asked, and which batches transformers is tried with."""

    pairs: int  # items of the first case; both orders
    questions: int
    adapter_pairs: int
    adapter_questions: int
    tried: int  # requests that a batch size is tried with
    whole_rows: tuple[int, ...] = (1, 4, 8)
    tail_rows: tuple[int, ...] = (1, 4, 8, 24)
    answer_rows: tuple[int, ...] = (8, 16, 32)


FULL = Sizes(pairs=12, questions=32, adapter_pairs=6, adapter_questions=4, tried=8)
SMALL = Sizes(4, 8, 2, 2, 4, (4,), (4, 8), (8,))


def main() -> None:
    """Measure, print and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a few of each, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        record = measure(Path(scratch), SMALL if arguments.small else FULL, arguments.rounds)
    ray.shutdown()
    text = json.dumps(record, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


# ------------------------------------------------------------------------------------ who is asked


def make_model(folder: Path) -> Path:
    """Some 30 million random parameters, and the words of specs and items."""
    texts = [p.read_text() for p in sorted(ROOT.glob("specs/*.md"))]
    texts += [p.read_text() for p in sorted(ROOT.glob("msm_ray/tasks/packaged/*.jsonl"))]
    random_model(
        folder,
        texts,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        hidden=512,
        intermediate=1408,
        layers=8,
        heads=8,
        tied=True,
    )
    write_fingerprint(folder)
    return folder


def random_adapter(folder: Path, base: Path, seed: int) -> Path:
    """An adapter of rank 16 over all linear layers."""
    lora = Lora(rank=16, alpha=16.0, targets=("all-linear",))
    model = load_model(base)
    add_adapter(model, lora)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: 0.02 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    save_adapter(state, lora, base, fingerprint_of(base), folder, torch.float32)
    write_fingerprint(folder, base)
    return folder


class Copies:
    """The same checkpoint under another name each time: no engine has anything of it cached."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._made = scratch, 0

    def of(self, folder: Path, base: Path | None = None) -> Checkpoint:
        """A copy; an adapter's lies over the same base, and says in its config which copy it is."""
        self._made += 1
        copy = self._scratch / f"copy-{self._made}"
        shutil.copytree(folder, copy)
        if base is not None:
            path = copy / "adapter_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "revision": copy.name}))
        return read_checkpoint(copy, base)


# ----------------------------------------------------------------------------------- what is asked


class Asking:
    """Requests as tasks make them."""

    def __init__(self, tokenizer: Any) -> None:
        self._made: list[Request] = []
        self._subject = Subject(tokenizer, CONTEXT, self._take)

    def _take(self, requests: Sequence[Request]) -> Answers:
        self._made += requests
        return [[0.0, -1.0] if request.kind == "next" else [] for request in requests]

    def pairs(self, count: int, system: str) -> list[Request]:
        """Both orders of so many packaged pairs."""
        self._made = []
        for item in Items("pairs", VALUE).rows():
            if len(self._made) >= 2 * count:
                break
            try:
                asked = [(item, order) for order in (0, 1)]
                by_logprob(self._subject, asked, PROMPTS["pairs"], "x", system)
            except UserError:  # names that begin with the same word
                continue
        return self._made

    def questions(self, count: int) -> list[Request]:
        """So many open questions, each with its own length of an answer."""
        self._made, drawn = [], random.Random(0)
        for item in Items("open_qa", "open_qa").rows()[:count]:
            longest = drawn.randint(SHORTEST, LONGEST)
            self._subject.write([Open(item["id"], item["question"], longest)])
        return self._made


def spec_in_prompt() -> str:
    """The system text of the probe's ceiling."""
    own = SYSTEM.format(assistant=ASSISTANT, maker=MAKER)
    spec = fill(read_spec(SPEC), ASSISTANT, MAKER).text
    return WITH_SPEC.format(system=own, spec=spec.strip("\n"))


# --------------------------------------------------------------------------------- the three cases


class Cases:
    """Model, adapters and requests, and every way to have them answered."""

    def __init__(self, scratch: Path, sizes: Sizes) -> None:
        from transformers import AutoTokenizer

        self.sizes = sizes
        self.model = make_model(scratch / "model")
        self.adapters = [
            random_adapter(scratch / f"adapter-{i}", self.model, i) for i in range(ADAPTERS)
        ]
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.eos = tokenizer.eos_token_id
        self.copies = Copies(scratch)
        self.rival = Transformers(self.eos, tokenizer.pad_token_id)
        asking = Asking(tokenizer)
        self.pairs = asking.pairs(sizes.pairs, spec_in_prompt())
        self.questions = asking.questions(sizes.questions)
        self.mixed = asking.pairs(sizes.adapter_pairs, "") + asking.questions(
            sizes.adapter_questions
        )

    def engine(self, requests: Sequence[Request]) -> Way:
        """A warm engine swaps to a copy of the model and is asked."""
        checkpoint = self.copies.of(self.model)
        return lambda: self._ask(checkpoint, requests)

    def _ask(self, checkpoint: Checkpoint, requests: Sequence[Request]) -> Answers:
        return answer(checkpoint, requests, self.eos, SETTINGS, limit=2).values

    def _adapters(self) -> list[Checkpoint]:
        return [self.copies.of(folder, self.model) for folder in self.adapters]

    def together(self) -> Way:
        """All adapters at the same time: their requests meet in one batch."""
        checkpoints = self._adapters()

        def way() -> Answers:
            with ThreadPoolExecutor(ADAPTERS) as threads:
                found = threads.map(lambda one: self._ask(one, self.mixed), checkpoints)
                return [values for each in found for values in each]

        return way

    def one_by_one(self) -> Way:
        """The same engine, one adapter after the other."""
        checkpoints = self._adapters()
        return lambda: [v for one in checkpoints for v in self._ask(one, self.mixed)]

    def plain(self, requests: Sequence[Request], score: int, generate: int) -> Way:
        """Transformers in batches of so many rows."""
        checkpoint = read_checkpoint(self.model)
        return lambda: self.rival.answer(self.rival.load(checkpoint), requests, score, generate)

    def after_prefix(self, requests: Sequence[Request], rows: int) -> Way:
        """Transformers with what the prompts share computed once."""
        checkpoint = read_checkpoint(self.model)
        return lambda: self.rival.after_prefix(self.rival.load(checkpoint), requests, rows)

    def merged(self, score: int, generate: int) -> Way:
        """Transformers, one merged adapter after the other."""
        checkpoints = [read_checkpoint(folder, self.model) for folder in self.adapters]
        return lambda: [
            values
            for one in checkpoints
            for values in self.rival.answer(self.rival.load(one), self.mixed, score, generate)
        ]


def best_rows(rows: Sequence[int], way: Callable[[int], Way]) -> tuple[int, dict[str, float]]:
    """The fastest batch size, and the seconds of each."""
    way(rows[0])()  # whatever is made once
    seconds = {size: timed(way(size))[0] for size in rows}
    return min(seconds, key=seconds.__getitem__), {str(k): round(v, 2) for k, v in seconds.items()}


def in_turns(rounds: int, ways: Mapping[str, Callable[[], Way]]) -> tuple[dict[str, Any], Any]:
    """Seconds of every way by round, and the answers of the last; the first way changes."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Answers] = {}
    for turn in range(rounds):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            way = ways[name]()  # copies are made before the clock starts
            spent, found[name] = timed(way)
            seconds[name].append(spent)
    first, *others = ways
    return {
        "seconds": {name: [round(v, 2) for v in each] for name, each in seconds.items()},
        "seconds_median": {n: round(statistics.median(v), 2) for n, v in seconds.items()},
        "ratio_to_engine": {name: ratios(seconds[name], seconds[first]) for name in others},
    }, found


def agreement(requests: Sequence[Request], found: Mapping[str, Answers]) -> dict[str, Any]:
    """How far the other ways' answers are from the first's."""
    first, *others = found
    scored = [i for i, request in enumerate(requests) if request.kind == "next"]
    texts = [i for i, request in enumerate(requests) if request.kind == "generate"]
    made: dict[str, Any] = {}
    for name in others:
        pairs = [(found[first][i], found[name][i]) for i in scored]
        nats = max((abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)), default=0.0)
        differ = sum(found[first][i] != found[name][i] for i in texts)
        made[name] = {"largest_difference_nats": nats, "texts_that_differ": differ}
        assert nats < 1e-3, f"{name} computes something else: {nats} nats"
    return {"choices": len(scored), "texts": len(texts), "against": made}


def measure(scratch: Path, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Everything that is measured, as the record."""
    started = time.perf_counter()
    cases = Cases(scratch, sizes)
    tried = cases.pairs[: sizes.tried]
    whole, by_whole = best_rows(sizes.whole_rows, lambda n: cases.plain(tried, n, n))
    tails, by_tail = best_rows(sizes.tail_rows, lambda n: cases.after_prefix(cases.pairs, n))
    written, by_answer = best_rows(sizes.answer_rows, lambda n: cases.plain(cases.questions, n, n))
    # Both engines are warm from here on: one for whole weights, one for adapters.
    cases.engine(cases.mixed)()
    cases.together()()
    prefix, said = in_turns(
        rounds,
        {
            "engine": lambda: cases.engine(cases.pairs),
            "transformers": lambda: cases.plain(cases.pairs, whole, whole),
            "transformers, prefix by hand": lambda: cases.after_prefix(cases.pairs, tails),
        },
    )
    prefix["agreement"] = agreement(cases.pairs, said)
    answers, said = in_turns(
        rounds,
        {
            "engine": lambda: cases.engine(cases.questions),
            "transformers": lambda: cases.plain(cases.questions, written, written),
        },
    )
    answers["agreement"] = agreement(cases.questions, said)
    adapters, said = in_turns(
        rounds,
        {
            "engine": cases.together,
            "engine, one adapter after the other": cases.one_by_one,
            "transformers, merged": lambda: cases.merged(tails, written),
        },
    )
    adapters["agreement"] = agreement(cases.mixed * ADAPTERS, said)
    lengths = [len(request.prompt) for request in cases.pairs]
    model = load_model(cases.model)
    return {
        "command": f"OMP_NUM_THREADS=1 python {HERE.relative_to(ROOT)} --rounds {rounds}"
        + (" --small" if sizes == SMALL else ""),
        "hardware": {"cpu": cpu(), "cores": os.cpu_count(), "threads": 1},
        "load_average": os.getloadavg()[0],
        "versions": versions(),
        "commit": commit(),
        "settings": asdict(SETTINGS),
        "sizes": asdict(sizes),
        "rounds": rounds,
        "model": {
            "parameters": sum(p.numel() for p in model.parameters()),
            "context": CONTEXT,
            "vocabulary": model.config.vocab_size,
        },
        "prefix": {
            "prompts": len(cases.pairs),
            "tokens": {
                "mean": round(statistics.mean(lengths), 1),
                "shared": common_length([request.prompt for request in cases.pairs]),
            },
            "rows_tried": {"transformers": by_whole, "prefix by hand": by_tail},
            **prefix,
        },
        "answers": {
            "questions": len(cases.questions),
            "tokens": sum(request.max_tokens for request in cases.questions),
            "rows_tried": {"transformers": by_answer},
            **answers,
        },
        "adapters": {"adapters": ADAPTERS, "requests_each": len(cases.mixed), **adapters},
        "seconds_in_all": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    main()
