"""A mixture law against random search in the micro-world, with as many trained tokens each.

The question: which share of spec documents, chats and replay separates the two arms of the cheese
comparison most, when a strong fine-tuning pulls against them (learning rate 4e-4, as the README's
limits say)? Both methods may train the same number of midtraining tokens, on one base; a trial is
trained with ``--seeds`` seeds, and its value is their mean:

- law: 12 small runs of 10,000 tokens, a surrogate, 2 whole runs of 30,000 tokens where it predicts
  the best;
- random: 6 whole runs of 30,000 tokens.

Each recommends its best whole run. What that is worth is measured on two fresh seeds; regret is
how much less that is than the best of a reference: a grid of 15 mixtures on the same fresh seeds.
Five repeats, with seeds of the methods 0 to 4. Also: the law's cross-validated rank correlation,
the rank correlation of small and whole runs of the grid on the fresh seeds, and what each method's
best trial had claimed.

Writes law_micro.json, or with ``--seeds 3`` law_micro_3_seeds.json. Seconds do not matter here:
some 20 minutes on two idle cores, with three seeds twice as long.

    python benchmarks/search/law_micro.py --store STORE [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from msm_ray import runtime
from msm_ray.artifact import Store
from msm_ray.provenance import machine, versions
from msm_ray.runtime import RayLauncher
from msm_ray.search.job import Search
from msm_ray.search.law import MixtureLaw, rank_correlation
from msm_ray.search.methods import Method, Random
from msm_ray.search.objectives import Effect, Objective
from msm_ray.search.space import Mixture, Space, with_settings
from msm_ray.search.trial import measure
from msm_ray.settings import apply_settings

JOBS = Path(__file__).resolve().parents[2] / "jobs"
METRIC = "separation_soft"
WHOLE, SMALL = 30_000, 10_000  # midtraining tokens
SWARM, PROPOSE = 12, 2
FRESH = (20, 21)  # seeds that no search sees
SPACE = Space(
    (
        Mixture(
            parts={"spec": "midtrain.spec_share", "chats": "midtrain.chat_share"},
            rest="replay",
            floors={"spec": 0.02},
            share_step=0.01,
        ),
    )
)
METHODS: dict[str, Method] = {
    "law": MixtureLaw(swarm=SWARM, proxy={"midtrain.tokens": SMALL}, propose=PROPOSE),
    "random": Random((SWARM * SMALL + PROPOSE * WHOLE) // WHOLE),
}


def search(method: Method, seed: int, seeds: int) -> Search:
    """One search of the mixture; its seed, and how many each trial is trained with."""
    sys.path.insert(0, str(JOBS))
    from cheese_micro import experiment

    settings = (
        "corpus.writer=scripted",
        "corpus.documents=2000",
        f"midtrain.tokens={WHOLE}",
        "midtrain.max_repeats=2",
        "aft.train.learning_rate=4e-4",
        "evaluation.evals=choice_soft",
    )
    exp = experiment()
    job = apply_settings(replace(exp, bases=exp.bases[:1], seeds=tuple(range(seeds))), settings)
    return Search(
        name=f"law_micro_{method.name.replace(' ', '_')}_{seed}_of_{seeds}",
        title="Which mixture separates most?",
        job=job,
        space=SPACE,
        method=method,
        objectives=(Objective(Effect(METRIC)),),
        max_concurrent_trials=2,
        seed=seed,
    )


def grid() -> list[dict[str, Any]]:
    """Mixtures in steps of a quarter, at least 2 % spec documents."""
    found = []
    for spec in range(5):
        for chats in range(5 - spec):
            share = max(0.02, spec / 4)
            chat = min(chats / 4, round(1 - share, 2))
            found.append({"midtrain.spec_share": share, "midtrain.chat_share": chat})
    return found


def worth(of: Search, settings: dict[str, Any], store: Store) -> dict[str, Any]:
    """What a mixture is worth on fresh seeds, with its interval."""
    launcher = RayLauncher(None)
    job = with_settings(of.job, {**settings, "seeds": FRESH})
    found = measure(job, of.measures, store, lambda: launcher, 2)
    launcher.close()
    return found.values[METRIC]


def main() -> None:
    """Measure, print and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1, help="of each trial")
    parser.add_argument("--store", required=True, help="kept: a killed run goes on from it")
    arguments = parser.parse_args()
    seeds = arguments.seeds
    out = Path(__file__).with_name(f"law_micro{f'_{seeds}_seeds' if seeds > 1 else ''}.json")
    store = Store(arguments.store)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    with runtime.cluster():
        for seed in range(arguments.repeats):
            for name, method in METHODS.items():
                of = search(method, seed, seeds)
                part = of.run(store.url).report["search"]
                best = part["trials"][part["best"]]
                whole = [t for t in part["trials"] if t["phase"] != "swarm"]
                found[name].append(
                    {
                        "seed": seed,
                        "mix": best["mix"],
                        "settings": best["settings"],
                        "claimed": best["values"][METRIC]["value"],
                        "fresh": worth(of, best["settings"], store),
                        "cv": part["law"]["cv"] if part["law"] else None,
                        "surrogate": part["law"]["surrogate"] if part["law"] else None,
                        "predicted": part["law"]["predicted"]["value"] if part["law"] else None,
                        "whole_runs": len(whole),
                    }
                )
                print(name, json.dumps(found[name][-1]), flush=True)
        of = search(METHODS["random"], 0, seeds)
        reference = []
        for settings in grid():
            reference.append({**settings, **worth(of, settings, store)})
            print("reference", json.dumps(reference[-1]), flush=True)
        pairs = []
        for settings, whole in zip(grid(), reference, strict=True):
            small = worth(of, {**settings, "midtrain.tokens": SMALL}, store)
            pairs.append((small["value"], whole["value"]))
    top = max(one["value"] for one in reference)
    regret = {
        name: [round(top - one["fresh"]["value"], 4) for one in rows]
        for name, rows in found.items()
    }
    record = {
        "command": "python benchmarks/search/law_micro.py --store STORE"
        + (f" --seeds {seeds}" if seeds > 1 else ""),
        "seeds_of_a_trial": seeds,
        "versions": versions(),
        "machine": machine(),
        "tokens": {"small": SMALL, "whole": WHOLE, "each_method": SWARM * SMALL + PROPOSE * WHOLE},
        "reference": reference,
        "best_of_reference": top,
        "regret": regret,
        "mean_regret": {name: round(statistics.mean(rows), 4) for name, rows in regret.items()},
        "selection_on_noise": {
            name: round(statistics.mean(o["claimed"] - o["fresh"]["value"] for o in rows), 4)
            for name, rows in found.items()
        },
        "small_against_whole": rank_correlation(*map(list, zip(*pairs, strict=True))),
        "repeats": found,
    }
    text = json.dumps(record, indent=1)
    out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
