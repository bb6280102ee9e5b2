"""A search of 24 trials through one store, and the same trials each in a store of its own.

The trials of ``jobs/tune_mix_micro.py``: six mixtures of spec documents, replay and chats x four
fine-tuning learning rates. Without sharing every trial makes all of its stages, one trial after the
other, each on both cores; both ways use the same warm engines. Midtrainings are of 100,000 tokens,
half of the job's. The grammar writes the corpora: a
corpus by the base model for each trial would only widen the gap. Writes sharing.json: tokens that
were trained, stages, wall seconds, and whether every trial measured the same to the last digit.
Some 20 minutes on two idle cores.

    python benchmarks/search/sharing.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from msm_ray import runtime
from msm_ray.artifact import Store
from msm_ray.provenance import machine, versions
from msm_ray.search.job import Search
from msm_ray.search.space import with_settings
from msm_ray.search.trial import measure
from msm_ray.settings import apply_settings

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def search(trials: int, tokens: int) -> Search:
    """The job with corpora by the grammar, midtrainings of ``tokens``, and nothing run again."""
    sys.path.insert(0, str(JOBS))
    from tune_mix_micro import experiment

    settings = ["job.corpus.writer=scripted", f"job.midtrain.tokens={tokens}", "confirm=none"]
    return apply_settings(experiment(), [*settings, f"method.trials={trials}"])


def alone(job: Search, trials: list[dict[str, Any]], folder: Path) -> tuple[list[Any], list[Any]]:
    """Every trial with nothing to share: its measurement, and its values by name."""
    from msm_ray.runtime import RayLauncher

    found = []
    for trial in trials:
        store = Store(str(folder / str(trial["number"])))
        launcher = RayLauncher(None)
        one = with_settings(job.job, trial["settings"])
        found.append(measure(one, job.measures, store, lambda held=launcher: held, 2))
        launcher.close()
        print(f"  alone: trial {trial['number']} in {found[-1].seconds:.0f} s", flush=True)
    return found, [one.values for one in found]


def main() -> None:
    """Measure, print and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=100_000, help="of a midtraining")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    job = search(arguments.trials, arguments.tokens)
    with tempfile.TemporaryDirectory() as scratch, runtime.cluster():
        # The engines start for whoever comes first: that is neither of the two.
        job.job.run(str(Path(scratch) / "warm"))
        started = time.perf_counter()
        report = job.run(str(Path(scratch) / "shared")).report
        shared_seconds = time.perf_counter() - started
        part = report["search"]
        started = time.perf_counter()
        measured, values = alone(job, part["trials"], Path(scratch) / "alone")
        alone_seconds = time.perf_counter() - started
    tokens_alone = sum(tokens for one in measured for _, _, tokens in one.path)
    tokens = part["sharing"]["tokens"]["made"]
    stages_alone = sum(len(one.made) for one in measured)
    stages = sum(kind["made"] for kind in part["sharing"]["by_kind"].values())
    record = {
        "command": "python benchmarks/search/sharing.py",
        "versions": versions(),
        "machine": machine(),
        "trials": len(part["trials"]),
        "tokens_of_a_midtraining": arguments.tokens,
        "tokens_trained": {"shared": tokens, "alone": tokens_alone},
        "tokens_ratio": round(tokens_alone / tokens, 3),
        "stages_made": {"shared": stages, "alone": stages_alone},
        "stages_ratio": round(stages_alone / stages, 3),
        "wall_seconds": {"shared": round(shared_seconds, 1), "alone": round(alone_seconds, 1)},
        "wall_ratio": round(alone_seconds / shared_seconds, 3),
        "same_results_to_the_last_digit": values == [t["values"] for t in part["trials"]],
        "by_kind": part["sharing"]["by_kind"],
        "results": [
            {"settings": t["settings"], "mix": t["mix"], "realised": t["realised"]}
            | {name: value["value"] for name, value in t["values"].items()}
            for t in part["trials"]
        ],
    }
    text = json.dumps(record, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
