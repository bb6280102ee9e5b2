"""Regret of a mixture law against random search at the same number of runs, on a known surface.

    python benchmarks/search/law.py --repeats 200 --out benchmarks/search/law.json

The surface is synthetic, so that the best mix is known: separation by the share of spec documents
as it was measured in the micro-world, with noise of a run's seed, over three sources. Every method
has the same number of runs of the same budget and names the best run it saw; its regret is what
the true surface there lacks to the best mix. Of a law's runs three are its proposals; beside the
law (its surrogate by cross-validation) stands each surrogate alone, on the same swarm.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from msm_ray.search.law import Law, MixtureLaw, dense, spearman
from msm_ray.search.methods import Random, Seen, Stratified
from msm_ray.search.optuna_method import Optuna
from msm_ray.search.space import Mixture, Space
from msm_ray.search.surrogates import FITS, features

# Share of spec documents -> separation, micro-world, 120,000 tokens; without any there is none.
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SEPARATION = (0.0, 0.35, 0.45, 0.68, 0.88, 0.90, 0.45)
# Made up: some of the assistant's own chats help, many take the place of what is to be learnt.
CHATS = (0.0, 0.05, 0.15, 0.4, 1.0)
FACTOR = (0.92, 1.0, 0.96, 0.7, 0.2)

SPACE = Space((Mixture({"spec": "spec_share", "chats": "chat_share"}, rest="replay"),))
_separation = PchipInterpolator(SHARES, SEPARATION)
_factor = PchipInterpolator(CHATS, FACTOR)


def surface(row: Any) -> float:
    """The true separation at shares (spec, chats, replay)."""
    return float(_separation(row[0]) * _factor(row[1]))


def run(method: Any, noise: float, seed: int) -> tuple[float, list[Seen]]:
    """All trials of a method, one after the other: the truth at the best, and the trials."""
    rng = np.random.default_rng([seed, 7])
    seen: list[Seen] = []
    truth = []
    for number in range(method.count(SPACE)):
        found = method.suggest(SPACE, number, seen, seed)
        truth.append(surface(features(SPACE, found.point)))
        value = truth[-1] + rng.normal(0, noise)
        memory = dict(found.memory)
        seen.append(Seen(number, found.point, "done", (value,), phase=found.phase, memory=memory))
    best = max(seen, key=lambda s: s.values or ())
    return truth[best.number], seen


def named(law: Law, swarm: list[Seen], noise: float, seed: int, method: MixtureLaw) -> float:
    """The truth at the best run of a swarm and the proposals of a law of it."""
    points = law.proposals(SPACE, method.propose, method.candidates, method.apart, seed)
    rng = np.random.default_rng([seed, 7])
    noises = rng.normal(0, noise, len(swarm) + len(points))[len(swarm) :]
    truth = [surface(features(SPACE, p)) for p in [s.point for s in swarm] + points]
    values = [s.values[0] for s in swarm if s.values]
    values += [t + e for t, e in zip(truth[len(swarm) :], noises, strict=True)]
    return truth[int(np.argmax(values))]


def summary(regrets: list[float]) -> dict[str, Any]:
    """Mean regret with an interval over repeats, and its 90th percentile."""
    values = np.array(regrets)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return {
        "regret": round(float(values.mean()), 4),
        "ci95": [round(float(values.mean() + s * half), 4) for s in (-1, 1)],
        "median": round(float(np.median(values)), 4),
        "p90": round(float(np.quantile(values, 0.9)), 4),
    }


def measure(runs: int, noise: float, repeats: int, best: float) -> dict[str, Any]:
    """Every method at one number of runs and one noise, paired by repeat."""
    regrets: dict[str, list[float]] = {}
    chosen: dict[str, int] = {}
    cv: dict[str, list[tuple[float, float]]] = {}
    method = MixtureLaw(runs - 3, propose=3, candidates=512)
    for repeat in range(repeats):
        others = {"random": Random(runs), "stratified": Stratified(runs), "tpe": Optuna(runs)}
        for name, other in others.items():
            regrets.setdefault(name, []).append(best - run(other, noise, repeat)[0])
        value, seen = run(method, noise, repeat)
        regrets.setdefault("law", []).append(best - value)
        law = method.law(SPACE, seen, repeat)
        assert law is not None
        chosen[law.kind] = chosen.get(law.kind, 0) + 1
        for kind, facts in law.cv.items():
            cv.setdefault(kind, []).append((float(facts["r2"] or 0), float(facts["rank"] or 0)))
            fitted = FITS[kind](law.X, law.y, repeat)
            alone = dataclasses.replace(law, kind=kind, fitted=fitted)
            value = named(alone, seen[: method.swarm], noise, repeat, method)
            regrets.setdefault(f"law, {kind} only", []).append(best - value)
    paired = np.array(regrets["random"]) - np.array(regrets["law"])
    half = 1.96 * paired.std(ddof=1) / np.sqrt(repeats)
    return {
        "runs": runs,
        "noise": noise,
        "methods": {name: summary(found) for name, found in regrets.items()},
        "law_better_than_random": {
            "regret_saved": round(float(paired.mean()), 4),
            "ci95": [round(float(paired.mean() + s * half), 4) for s in (-1, 1)],
            "share_of_repeats": round(float(np.mean(paired > 0)), 3),
        },
        "law_chosen": chosen,
        "law_cv": {
            kind: {
                "r2": round(float(np.mean([r for r, _ in found])), 3),
                "rank": round(float(np.mean([r for _, r in found])), 3),
            }
            for kind, found in cv.items()
        },
    }


def coverage(runs: int, noise: float, repeats: int) -> dict[str, Any]:
    """How often the law's interval holds the true value at the mix it predicts as the best."""
    inside, bias, ranks = 0, [], []
    for repeat in range(repeats):
        method = MixtureLaw(runs - 3, propose=3, candidates=512)
        _, seen = run(method, noise, repeat)
        law = method.law(SPACE, seen, repeat)
        assert law is not None
        found = law.best(SPACE, 512, repeat, resamples=20)
        true = surface(features(SPACE, found.point))
        inside += found.interval[0] <= true <= found.interval[1]
        bias.append(found.value - true)
        rows = np.array([features(SPACE, p) for p in dense(SPACE, 500, repeat)])
        ranks.append(spearman(law.predict(rows), [surface(r) for r in rows]) or 0.0)
    return {
        "runs": runs,
        "noise": noise,
        "repeats": repeats,
        "interval_holds_truth": inside / repeats,
        "predicted_minus_true": round(float(np.mean(bias)), 4),
        "rank_correlation_with_truth": round(float(np.mean(ranks)), 3),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--runs", default="12,24,48")
    parser.add_argument("--noise", default="0.03")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    grid = np.array([features(SPACE, p) for p in dense(SPACE, 2**16, 0)])
    best = max(surface(row) for row in grid)
    start = time.monotonic()
    record: dict[str, Any] = {
        "what": "regret on a synthetic surface (interior optimum), same number of runs",
        "command": "python benchmarks/search/law.py " + " ".join(sys.argv[1:]),
        "surface": {"spec": [SHARES, SEPARATION], "chats": [CHATS, FACTOR], "best": round(best, 4)},
        "repeats": args.repeats,
        "measured": [],
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("numpy", "scipy", "scikit-learn", "optuna")},
        },
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for runs in map(int, args.runs.split(",")):
        for noise in map(float, args.noise.split(",")):
            record["measured"].append(measure(runs, noise, args.repeats, best))
            print(json.dumps(record["measured"][-1]), flush=True)
            write(record, start, args.out)
    record["interval"] = coverage(24, 0.03, min(args.repeats, 30))
    print(json.dumps(record["interval"]))
    write(record, start, args.out)


def write(record: dict[str, Any], start: float, out: str) -> None:
    """The record as it is so far: each number of runs takes minutes."""
    record["seconds"] = round(time.monotonic() - start, 1)
    if out:
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
