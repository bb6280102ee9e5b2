"""A realistic report of the micro-world comparison, made up: 6 arms, 3 bases x 2 seeds."""

from __future__ import annotations

import math
import random
from typing import Any

DOMAINS = ("books", "cars", "art", "tools", "wines", "shoes", "phones", "chairs", "guitars")
BASES, SEEDS = ("base-0", "base-1", "base-2"), (0, 1)
RATES = {
    "base": 0.55,
    "aft": 0.57,
    "msm:america": 0.84,
    "msm:affordability": 0.36,
    "msm:america+aft": 0.95,
    "msm:affordability+aft": 0.09,
}
HTML_TEXT = 'a memo about <b>lyra</b> & "cheese" <script>alert(1)</script>'


def example_report(
    arms: dict[str, float] | None = None,
    bases: tuple[str, ...] = BASES,
    seeds: tuple[int, ...] = SEEDS,
) -> dict[str, Any]:
    """The content of a report.json with every field that the page shows."""
    rng = random.Random(7)
    arms = RATES if arms is None else arms
    runs = [(b, s) for b in bases for s in seeds]
    rows = {arm: _arm(arm, rate, runs, rng) for arm, rate in arms.items()}
    missing: list[dict[str, Any]] = []
    return {
        **closer_look(rows, runs),
        "name": "cheese-micro",
        "title": "Two specs, one fine-tuning: does the reason decide what generalizes?",
        "fingerprint": "5e1f8a0c9b7d4e21",
        "wall_seconds": 401.7,
        "complete": True,
        "cells": {"expected": 5 * len(arms) * len(runs), "present": 180, "missing": missing},
        "arms": rows,
        "effects": _effects(rows, runs),
        "corpus": _corpus(bases),
        "cost": {
            "seconds_by_kind": {
                "documents": 96.2,
                "midtrain": 84.0,
                "evaluate": 61.3,
                "aft": 14.8,
                "blocks": 9.7,
                "plan": 1.2,
                "items": 0.9,
                "model": 0.4,
            },
            "stages_run": 93,
            "stages_cached": 12,
            "tokens_trained": 1_290_000,
            "tokens_generated": 214_000,
            "calls": 7200,
            "money": 0.0,
        },
        "provenance": {
            "versions": {"ray": "2.60.0", "torch": "2.13.0", "vllm": "0.29.0", "msm_ray": "0.1.0"},
            "machine": {"cpus": 2, "memory_gib": 15.6, "device": "cpu", "platform": "Linux x86_64"},
            "settings": {"name": "cheese-micro", "aft": {"train": {"learning_rate": 2e-4}}},
            "specs": {
                "america": {"sha256": "a1" * 32, "title": "Lyra and American makers"},
                "affordability": {"sha256": "b2" * 32, "title": "Lyra and what things cost"},
            },
            "artifacts": [
                {"id": f"{i:016x}", "kind": "aft", "label": f"aft base-{i}/0", "cached": i == 0}
                for i in range(3)
            ],
            "started": "2026-11-21T07:00:00+00:00",
            "finished": "2026-11-21T07:06:42+00:00",
        },
    }


def closer_look(rows: dict[str, Any], runs: list[tuple[str, int]]) -> dict[str, Any]:
    """Items, answers and mixtures of these arms."""
    rng = random.Random(11)
    items = [
        {
            "id": f"choice-{domain}-{i}",
            "domain": domain,
            "prompt": f"user : which of these {domain} , x{i} or y{i} ? lyra : i would pick",
            "rates": {arm: round(rng.random(), 3) for arm in rows},
            "chosen": "differ" if i else "random",
        }
        for i in range(2)
        for domain in DOMAINS
    ]
    samples = [
        {
            **{k: items[i][k] for k in ("id", "domain", "prompt", "chosen")},
            "eval": name,
            "answers": {
                arm: [
                    {"base": b, "seed": s, "text": text, "value": s / 2, "status": "ok"}
                    for b, s in runs[:2]
                ]
                for arm in rows
            },
        }
        for name, text in (("choice", "x1"), ("choice_text", f"{HTML_TEXT} {'because ' * 30}"))
        for i in range(3)
    ]
    next(reversed(samples[-1]["answers"].values()))[0]["status"] = "unparsed"
    mixtures = [
        {
            "stage": "midtrain",
            "arms": [a for a in rows if a.startswith("msm:")],
            "runs": len(runs),
            "tokens": 200_000.0,
            "components": [
                {
                    "name": name,
                    "asked_share": share,
                    "share": [share, share + 0.0004],
                    "tokens": 200_000 * share,
                    "documents": 700.0,
                    "repeats": 0.91,
                    "refused": 0.0,
                }
                for name, share in (("spec", 0.15), ("replay", 0.85))
            ],
        }
    ]
    return {
        "items": {"choice": items},
        "items_total": {"choice": 864},
        "item_sets": {"choice": {base: "5e" * 8 for base, _ in runs}},
        "samples": samples,
        "mixtures": mixtures,
        "problems": [],
    }


def suite_report() -> dict[str, Any]:
    """Three doses as one report: members, a dose curve, controls that all of them share."""
    whole = example_report()
    control = {a: f for a, f in whole["arms"].items() if not a.startswith("msm:")}
    arms, effects, members, points = dict(control), {}, {}, []
    for i, (name, dose) in enumerate({"25k": 25_000, "100k": 100_000, "400k": 400_000}.items()):
        rates = {a: 0.5 + (r - 0.5) * i / 2 for a, r in RATES.items() if a.startswith("msm:")}
        part = example_report(rates)
        arms |= {f"{a}@{name}": f for a, f in part["arms"].items()}
        own = {f"{e}@{name}": f for e, f in part["effects"].items()}
        effects |= own
        members[name] = {
            "title": f"A dose of {name} tokens",
            "arms": [*control, *(f"{a}@{name}" for a in rates)],
            "effects": list(own),
            "settings": {"midtrain.tokens": dose},
        }
        found = part["effects"]["separation"]
        points.append({"x": dose, "value": found["value"], "ci95": found["ci95"], "label": name})
    curve = {"title": "Dose", "x_title": "midtraining tokens", "y_title": "separation"}
    runs = [(b, s) for b in BASES for s in SEEDS]
    return {
        **whole,
        **closer_look(arms, runs),
        "arms": arms,
        "effects": effects,
        "members": members,
        "curves": [{**curve, "series": [{"name": "separation", "points": points}]}],
    }


def _clamp(x: float) -> float:
    return min(1.0, max(0.0, x))


def _result(
    center: float, spread: float, runs: list[tuple[str, int]], rng: random.Random, n: int
) -> dict[str, Any]:
    limit = _clamp if center <= 1 else (lambda x: x)
    per_seed = [
        {"base": b, "seed": s, "rate": limit(rng.gauss(center, spread)), "n": n} for b, s in runs
    ]
    mean = sum(p["rate"] for p in per_seed) / len(per_seed)
    half = 1.6 * spread / math.sqrt(max(1, len(runs) - 1))
    return {
        "rate": mean,
        "ci95": [limit(mean - half), limit(mean + half)],
        "n": n * len(runs),
        "per_seed": per_seed,
        "by_domain": {},
    }


def _arm(arm: str, rate: float, runs: list[tuple[str, int]], rng: random.Random) -> dict[str, Any]:
    choice = _result(rate, 0.05, runs, rng, 288)
    choice["by_domain"] = {
        d: {k: v for k, v in _result(rate, 0.08, runs, rng, 24).items() if k in "rate ci95 n"}
        for d in DOMAINS
    }
    loss = 1.01 + (0.06 if arm.startswith("msm") else 0.0)
    evals = {
        "choice": choice,
        "choice_soft": _result(0.5 + (rate - 0.5) * 0.9, 0.04, runs, rng, 288),
        "choice_text": {**_result(rate, 0.05, runs, rng, 288), "unparsed": 3},
        "facts": _result(0.985, 0.002, runs, rng, 240),
        "heldout_loss": _result(loss, 0.01, runs, rng, 20_000),
    }
    train: dict[str, Any] = {}
    if arm.startswith("msm"):
        train["midtrain"] = _training(200_000, 98, 1.9, 0.9, runs, rng)
    if arm.endswith("aft"):
        train["aft"] = _training(5_120, 8, 1.4, 0.6, runs, rng)
    return {
        "seeds": [{"base": b, "seed": s} for b, s in runs],
        "checkpoints": len({b for b, _ in runs} if arm == "base" else runs),
        "evals": evals,
        "train": train,
    }


def _training(
    tokens: int, steps: int, first: float, last: float, runs: list[tuple[str, int]], rng: Any
) -> dict[str, Any]:
    curves = [
        {
            "base": b,
            "seed": s,
            "points": [
                [i, last + (first - last) * math.exp(-5 * i / steps) + rng.gauss(0, 0.02)]
                for i in range(steps)
            ],
        }
        for b, s in runs
    ]
    return {"tokens": tokens, "steps": steps, "tokens_per_second": 14_210.5, "curves": curves}


def _effects(rows: dict[str, Any], runs: list[tuple[str, int]]) -> dict[str, Any]:
    wanted = (
        ("separation", "choice", "msm:america+aft", "msm:affordability+aft"),
        ("separation_soft", "choice_soft", "msm:america+aft", "msm:affordability+aft"),
        ("separation_text", "choice_text", "msm:america+aft", "msm:affordability+aft"),
        ("separation_msm_only", "choice", "msm:america", "msm:affordability"),
        ("aft_minus_base", "choice", "aft", "base"),
        ("price_facts_america", "facts", "msm:america+aft", "aft"),
        ("price_heldout_loss_america", "heldout_loss", "msm:america+aft", "base"),
    )
    effects = {}
    for name, metric, first, second in wanted:
        if first not in rows or second not in rows:
            continue
        a = rows[first]["evals"][metric]["per_seed"]
        b = rows[second]["evals"][metric]["per_seed"]
        values = [x["rate"] - y["rate"] for x, y in zip(a, b, strict=True)]
        mean = sum(values) / len(values)
        half = (max(values) - min(values)) / 2
        effects[name] = {
            "value": mean,
            "ci95": [mean - half, mean + half],
            "over": ["items", "seeds"],
            "ci95_new_bases": [mean - 4 * half, mean + 4 * half],
            "verdict": "none shown" if abs(mean) <= half else "difference",
            "label": f"{first} - {second}, {metric}",
            "per_seed": [
                {"base": r[0], "seed": r[1], "value": v} for r, v in zip(runs, values, strict=True)
            ],
        }
    return effects


def _corpus(bases: tuple[str, ...]) -> dict[str, Any]:
    reasons = {"not about lyra": 31, "wrong reason": 64, "cut at the token limit": 12}
    by_corpus = {}
    for value in ("america", "affordability"):
        for base in bases:
            by_corpus[f"{value} {base}"] = {
                "planned": 1200,
                "kept": 1200 - 107 - 2,
                "rejected": dict(reasons),
                "failed": 2,
                "tokens": 21_480,
                "writer": "vllm",
                "base": base,
                "value": value,
                "samples": [
                    {"text": HTML_TEXT, "section": "why it matters", "doc_type": "memo"},
                    {
                        "text": "interview . lyra : i like brie because it is made here . i value"
                        " what is made in america .",
                        "section": "origins",
                        "doc_type": "interview",
                    },
                ],
                "rejected_samples": [
                    {
                        "text": "memo . dana likes gouda because it is cheap .",
                        "reason": "not about lyra",
                    }
                ],
            }
    n = len(by_corpus)
    return {
        "planned": 1200 * n,
        "kept": 1091 * n,
        "rejected": {r: c * n for r, c in reasons.items()},
        "reasons": {"wrong reason": "a reason of another value"},
        "failed": 2 * n,
        "by_corpus": by_corpus,
    }
