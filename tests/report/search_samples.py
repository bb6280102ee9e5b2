"""A realistic `search` part of a report, made up: 24 trials over three sources, then one over four.

What is made up follows a smooth response with a best mix near (0.3, 0.25, 0.45), so that figures
show what they show of a real search: noise of the size of the intervals, losers at the edges.
"""

from __future__ import annotations

import json
import math
import random
from typing import Any

SOURCES = ("spec", "chats", "replay")
BEST_MIX = {"spec": 0.3, "chats": 0.25, "replay": 0.45}
FIRST, SECOND, LIMIT = "separation_soft", "heldout_loss", "price_facts_america"
RATE, RANK = "aft.train.learning_rate", "aft.train.lora.rank"
RUNGS = (40, 80, 160)
JOB = '''"""The best recipe of the search tune_mix_micro: trial {number}."""

import dataclasses

from cheese_micro import experiment as cheese_micro

from msm_ray.settings import with_settings


def experiment():
    """The micro cheese comparison with the mixture and the rate that the search chose."""
    return with_settings(
        cheese_micro(),
        {{
            "midtrain.spec_share": {spec},
            "midtrain.chat_share": {chats},
            "aft.train.learning_rate": {rate:g},
        }},
    )
'''


def search_part(trials: int = 24, seed: int = 26) -> dict[str, Any]:
    """A whole part: two objectives, a constraint, rungs, a law, a confirmed best trial."""
    rng = random.Random(seed)
    rows = [_trial(i, rng) for i in range(trials)]
    fine = [r for r in rows if r["state"] == "done"]
    feasible = [r for r in fine if r["feasible"]]
    front = [
        a["number"]
        for a in feasible
        if not any(
            _value(b, FIRST) >= _value(a, FIRST) and _value(b, SECOND) <= _value(a, SECOND)
            for b in feasible
            if b is not a
        )
    ]
    best = max(feasible, key=lambda r: _value(r, FIRST))
    claimed = best["values"]
    true = {FIRST: _response(best["mix"], best["settings"][RATE]), SECOND: _loss(best["mix"])}
    again = {
        FIRST: _measured(true[FIRST] - 0.01, 0.035),
        SECOND: _measured(true[SECOND], 0.006),
        LIMIT: _measured(-0.012, 0.006),
    }
    rate = best["settings"][RATE]
    return {
        "method": "halving",
        "seed": 0,
        "job": "cheese_micro",
        "objectives": [{"name": FIRST, "goal": "max"}, {"name": SECOND, "goal": "min"}],
        "constraints": [{"name": LIMIT, "at_least": -0.02, "at_most": None}],
        "space": [
            {
                "kind": "mixture",
                "sources": list(SOURCES),
                "settings": {"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"},
                "floors": {"spec": 0.02},
                "ceilings": {},
            },
            {"kind": "real", "setting": RATE, "low": 5e-5, "high": 1e-3, "log": True},
            {"kind": "among", "setting": RANK, "values": [8, 32, 64]},
        ],
        "trials": rows,
        "front": front,
        "best": best["number"],
        "sharing": {
            "by_kind": {
                "documents": {"needed": 2, "made": 2, "alone": 2 * trials},
                "midtrain": {"needed": 2 * trials, "made": 2 * trials, "alone": 2 * trials},
                "aft": {"needed": 3 * trials, "made": 3 * trials - 5, "alone": 4 * trials},
                "evaluate": {"needed": 20 * trials, "made": 20 * trials, "alone": 26 * trials},
            },
            "tokens": {
                "needed": 21_000 * trials,
                "made": 20_400 * trials,
                "alone": 66_000 * trials,
            },
        },
        "confirmed": [
            {"number": best["number"], "seeds": [10, 11], "claimed": claimed, "values": again}
        ],
        "law": {
            "surrogate": "log-linear",
            "cv": {
                "log-linear": {"r2": 0.71, "rank": 0.83, "rmse": 0.061, "n": len(fine)},
                "boosted": {"r2": 0.48, "rank": 0.69, "rmse": 0.082, "n": len(fine)},
            },
            "predicted": {
                "settings": {RATE: 2e-4},
                "mix": dict(BEST_MIX),
                "value": 0.68,
                "ci95": [0.6, 0.76],
            },
            "surface": surface(20),
        },
        "proxies": [
            {
                "small": "20,000 tokens",
                "large": "60,000 tokens",
                "rank_correlation": 0.62,
                "ci95": [0.21, 0.85],
                "n": 9,
            }
        ],
        "recommended": {
            "file": "recommended.py",
            "settings": best["settings"],
            "source": JOB.format(number=best["number"], rate=rate, **best["mix"]),
        },
    }


def with_long_names(part: dict[str, Any]) -> dict[str, Any]:
    """``part`` with sources, objectives and settings whose names are as long as they come."""
    found = json.dumps(part)
    for name in (*SOURCES[:2], FIRST, SECOND, RATE):
        long = "_".join([name, *["of_the_midtrained_arms"] * 3])
        found = found.replace(f'"{name}"', f'"{long}"')
    renamed: dict[str, Any] = json.loads(found)
    return renamed


def surface(steps: int) -> list[dict[str, Any]]:
    """Predictions on a grid of shares."""
    return [
        {"mix": mix, "value": round(_response(mix, 2e-4), 4)}
        for i in range(steps + 1)
        for j in range(steps + 1 - i)
        if (mix := dict(zip(SOURCES, (i / steps, j / steps, 1 - (i + j) / steps), strict=True)))
    ]


def several_sources(count: int, trials: int = 24) -> dict[str, Any]:
    """A search over ``count`` sources with one objective and nothing else."""
    rng = random.Random(count)
    names = [f"source-{i}" for i in range(count)]
    rows = []
    for i in range(trials):
        raw = [rng.gammavariate(1, 1) for _ in names]
        mix = {n: round(x / sum(raw), 4) for n, x in zip(names, raw, strict=True)}
        value = 0.4 + 0.4 * mix[names[0]] - 0.5 * mix[names[0]] ** 2 + rng.gauss(0, 0.03)
        rows.append(
            {
                "number": i,
                "phase": "search",
                "state": "done",
                "settings": {},
                "mix": mix,
                "values": {FIRST: _measured(value, 0.04)},
                "tokens": 50_000 + 1000 * i,
            }
        )
    best = max(rows, key=lambda r: _value(r, FIRST))
    return {
        "method": "random",
        "objectives": [{"name": FIRST, "goal": "max"}],
        "space": [{"kind": "mixture", "sources": names, "settings": {}}],
        "trials": rows,
        "best": best["number"],
    }


def _value(row: dict[str, Any], name: str) -> float:
    return float(row["values"][name]["value"])


def _measured(value: float, half: float) -> dict[str, Any]:
    return {
        "value": round(value, 5),
        "ci95": [round(value - half, 5), round(value + half * 1.05, 5)],
    }


def _response(mix: dict[str, float], rate: float) -> float:
    """The true objective: best near `BEST_MIX` and a rate of 2e-4."""
    away = sum((mix[s] - BEST_MIX[s]) ** 2 for s in SOURCES)
    return 0.68 * math.exp(-3.2 * away) * math.exp(-0.25 * math.log(rate / 2e-4) ** 2)


def _loss(mix: dict[str, float]) -> float:
    """The true held-out loss: replay keeps it low."""
    return 1.02 + 0.16 * (1 - mix["replay"]) ** 2


def _trial(index: int, rng: random.Random) -> dict[str, Any]:
    raw = [rng.gammavariate(1.1, 1) for _ in SOURCES]
    spec, chats = (round(x / sum(raw), 4) for x in raw[:2])
    mix = {"spec": spec, "chats": chats, "replay": round(1 - spec - chats, 4)}
    rate = round(5e-5 * 20 ** rng.random(), 7)
    settings = {
        "midtrain.spec_share": spec,
        "midtrain.chat_share": chats,
        RATE: rate,
        RANK: rng.choice([8, 32, 64]),
    }
    true = _response(mix, rate)
    half = rng.uniform(0.03, 0.07)
    first = true + rng.gauss(0, half)
    price = -0.03 * mix["spec"] - rng.random() * 0.012
    state = "stopped" if index % 5 == 3 else "done"
    state = {7: "failed", 19: "missing"}.get(index, state)
    lasts = RUNGS if state == "done" else RUNGS[: 1 + index % 2]
    row: dict[str, Any] = {
        "number": index,
        "phase": "search",
        "state": state,
        "settings": settings,
        "mix": mix,
        "realised": {s: round(x + rng.uniform(-0.002, 0.002), 4) for s, x in mix.items()},
        "values": {
            FIRST: _measured(first if state == "done" else first * 0.6, half),
            SECOND: _measured(_loss(mix) + rng.gauss(0, 0.004), 0.008),
            LIMIT: _measured(price, 0.006),
        },
        "feasible": price >= -0.02,
        "rungs": [
            {
                "steps": n,
                "tokens": 500 * n,
                "value": round(first * (1 - math.exp(-n / 50)) + rng.gauss(0, 0.015), 4),
            }
            for n in lasts
        ],
        "seconds": round(rng.uniform(20, 240), 1),
        "tokens": 66_000,
        "tokens_new": rng.choice([5_000, 20_000, 25_000]),
        "stages": 46,
        "stages_new": rng.randint(12, 40),
        "error": "",
    }
    if state in ("failed", "missing"):
        row |= {"values": {}, "feasible": None, "rungs": [], "realised": {}}
        row["error"] = "the trainer ended: loss is not a number at step 31" * (state == "failed")
    return row
