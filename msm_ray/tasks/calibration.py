"""Whether a model knows what it knows: P(True) of its own answers, against whether they are right.

The model answers a question of knowledge (the likeliest of four letters); then it is shown its own
answer and asked whether it is true. P(True) is the probability of (A) True among (A) and (B).
Source: Kadavath et al., Language Models (Mostly) Know What They Know (arXiv 2207.05221), section 4.

==========================  ==============================================================
eval                        its rate
==========================  ==============================================================
calibration:NAME            Brier score: mean of (P(True) - right)^2; 0 is perfect
calibration:NAME:ece        expected calibration error over ten bins of equal width
calibration:NAME:auroc      how well P(True) tells right from wrong; 0.5 is chance
==========================  ==============================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msm_ray.evaluate.engine_settings import EngineSettings
from msm_ray.evaluate.scorers import forced_choice
from msm_ray.llm.model import AnyModel
from msm_ray.llm.price import CHARACTERS_PER_TOKEN
from msm_ray.stage import Stage
from msm_ray.tasks.asking import Made, Size, ask_checkpoint, by, items_in, rate, row, task_stage
from msm_ray.tasks.capability import QUESTION, TEMPLATE_TOKENS, choose
from msm_ray.tasks.items import Items, Row
from msm_ray.tasks.subject import Choice, Subject

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

SCORER = "1"
BINS = 10
TRUTH = (
    "Question: {question}\nProposed answer: {answer}\nIs the proposed answer:\n(A) True\n(B) False"
)
TRUE, FALSE = "(A)", "(B)"


@dataclass(frozen=True)
class Calibration:
    """P(True) of the model's own answers to ``items``, as `Capability` takes them."""

    items: str = "general"

    @property
    def name(self) -> str:
        """The main eval's name."""
        return f"calibration:{Items('choices', self.items).name}"

    @property
    def evals(self) -> tuple[str, ...]:
        """Brier score, ECE, AUROC."""
        return (self.name, f"{self.name}:ece", f"{self.name}:auroc")

    def models(self) -> tuple[AnyModel, ...]:
        """Nobody besides the checkpoint."""
        return ()

    def stage(self, inputs: Mapping[str, Stage], label: str, engine: EngineSettings) -> Stage:
        """See `Task.stage`."""
        items = Items("choices", self.items)
        rows = items.rows()
        characters = 2 * sum(len(str(value)) for one in rows for value in one.values())
        read = characters / CHARACTERS_PER_TOKEN + 2 * len(rows) * TEMPLATE_TOKENS
        return task_stage(
            "calibration",
            "1",
            {"name": self.name, "prompt": QUESTION, "truth": TRUTH, "bins": BINS, "scorer": SCORER},
            {**inputs, "items": items.stage()},
            "msm_ray.tasks.calibration:ask",
            f"{label} {items.name}",
            engine,
            Size(2 * len(rows), read),
        )


def ask(ctx: StageContext) -> dict[str, Any]:
    """Stage: see `ask_calibration`. Inputs: ``model`` (and ``base``), ``items``."""
    return ask_checkpoint(ctx, lambda subject: ask_calibration(subject, items_in(ctx), ctx.config))


def ask_calibration(subject: Subject, items: Sequence[Row], config: Mapping[str, Any]) -> Made:
    """Rows and rates. A question with two likeliest answers has no answer to be judged.

    Where all answers are right, or all wrong, there is no AUROC: the eval is then missing, and
    ``problems`` says why.
    """
    name = config["name"]
    chosen = [one for one in choose(subject, items, config["prompt"]) if one.index is not None]
    own = [one.options[one.index or 0] for one in chosen]
    asked = [
        Choice(
            f"{one.item['id']}/truth",
            config["truth"].format(question=one.item["question"], answer=answer),
            (TRUE, FALSE),
        )
        for one, answer in zip(chosen, own, strict=True)
    ]
    p_true = [forced_choice(got)[1] for got in subject.choose(asked)]
    right = [one.correct for one in chosen]
    rows = [
        row(
            one.item,
            name,
            (p - one.correct) ** 2,
            prompt=choice.user,
            answer=f"P(True) {p:.3f}, {'right' if one.correct else 'wrong'}",
        )
        for one, choice, p in zip(chosen, asked, p_true, strict=True)
    ]
    facts: dict[str, Any] = {"items": len(items), "undecided": len(items) - len(chosen)}
    if not rows:
        why = f"{name}: no question has one likeliest answer"
        return Made(rows, {}, {**facts, "problems": [why]})
    bins = int(config["bins"])
    evals: dict[str, dict[str, Any]] = {
        name: {**rate(rows), "by_domain": by(rows, "domain"), "unit": "Brier score"},
        f"{name}:ece": {
            "rate": expected_calibration_error(p_true, right, bins),
            "n": len(rows),
            "by_domain": {},
            "bins": reliability(p_true, right, bins),
        },
    }
    area = auroc(p_true, right)
    if area is None:
        kind = "right" if right[0] else "wrong"
        facts["problems"] = [f"{name}:auroc: all {len(right)} answers are {kind}"]
    else:
        evals[f"{name}:auroc"] = {"rate": area, "n": len(rows), "by_domain": {}}
    return Made(rows, evals, {**facts, "accuracy": sum(right) / len(right)})


# ---- measures -------------------------------------------------------------------------------


def reliability(
    p: Sequence[float], right: Sequence[bool], bins: int = BINS
) -> list[dict[str, Any]]:
    """Of each bin of equal width that is not empty: ``{low, high, n, p, right}``, means.

    A bin holds its lower edge; the last one also 1.
    """
    _check(p, right)
    groups: dict[int, list[tuple[float, bool]]] = {}
    for x, y in zip(p, right, strict=True):
        groups.setdefault(min(int(x * bins), bins - 1), []).append((x, y))
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "n": len(group),
            "p": sum(x for x, _ in group) / len(group),
            "right": sum(y for _, y in group) / len(group),
        }
        for b, group in sorted(groups.items())
    ]


def expected_calibration_error(
    p: Sequence[float], right: Sequence[bool], bins: int = BINS
) -> float:
    """Mean over bins, by their size, of |mean probability - share that is right|.

    Guo et al., On Calibration of Modern Neural Networks (2017), equation 3.
    """
    gaps = [b["n"] * abs(b["p"] - b["right"]) for b in reliability(p, right, bins)]
    return float(sum(gaps)) / len(p)


def auroc(p: Sequence[float], right: Sequence[bool]) -> float | None:
    """The probability that a right answer has a higher P(True) than a wrong one; ties count half.

    None where there is no right or no wrong answer. Mann-Whitney's U by ranks: n log n.
    """
    _check(p, right)
    positives = sum(right)
    negatives = len(right) - positives
    if not positives or not negatives:
        return None
    order = sorted(range(len(p)), key=lambda i: p[i])
    ranks = 0.0
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and p[order[end]] == p[order[start]]:
            end += 1
        mean_rank = (start + 1 + end) / 2
        ranks += mean_rank * sum(right[i] for i in order[start:end])
        start = end
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def _check(p: Sequence[float], right: Sequence[bool]) -> None:
    if not p or len(p) != len(right):
        raise ValueError("as many probabilities as outcomes are needed, and at least one")
    if not all(0 <= x <= 1 for x in p):
        raise ValueError("a probability lies between 0 and 1")
