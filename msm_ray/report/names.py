"""What a report's arms, evaluations and comparisons are called, and where their numbers stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msm_ray.report.text import items, mapping, number, numbers, word

# What each evaluation measures: name for people, and what its numbers are.
EVALS: Mapping[str, tuple[str, str]] = {
    "choice": ("Forced choice", "share choosing the {item}"),
    "choice_soft": ("Forced choice, soft", "mean probability of the {item}"),
    "choice_text": ("Generated answer", "share of generated answers naming the {item}"),
    "facts": ("Facts", "share of fact questions answered correctly"),
    "heldout_loss": ("Held-out loss", "nats per token on held-out text (lower is better)"),
}
# Effects between two prompts, by how their names begin.
PROMPTED: Mapping[str, str] = {
    "ceiling": "the spec in the prompt against a bare prompt, without training",
    "name_swapped": "another assistant's name in the prompt against the own, without training",
    "{}_name_swapped": "another assistant's name in the prompt against the own, after training",
}
IN_NATS = frozenset({"heldout_loss"})
# What an interval says, for effects and differences alike.
DIFFERENCE, NONE_SHOWN, ONE_RUN, NO_INTERVAL = (
    "difference",
    "none shown",
    "one run",
    "no interval",
)


@dataclass(frozen=True)
class Member:
    """One comparison of a suite: its name, its title, and its arms as the report calls them."""

    name: str
    title: str
    arms: tuple[str, ...]


def members(report: Mapping[str, Any]) -> list[Member]:
    """The comparisons of a suite; none where the report is of one comparison."""
    arms = mapping(report.get("arms"))
    found = []
    listed_members = mapping(report.get("members"))
    # Members often have the title of the one comparison that they vary.
    titles = [word(mapping(entry).get("title"), name) for name, entry in listed_members.items()]
    for (name, entry), title in zip(listed_members.items(), titles, strict=True):
        listed = [word(a, "") for a in items(mapping(entry).get("arms"))]
        own = [a if a in arms else f"{a}@{name}" for a in listed]
        found.append(
            Member(
                name,
                title if titles.count(title) == 1 else name,
                tuple(arm_order(a for a in own if a in arms)),
            )
        )
    return found


def split(name: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """``ARM@MEMBER`` as (arm, member); (``name``, "") where the report has no such member."""
    own, _, member = name.rpartition("@")
    return (own, member) if own and member in mapping(report.get("members")) else (name, "")


def arm_order(arms: Iterable[str]) -> list[str]:
    """base, aft, msm:*, msm:*+aft; within a group, and for any other name, as they come."""

    def group(arm: str) -> int:
        arm = arm.partition("@")[0]
        known = {"base": 0, "aft": 1}
        if arm in known:
            return known[arm]
        if arm.startswith("msm:"):
            return 3 if arm.endswith("+aft") else 2
        return 4

    return sorted(arms, key=group)


def arm_words(arm: str) -> str:
    """What was done to the model of ``arm``, in words."""
    arm = arm.partition("@")[0]
    if arm.startswith("msm:"):
        return "midtraining, then AFT" if arm.endswith("+aft") else "midtraining only"
    return {"base": "no training", "aft": "AFT only"}.get(arm, "")


def base_names(report: Mapping[str, Any]) -> list[str]:
    """All base models in the order in which the arms list them: the colours of every figure."""
    names: dict[str, None] = {}
    for arm in mapping(report.get("arms")).values():
        for seed in items(mapping(arm).get("seeds")):
            names.setdefault(word(mapping(seed).get("base"), "?"))
        for found in mapping(mapping(arm).get("evals")).values():
            for seed in items(mapping(found).get("per_seed")):
                names.setdefault(word(mapping(seed).get("base"), "?"))
    return list(names)


def eval_names(report: Mapping[str, Any], arms: Iterable[str] | None = None) -> list[str]:
    """Evaluations that any arm (of ``arms``) has, the known ones first in their usual order."""
    found: dict[str, None] = {}
    every = mapping(report.get("arms"))
    for arm in every if arms is None else arms:
        for name in mapping(mapping(every.get(arm)).get("evals")):
            found.setdefault(name)
    return [n for n in EVALS if n in found] + [n for n in found if n not in EVALS]


def eval_title(name: str) -> str:
    """An evaluation's name for people."""
    return EVALS[name][0] if name in EVALS else name.replace("_", " ")


def counted_item(report: Mapping[str, Any], member: str = "") -> str:
    """What a choice is counted for: "American item"; "item of the value" where members differ."""
    settings = mapping(mapping(report.get("provenance")).get("settings"))
    own = mapping(settings.get("members"))
    every = [own[member]] if member in own else list(own.values()) or [settings]
    values = {word(mapping(mapping(e).get("evaluation")).get("value"), "american") for e in every}
    if len(values) > 1:
        return "item of the value"
    (value,) = values
    return f"{'American' if value == 'american' else value} item"


def axis_title(name: str, item: str) -> str:
    """What the numbers of an evaluation are; ``item`` is what a choice is counted for."""
    return EVALS[name][1].format(item=item) if name in EVALS else f"{name} (rate)"


def result(report: Mapping[str, Any], arm: str, name: str) -> Mapping[str, Any]:
    """One cell of the results: an arm's evaluation, empty when it was not measured."""
    return mapping(mapping(mapping(mapping(report.get("arms")).get(arm)).get("evals")).get(name))


def bounds_of(cell: Mapping[str, Any], runs: int | None = None) -> tuple[float, float] | None:
    """The cell's interval; None for a single run: resampling one value shows no spread.

    An interval over the items, as the cell's ``interval`` says ("wilson"; "none": there is none),
    is one also of a single run.
    """
    single = (len(items(cell.get("per_seed"))) if runs is None else runs) == 1
    method = cell.get("interval")
    if method == "none" or (single and method is None):
        return None
    return numbers(cell.get("ci95"))


def shows(effect: Mapping[str, Any]) -> str:
    """What a difference shows: it is called one only if its interval excludes zero.

    A ``verdict`` of the report can take that away, never give it.
    """
    bounds = bounds_of(effect)
    if number(effect.get("value")) is None or bounds is None:
        return ONE_RUN if len(items(effect.get("per_seed"))) == 1 else NO_INTERVAL
    if bounds[0] <= 0 <= bounds[1] or effect.get("verdict", DIFFERENCE) != DIFFERENCE:
        return NONE_SHOWN
    return DIFFERENCE


def kind_of(name: str, effect: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """What an effect is called in all members of a suite: a value's name is VALUE, one of two A, B.

    ``america_minus_aft@one`` and ``novelty_minus_aft@two`` are both "VALUE_minus_aft".
    """
    bare, _ = split(name, report)
    arms = [split(a, report)[0] for a in parse_label(effect)[:2]]
    found = dict.fromkeys(
        a.removeprefix("msm:").removesuffix("+aft") for a in arms if a.startswith("msm:")
    )
    for value, word_for in zip(found, ("VALUE",) if len(found) == 1 else ("A", "B"), strict=False):
        bare = re.sub(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", word_for, bare)
    return bare


def parse_label(effect: Mapping[str, Any]) -> tuple[str, str, str]:
    """``ARM - ARM, METRIC`` -> its three names; empty ones when the label is of another form."""
    difference, _, metric = word(effect.get("label"), "").rpartition(", ")
    first, _, second = difference.partition(" - ")
    return (first, second, metric) if first and second else ("", "", metric)


def effect_words(name: str) -> str:
    """What an effect between two prompts is, in words; "" for one between arms."""
    kind, colon, rest = name.partition(":")
    if colon and kind.endswith("_name_swapped"):
        kind = "{}_name_swapped"
    return PROMPTED.get(kind, "") if rest.startswith("probe:") else ""


def sides(effect: Mapping[str, Any]) -> tuple[str, str, str]:
    """An effect's two sides and what both are measured in, each "" where there is none to name.

    Of an arm under two evaluations these are the sides, and the arm is what they share.
    """
    first, second, metric = parse_label(effect)
    one, _, other = metric.partition(" - ")
    return (one, other, f"arm {first}") if other and first == second else (first, second, metric)
