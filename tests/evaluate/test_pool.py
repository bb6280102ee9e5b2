from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from msm_ray.errors import UserError
from msm_ray.evaluate.engines import (
    Checkpoint,
    EngineSettings,
    FingerprintMismatch,
    read_checkpoint,
)
from msm_ray.evaluate.leasing import Answers, EngineEnded, answer, leased
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.slots import Slot, choose

from .tiny import BOS, EOS

Reference = Callable[[Path, list[int]], Any]
NODE = "node-1"
ONE = EngineSettings(kv_mib=64, max_num_seqs=64)


# ------------------------------------------------------------------------------ choosing (pure)


def slot(key: str, architecture: str = "small", lease: str = "", **fields: Any) -> Slot:
    leases = {lease: 0.0} if lease else {}
    given = {"settings": ONE, "architecture": architecture, "ready": True, **fields}
    return Slot(**{"node": NODE, "key": key, "leases": leases, **given})


@pytest.fixture(scope="module")
def wanted(models: dict[str, Path]) -> Checkpoint:
    return dataclasses.replace(read_checkpoint(models["a"]), key="k", architecture="small")


def test_choose_prefers_what_costs_least(wanted: Checkpoint) -> None:
    same, other, wide = slot("k", used=9), slot("j", used=1), slot("k", "wide")

    def chosen(slots: list[Slot], limit: int = 2) -> tuple[str, Slot | None]:
        choice = choose(slots, NODE, wanted, ONE, limit)
        return choice.action, choice.slot

    assert chosen([]) == ("start", None)
    assert chosen([other, same, wide]) == ("take", same)
    assert chosen([wide, other]) == ("take", other)
    # who asks for the same weights may ask the same engine
    used = slot("k", lease="x")
    assert chosen([used, other]) == ("take", used)
    # but not while it is only on its way to hold them
    assert chosen([slot("k", lease="x", ready=False), other]) == ("take", other)
    assert chosen([slot("j", lease="x")]) == ("start", None)
    assert chosen([wide]) == ("start", None)
    assert chosen([wide], limit=1) == ("replace", wide)
    assert chosen([slot("j", lease="x")], limit=1) == ("wait", None)
    assert chosen([slot("k", node="node-2")], limit=1) == ("start", None)
    assert chosen([slot("k", settings=EngineSettings())], limit=1)[0] == "replace"


def test_choose_lets_adapters_share_an_engine_of_their_base(wanted: Checkpoint) -> None:
    adapter = dataclasses.replace(wanted, base=wanted, rank=10, architecture="over")

    def chosen(slots: list[Slot], limit: int = 2) -> tuple[str, Slot | None]:
        choice = choose(slots, NODE, adapter, dataclasses.replace(ONE, max_adapters=2), limit)
        return choice.action, choice.slot

    def over(*leases: str, rank: int = 16, **fields: Any) -> Slot:
        settings = dataclasses.replace(ONE, max_adapters=2)
        held = dict.fromkeys(leases, 0.0)
        return Slot(NODE, settings, architecture="over", rank=rank, leases=held, **fields)

    one, none = over("x", ready=True), over(ready=True)
    assert chosen([slot("k")]) == ("start", None)  # the base's own engine has no room for adapters
    assert chosen([one]) == ("take", one)
    assert chosen([one, none]) == ("take", none)
    assert chosen([over("x")]) == ("wait", None)  # it is starting
    assert chosen([over("x", "y", ready=True)]) == ("start", None)
    assert chosen([over("x", "y", ready=True)], limit=1) == ("wait", None)
    low = over(ready=True, rank=8)  # 10 needs 16
    assert chosen([low]) == ("replace", low)
    assert chosen([over("x", ready=True, rank=8)]) == ("start", None)
    assert chosen([over("x", ready=True, rank=8)], limit=1) == ("wait", None)


# ------------------------------------------------------------------------------------ real engines


def process_of(lease: Any) -> int:
    import ray

    call = lease.engine.__ray_call__.remote(lambda actor: __import__("os").getpid())
    pid: int = ray.get(call)
    return pid


def ask_everything(folder: Path) -> tuple[Answers, list[Request]]:
    """Prompts of many lengths, some as long as several cache blocks, in one batch."""
    requests = [
        Request("next", (BOS, *range(10, 10 + n)), (5, 6, 400)) for n in (1, 7, 31, 32, 33, 90)
    ]
    requests += [
        Request("sequence", (BOS, *range(40, 40 + n)), start=s) for n, s in ((9, 3), (80, 1))
    ]
    requests += [Request("generate", (BOS, 7, 8, n), max_tokens=12) for n in range(20, 30)]
    return answer(read_checkpoint(folder), requests, EOS, ONE, limit=1), requests


def check(folder: Path, reference: Reference, got: Answers, requests: list[Request]) -> None:
    """Every answer is what the model's own forward pass gives, within 1e-3 nats."""
    for request, values in zip(requests, got.values, strict=True):
        ids = list(request.prompt)
        if request.kind == "next":
            expected = reference(folder, ids)[-1][list(request.candidates)].tolist()
            assert values == pytest.approx(expected, abs=1e-3)
        elif request.kind == "sequence":
            table = reference(folder, ids)
            expected = [table[i - 1][ids[i]].item() for i in range(request.start, len(ids))]
            assert values == pytest.approx(expected, abs=1e-3)
        else:
            for token in [int(v) for v in values]:
                row = reference(folder, ids)[-1]
                assert row[token] >= row.max() - 1e-3
                ids.append(token)
            if len(values) < request.max_tokens:
                row = reference(folder, ids)[-1]
                assert row[EOS] >= row.max() - 1e-3


@pytest.mark.ray
@pytest.mark.vllm
def test_answers_are_the_models_own_through_swaps_and_back(
    engines: Any, models: dict[str, Path], reference: Reference
) -> None:
    for name, how in (("a", "start"), ("b", "swap"), ("a", "swap"), ("a", "held"), ("c", "swap")):
        got, requests = ask_everything(models[name])
        assert got.report.how == how
        assert got.report.verified
        assert got.report.distance < 1e-3
        assert got.counts["restarts"] == got.counts["mismatches"] == got.counts["redone"] == 0
        check(models[name], reference, got, requests)


@pytest.mark.ray
@pytest.mark.vllm
def test_weights_that_stay_stale_are_found_and_the_engine_replaced(
    engines: Any, models: dict[str, Path], reference: Reference
) -> None:
    """vLLM's own reload leaves a tied output head behind; without our repair that must be seen."""
    import ray

    def without_repair(actor: Any) -> None:
        from msm_ray.evaluate import engines as module

        module._refresh_embeddings = lambda worker: None

    with leased(read_checkpoint(models["a"]), ONE, limit=1) as lease:
        ray.get(lease.engine.__ray_call__.remote(without_repair))
    got, requests = ask_everything(models["b"])
    assert (got.counts["mismatches"], got.counts["restarts"]) == (1, 1)
    assert got.report.how == "start"
    check(models["b"], reference, got, requests)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_a_cache_that_stays_stale_is_found_and_the_engine_replaced(
    engines: Any, models: dict[str, Path], reference: Reference
) -> None:
    import ray

    def without_reset(actor: Any) -> None:
        actor._batching._engine._reset_cache = lambda: True

    with leased(read_checkpoint(models["a"]), ONE, limit=1) as lease:
        ray.get(lease.engine.__ray_call__.remote(without_reset))
    got, requests = ask_everything(models["b"])
    assert (got.counts["mismatches"], got.counts["restarts"]) == (1, 1)
    check(models["b"], reference, got, requests)


@pytest.mark.ray
@pytest.mark.vllm
def test_an_engine_killed_in_its_work_is_replaced_and_only_the_rest_asked_again(
    engines: Any, models: dict[str, Path], reference: Reference
) -> None:
    checkpoint = read_checkpoint(models["a"])
    requests = [
        Request("generate", (BOS, 7, i), max_tokens=60, temperature=t, seed=i)
        for i in range(10, 310)
        for t in (0.0, 1.0)
    ]
    whole = answer(checkpoint, requests, EOS, ONE, limit=1)
    with leased(checkpoint, ONE, limit=1) as lease:
        pid = process_of(lease)
    seen: list[int] = []

    def kill(done: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            os.kill(pid, signal.SIGKILL)

    got = answer(checkpoint, requests, EOS, ONE, limit=1, progress=kill)
    assert 0 < seen[0] < len(requests)
    assert seen == sorted(seen)
    assert seen[-1] == len(requests)
    assert got.values == whole.values
    assert len({tuple(v) for v in got.values}) > len(requests) // 2
    assert (got.counts["deaths"], got.counts["starts"], got.counts["lost"]) == (1, 1, 0)
    assert 0 < got.counts["redone"] <= len(requests) - seen[0]
    assert got.counts["requests"] == len(requests)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_engines_whose_steps_fail_are_given_up(engines: Any, models: dict[str, Path]) -> None:
    import ray

    def spoil(pool: Any) -> None:
        """Every engine that is leased from now on fails at its next step."""

        def broken(actor: Any) -> None:
            def step() -> Any:
                raise ValueError("no more")

            actor._batching._engine.step = step

        original = pool._confirm

        async def confirm(slot: Any, checkpoint: Any) -> None:
            await original(slot, checkpoint)
            await slot.actor.__ray_call__.remote(broken)

        pool._confirm = confirm

    def spare(pool: Any) -> None:
        del pool._confirm

    ray.get(engines.__ray_call__.remote(spoil))
    before = ray.get(engines.counts.remote())["deaths"]
    try:
        with pytest.raises(EngineEnded, match="no more"):
            ask_everything(models["a"])
    finally:
        ray.get(engines.__ray_call__.remote(spare))
    after = ray.get(engines.counts.remote())
    assert (after["deaths"], after["engines"]) == (before + 2, 0)


@pytest.mark.ray
@pytest.mark.vllm
def test_requests_that_do_not_fit_are_told(engines: Any, models: dict[str, Path]) -> None:
    checkpoint = read_checkpoint(models["a"])
    for request, message in (
        (Request("next", tuple(range(4, 132)), (5,)), "128 tokens and up to 1 of an answer"),
        (Request("generate", (BOS, 5), max_tokens=127), "sequences of 2 to 128 tokens"),
        (Request("generate", (), max_tokens=1), "a request of 0 tokens"),
        (Request("next", (BOS, 5), (700,)), "outside the vocabulary of 700"),
    ):
        fits = Request("next", (BOS, 5), (6,))
        with pytest.raises(UserError, match=message):
            answer(checkpoint, [fits, request], EOS, ONE, limit=1)
    assert answer(checkpoint, [], EOS, ONE, limit=1).values == []


@pytest.mark.ray
@pytest.mark.vllm
def test_the_lease_of_a_dead_holder_lapses(engines: Any, models: dict[str, Path]) -> None:
    import ray

    folder = str(models["a"])

    @ray.remote(max_retries=0)
    def die_with_a_lease() -> None:
        import os

        from msm_ray.evaluate.engines import EngineSettings, read_checkpoint
        from msm_ray.evaluate.leasing import leased

        with leased(read_checkpoint(folder), EngineSettings(kv_mib=64, max_num_seqs=64), 1):
            os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(die_with_a_lease.remote())
    got, _ = ask_everything(models["b"])
    assert got.report.verified
    assert ray.get(engines.counts.remote())["lapsed"] == 1


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_a_checkpoint_that_no_engine_confirms_is_never_served(
    engines: Any, models: dict[str, Path], tmp_path: Path, reference: Reference
) -> None:
    import ray

    wrong = shutil.copytree(models["a"], tmp_path / "wrong")
    recorded = json.loads((wrong / "fingerprint.json").read_text())
    recorded["logprobs"][1][3] += 0.01
    (wrong / "fingerprint.json").write_text(json.dumps(recorded))
    with pytest.raises(FingerprintMismatch, match=r"wrong.*off by up to 0\.01 nats"):
        answer(read_checkpoint(wrong), [Request("next", (BOS, 5), (6, 7))], EOS, ONE, limit=1)
    assert ray.get(engines.counts.remote())["engines"] == 0
    # another architecture, untied; then the first again takes that engine's place
    got, requests = ask_everything(models["wide"])
    check(models["wide"], reference, got, requests)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_in_bfloat16_other_weights_are_still_told_apart(
    engines: Any, models: dict[str, Path]
) -> None:
    import ray

    half = dataclasses.replace(ONE, dtype="bfloat16")
    checkpoints = [read_checkpoint(models[name]) for name in "abc"]

    def distances(actor: Any) -> list[float]:
        """Of each checkpoint's fingerprint from what is held."""
        from msm_ray.evaluate.verification import fingerprint_requests, load_report

        def ask(engine: Any) -> list[float]:
            found = []
            for checkpoint in checkpoints:
                asked = fingerprint_requests(checkpoint.fingerprint, engine.length)
                got = engine.answer(asked)
                found.append(load_report(checkpoint, got, "held", 0, half, engine.length).distance)
            return found

        return actor._batching._call(lambda: ask(actor._batching._engine))

    for i in (0, 1, 2):
        with leased(checkpoints[i], half, limit=1) as lease:
            found = ray.get(lease.engine.__ray_call__.remote(distances))
        assert 1e-3 < found.pop(i) < half.atol
        assert min(found) > 2 * half.atol


@pytest.mark.ray
def test_too_little_memory_says_how_much_and_what_to_lower(
    engines: Any, models: dict[str, Path]
) -> None:
    greedy = EngineSettings(kv_mib=10**7, max_num_seqs=10**7)
    with pytest.raises(UserError, match=r"needs about .* GiB are free; lower .*kv_mib"):
        answer(read_checkpoint(models["a"]), [Request("next", (1,), (5,))], EOS, greedy, limit=1)


DRIVER = """
import sys, ray
from msm_ray.evaluate.engines import read_checkpoint
from msm_ray.evaluate.leasing import answer, leased
from msm_ray.evaluate.requests import Request
ray.init(address="local", num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False,
         log_to_driver=False)
checkpoint = read_checkpoint(sys.argv[1])
work = [Request("generate", (1, 5 + i % 500), max_tokens=100) for i in range(20000)]
with leased(checkpoint, limit=1) as lease:
    pid = ray.get(lease.engine.__ray_call__.remote(lambda actor: __import__("os").getpid()))
    print(pid, flush=True)
    answer(checkpoint, work, None, limit=1)
"""


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_no_engine_survives_a_driver_that_was_killed(models: dict[str, Path]) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(models["a"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_process_group_cleanup_enabled": "true"},
    )
    assert driver.stdout is not None
    engine = psutil.Process(int(driver.stdout.readline()))
    children = psutil.Process(driver.pid).children(recursive=True)
    # Ray's two agents end by themselves too, but only after a minute of asking for their cluster.
    ours = [engine, *(p for p in children if not p.name().endswith("Agent"))]
    assert len(ours) > 4
    time.sleep(1)  # it is in the middle of generating
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(ours, timeout=30)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
