"""How often the 95 % intervals of ``rate_ci`` and ``paired_effect`` hold the truth.

Simulated experiments with a known truth: right-or-wrong items whose log-odds are an intercept, an
effect of the item (sd 1.5; the same item in every run), of the run and item together (sd 0.7), of
the seed (sd 0.2, about four points of a rate near 1/2: what seeds of midtraining differ by) and of
the base model (sd 0.6). Hard settings on top, at a rate of .6: items that differ half as much, so
that seeds are what matters, and seeds that differ up to ten points. The truth of an interval is
what it generalises over averaged out, and what it does not held fixed: of one over items and seeds,
the mean rate of these bases over all items and seeds. Beside it, what most papers do: every answer
of every run taken as independent.

Writes coverage.json. About three minutes on one core.

    python benchmarks/evaluation/coverage.py
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from msm_ray.evaluate.statistics import Interval, paired_effect, rate_ci

ITEM_SD, RUN_ITEM_SD, SEED_SD, BASE_SD = 1.5, 0.7, 0.2, 0.6
ITEMS, RATES = (40, 100, 300, 500), (0.5, 0.8, 0.95)
PAIRS = ((0.5, 0.5), (0.8, 0.5), (0.95, 0.9))
HARD_ITEM_SD, HARD_SEED_SDS = 0.7, (0.1, 0.3, 0.5)
# (bases, seeds of each)
DESIGNS = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (3, 1), (3, 2), (3, 4))
NODES, MASSES = np.polynomial.hermite_e.hermegauss(61)
MASSES = MASSES / MASSES.sum()
BAND = (0.93, 0.97)


@dataclass(frozen=True)
class Setting:
    """One kind of experiment; ``rates`` has one rate (an arm) or two (a paired effect)."""

    rates: tuple[float, ...]
    items: int
    bases: int
    seeds: int
    seed_sd: float
    base_sd: float
    item_sd: float = ITEM_SD


def expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def averaged(logit: np.ndarray, sd: float) -> np.ndarray:
    """The mean rate when normal noise of ``sd`` is added to the log-odds."""
    return expit(logit[..., None] + sd * NODES) @ MASSES


def intercept(rate: float, sd: float) -> float:
    """The log-odds at which the mean rate over noise of ``sd`` is ``rate``."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        below = float(averaged(np.array(middle), sd)) < rate
        low, high = (middle, high) if below else (low, middle)
    return middle


@dataclass(frozen=True)
class Drawn:
    """Answers of one arm, ``(experiments, bases, seeds, items)``, and the log-odds behind them."""

    answers: np.ndarray
    base: np.ndarray  # log-odds of each base, over its seeds and items
    run: np.ndarray  # log-odds of each run, over its items


def draw(setting: Setting, count: int, rng: np.random.Generator) -> list[Drawn]:
    """``count`` experiments of one arm or two.

    Two arms have half the variance of every effect in common: the same items, bases, and seeds.
    """
    e = setting
    shape = (count, e.bases, e.seeds, e.items)
    total = math.sqrt(e.item_sd**2 + RUN_ITEM_SD**2 + e.seed_sd**2 + e.base_sd**2)
    arms = len(e.rates)

    def effects(sd: float, size: tuple[int, ...]) -> list[np.ndarray]:
        if arms == 1:
            return [rng.normal(0, sd, size)]
        common = rng.normal(0, sd * math.sqrt(0.5), size)
        return [common + rng.normal(0, sd * math.sqrt(0.5), size) for _ in range(arms)]

    base = effects(e.base_sd, (count, e.bases, 1, 1))
    seed = effects(e.seed_sd, (count, e.bases, e.seeds, 1))
    item = effects(e.item_sd, (count, 1, 1, e.items))
    drawn = []
    for arm, rate in enumerate(e.rates):
        of_base = intercept(rate, total) + base[arm]
        of_run = of_base + seed[arm]
        logit = of_run + item[arm] + rng.normal(0, RUN_ITEM_SD, shape)
        answers = (rng.random(shape, dtype=np.float32) < expit(logit)).astype(float)
        drawn.append(Drawn(answers, of_base[..., 0, 0], of_run[..., 0]))
    return drawn


def truths(setting: Setting, arm: int, drawn: Drawn) -> dict[tuple[str, ...], np.ndarray]:
    """What each kind of interval is about, per experiment."""
    items = math.hypot(setting.item_sd, RUN_ITEM_SD)
    seeds = math.hypot(items, setting.seed_sd)
    return {
        ("items",): averaged(drawn.run, items).mean(axis=(1, 2)),
        ("items", "seeds"): averaged(drawn.base, seeds).mean(axis=1),
        ("items", "seeds", "bases"): np.full(len(drawn.base), setting.rates[arm]),
    }


def cells(answers: np.ndarray) -> dict[str, dict[int, np.ndarray]]:
    return {f"base-{b}": dict(enumerate(runs)) for b, runs in enumerate(answers)}


def independent(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width when every value is taken as independent."""
    return values.mean(), 1.96 * values.std(ddof=1) / math.sqrt(values.size)


def interval(arms: list[np.ndarray], over: tuple[str, ...]) -> Interval:
    if len(arms) == 1:
        return rate_ci(cells(arms[0]), over=over)
    return paired_effect(cells(arms[0]), cells(arms[1]), over=over)


def measure(
    setting: Setting,
    experiments: int,
    rng: np.random.Generator,
    wanted: Sequence[tuple[str, ...]] = (),
) -> list[dict]:
    """Coverage and median width, of the interval over seeds and of the one over bases."""
    drawn = draw(setting, experiments, rng)
    per_arm = [truths(setting, arm, d) for arm, d in enumerate(drawn)]
    rows = []
    kinds = [("items", "seeds")] + [("items", "seeds", "bases")] * (setting.bases > 1)
    for over in wanted or kinds:
        hits = naive = 0
        widths = []
        for x in range(experiments):
            arms = [d.answers[x] for d in drawn]
            got = interval(arms, over)
            sides = [truth[got.over][x] for truth in per_arm]
            truth = sides[0] - (sides[1] if len(sides) > 1 else 0.0)
            hits += bool(got.low <= truth <= got.high)
            widths.append(got.high - got.low)
            mean, half = independent(arms[0] - arms[1] if len(arms) > 1 else arms[0])
            naive += bool(abs(mean - truth) <= half)
        rows.append(
            {
                "what": "effect" if len(setting.rates) > 1 else "rate",
                "rates": list(setting.rates),
                "items": setting.items,
                "bases": setting.bases,
                "seeds": setting.seeds,
                "seed_sd": setting.seed_sd,
                "base_sd": setting.base_sd,
                "item_sd": setting.item_sd,
                "over": list(got.over),
                "coverage": round(hits / experiments, 4),
                "width": round(float(np.median(widths)), 4),
                "narrowest": round(min(widths), 4),
                "coverage_if_independent": round(naive / experiments, 4),
            }
        )
    return rows


def pooled(rows: list[dict]) -> list[dict]:
    """Coverage by kind, design, effects and what it is over, over rates and numbers of items."""
    names = ("what", "over", "bases", "seeds", "seed_sd", "base_sd", "item_sd")
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[name] for name in names]), []).append(row)
    table = []
    for key, members in groups.items():
        found = [row["coverage"] for row in members]
        table.append(
            {
                **dict(zip(names, json.loads(key), strict=True)),
                "coverage": round(float(np.mean(found)), 4),
                "least": min(found),
                "most": max(found),
                "coverage_if_independent": round(
                    float(np.mean([row["coverage_if_independent"] for row in members])), 4
                ),
            }
        )
    return table


def one_row_a_line(record: dict) -> str:
    """JSON in which every row of a table is a line."""
    parts = []
    for name, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """All settings; a table on the terminal, and everything in the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000, help="for each setting")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    started = time.process_time()
    rows: list[dict] = []
    effects = ((0.0, 0.0), (SEED_SD, BASE_SD))
    rates = [(rate,) for rate in RATES] + list(PAIRS)
    for (bases, seeds), (seed_sd, base_sd) in product(DESIGNS, effects):
        for items, of in product(ITEMS, rates):
            setting = Setting(of, items, bases, seeds, seed_sd, base_sd)
            rows += measure(setting, args.experiments, rng)
        print(*pooled(rows)[-4:], sep="\n", flush=True)
    hard: list[dict] = []
    for (bases, seeds), seed_sd in product(DESIGNS, HARD_SEED_SDS):
        for items in ITEMS if seeds > 1 else ():
            setting = Setting((0.6,), items, bases, seeds, seed_sd, 0.0, HARD_ITEM_SD)
            hard += measure(setting, args.experiments, rng, wanted=[("items", "seeds")])
    print(*pooled(hard), sep="\n")
    noise = 1.96 * math.sqrt(0.95 * 0.05 / args.experiments)
    found = [row["coverage"] for row in rows]
    record = {
        "nominal": 0.95,
        "experiments": args.experiments,
        "simulation_noise": round(noise, 4),
        "sd_of_log_odds": {
            "item": ITEM_SD,
            "run_and_item": RUN_ITEM_SD,
            "seed": SEED_SD,
            "base": BASE_SD,
        },
        "settings": len(rows),
        "between_93_and_97": sum(BAND[0] <= c <= BAND[1] for c in found),
        "between_93_and_97_within_noise": sum(
            BAND[0] - noise <= c <= BAND[1] + noise for c in found
        ),
        "cpu_seconds": round(time.process_time() - started),
        "pooled": pooled(rows),
        "pooled_hard": pooled(hard),
        "results": rows,
        "results_hard": hard,
    }
    args.out.write_text(one_row_a_line(record))


if __name__ == "__main__":
    main()
