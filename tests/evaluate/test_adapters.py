"""Adapters in a shared engine. The tests follow each other over one pool: a start takes seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from msm_ray.evaluate.engines import Checkpoint, EngineSettings, read_checkpoint
from msm_ray.evaluate.leasing import answer, leased
from msm_ray.evaluate.requests import Request

from .adapters import peft_forward
from .tiny import BOS, EOS

ONE = EngineSettings(kv_mib=64, max_num_seqs=64)
pytestmark = [pytest.mark.ray, pytest.mark.vllm]


@pytest.fixture(scope="module")
def read(models: dict[str, Path], adapters: list[Path]) -> list[Checkpoint]:
    return [read_checkpoint(folder, models["a"]) for folder in adapters]


def everything() -> list[Request]:
    lengths = (1, 7, 31, 32, 33, 90)
    made = [Request("next", (BOS, *range(10, 10 + n)), (5, 6, 400)) for n in lengths]
    made += [Request("sequence", (BOS, *range(40, 40 + n)), start=s) for n, s in ((9, 3), (80, 1))]
    made += [Request("generate", (BOS, 7, 8, n), max_tokens=12) for n in range(20, 24)]
    return made


def check(checkpoint: Checkpoint, requests: list[Request], values: list[list[float]]) -> None:
    """Every answer is what transformers with PEFT's own adapter gives, within 1e-3 nats."""
    assert checkpoint.base is not None

    def reference(ids: list[int]) -> Any:
        assert checkpoint.base is not None
        return peft_forward(Path(checkpoint.base.path), Path(checkpoint.path), ids)

    for request, got in zip(requests, values, strict=True):
        ids = list(request.prompt)
        if request.kind == "next":
            expected = reference(ids)[-1][list(request.candidates)].tolist()
            assert got == pytest.approx(expected, abs=1e-3)
        elif request.kind == "sequence":
            table = reference(ids)
            expected = [table[i - 1][ids[i]].item() for i in range(request.start, len(ids))]
            assert got == pytest.approx(expected, abs=1e-3)
        else:
            for token in [int(v) for v in got]:
                row = reference(ids)[-1]
                assert row[token] >= row.max() - 1e-3
                ids.append(token)


def on_engine(checkpoint: Checkpoint, function: Callable[[Any], Any]) -> Any:
    """What ``function`` says of the pool's engine that holds ``checkpoint``, on its own thread."""
    import ray

    def run(actor: Any) -> Any:
        return actor._batching._call(lambda: function(actor._batching._engine))

    with leased(checkpoint, ONE, limit=1) as lease:
        return ray.get(lease.engine.__ray_call__.remote(run))


def test_an_adapter_that_stays_stale_is_found_and_the_engine_replaced(
    engines: Any, read: list[Checkpoint]
) -> None:
    """vLLM knows an adapter by name and number: under those of another it serves that other."""

    def reuse(engine: Any) -> None:
        old = next(iter(engine._adapters.values()))
        engine._add_adapter = lambda checkpoint: engine._adapters.update({checkpoint.key: old})

    on_engine(read[0], reuse)
    got = answer(read[1], everything(), EOS, ONE, limit=1)
    assert (got.counts["mismatches"], got.counts["restarts"], got.counts["starts"]) == (1, 1, 1)
    assert got.report.how == "start"
    check(read[1], everything(), got.values)


def test_an_engine_of_too_low_a_rank_is_replaced(engines: Any, read: list[Checkpoint]) -> None:
    low = answer(read[2], everything(), EOS, ONE, limit=1)
    assert low.report.how == "add"
    high = answer(read[4], everything(), EOS, ONE, limit=1)
    assert high.report.how == "start"
    check(read[4], everything(), high.values)
    again = answer(read[2], everything(), EOS, ONE, limit=1)
    assert again.report.how == "add"
    check(read[2], everything(), again.values)


def test_tasks_with_adapters_of_one_base_share_one_engine_at_the_same_time(
    engines: Any, read: list[Checkpoint], tmp_path: Path
) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def evaluate(checkpoint: Checkpoint, requests: list[Request]) -> Any:
        import time

        from msm_ray.evaluate.leasing import answer, leased

        with leased(checkpoint, ONE, limit=1) as lease:
            (tmp_path / checkpoint.key).touch()
            while len(list(tmp_path.iterdir())) < 4:  # nobody goes before all have come
                time.sleep(0.05)
            engine = lease.engine._actor_id.hex()
            return engine, answer(checkpoint, requests, EOS, ONE, limit=1)

    before = ray.get(engines.counts.remote())["starts"]
    found = ray.get([evaluate.remote(checkpoint, everything()) for checkpoint in read[:4]])
    assert len({engine for engine, _ in found}) == 1
    assert ray.get(engines.counts.remote())["starts"] == before
    for checkpoint, (_, got) in zip(read, found, strict=False):
        assert got.report.distance < 1e-3
        check(checkpoint, everything(), got.values)


def test_one_batch_of_six_adapters_and_what_is_drawn_in_it(
    engines: Any, read: list[Checkpoint]
) -> None:
    """Also: what a seed draws does not depend on what else stands in the batch."""
    drawn = [
        Request("generate", (BOS, 7, n), max_tokens=20, temperature=1.0, top_p=0.9, seed=n)
        for n in range(10, 20)
    ]
    requests = everything() + drawn

    def together(engine: Any) -> Any:
        for checkpoint in read:
            engine.take(checkpoint)
        asked = {
            engine.add(request, EOS, checkpoint.key): (i, j)
            for j, request in enumerate(requests)  # so that neighbours differ
            for i, checkpoint in enumerate(read)
        }
        answers, most = {}, 0
        while engine.busy:
            running = engine._core.engine_core.scheduler.running
            most = max(most, len({r.lora_request.lora_name for r in running}))
            answers.update({asked[id]: values for id, values in engine.step()})
        alone = [engine.answer([request], EOS, read[0].key)[0] for request in drawn]
        return answers, most, alone

    answers, most, alone = on_engine(read[0], together)
    assert most == len(read)
    for i, checkpoint in enumerate(read):
        own = [answers[i, j] for j in range(len(everything()))]
        check(checkpoint, everything(), own)
    first = [answers[0, len(everything()) + j] for j in range(len(drawn))]
    assert first == alone
    assert len({tuple(values) for values in first}) == len(first)
    assert first != [answers[1, len(everything()) + j] for j in range(len(drawn))]


def test_an_engine_killed_under_two_callers_is_replaced_once(
    engines: Any, read: list[Checkpoint]
) -> None:
    requests = [
        Request("generate", (BOS, 7, i), max_tokens=60, temperature=t, seed=i)
        for i in range(10, 160)
        for t in (0.0, 1.0)
    ]
    whole = [answer(c, requests, EOS, ONE, limit=1).values for c in read[:2]]
    pid = on_engine(read[0], lambda engine: os.getpid())
    killed: list[int] = []

    def kill(done: int) -> None:
        if not killed and done < len(requests):
            killed.append(done)
            os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(2) as threads:
        got = list(
            threads.map(lambda c: answer(c, requests, EOS, ONE, limit=1, progress=kill), read[:2])
        )
    assert killed
    assert [g.values for g in got] == whole
    assert sum(g.counts["deaths"] for g in got) == 1
    assert sum(g.counts["starts"] for g in got) == 1
    assert sum(g.counts["redone"] for g in got) > 0
