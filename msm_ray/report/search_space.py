"""What was searched, in words: the space, the method, the constraints, and what sharing saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.search_found import Constraint, Found, shown
from msm_ray.report.text import esc, items, mapping, number, plural, short_count, word


def searched(found: Found) -> str:
    """The space, the method, the constraints and what sharing saved."""
    part = found.part
    job = f" over <code>{esc(word(part.get('job'), ''))}</code>" if part.get("job") else ""
    goals = ", ".join(
        f"<code>{esc(o.name)}</code> ({'as large' if o.goal == 'max' else 'as small'} as possible)"
        for o in found.objectives
    )
    method = f"method <code>{esc(word(part.get('method'), 'not named'))}</code>"
    if number(part.get("seed")) is not None:
        method += f", seed {esc(word(part.get('seed')))}"
    phases = {t.phase: sum(p.phase == t.phase for p in found.trials) for t in found.trials}
    of = ""
    if len(phases) > 1:
        of = f" ({', '.join(f'{n} {esc(phase)}' for phase, n in phases.items())})"
    lines = "".join(f"<li>{line}</li>" for line in _space(items(part.get("space"))))
    varied = "Varied were:" if lines else "The report does not name the space."
    space = f"<ul>{lines}</ul>" if lines else ""
    body = [
        f"<h3>What was searched</h3><p>{plural(len(found.trials), 'trial')}{of}{job}, {method},"
        f" for {goals or 'no objective'}. {varied}</p>{space}"
    ]
    body += [
        f"<p>{sentence}</p>"
        for sentence in (_limits(found), saved(found), _without(found))
        if sentence
    ]
    return "".join(body)


def _without(found: Found) -> str:
    """The parts that this page lacks because the search had none of them."""
    lacking = {
        "a mixture of sources": found.mixture is None,
        "rungs": not any(len(t.rungs) > 1 for t in found.trials),
        "a mixture law": not mapping(found.part.get("law")),
        "small runs that stand for large ones": not items(found.part.get("proxies")),
    }
    named = ", ".join(name for name, is_lacking in lacking.items() if is_lacking)
    return f"Not part of this search: {named}." if named else ""


def _space(spaces: Sequence[Any]) -> list[str]:
    """Each dimension in words, as markup."""
    lines = []
    for space in map(mapping, spaces):
        kind, name = space.get("kind"), f"<code>{esc(word(space.get('setting'), '?'))}</code>"
        low, high = (number(space.get(k)) for k in ("low", "high"))
        if kind == "mixture":
            lines.append(_mixture(space))
        elif kind == "among":
            values = ", ".join(esc(shown(v)) for v in items(space.get("values")))
            lines.append(f"{name} among {values}")
        elif low is not None and high is not None:
            whole = ", a whole number" if kind == "whole" else ""
            log = ", on a logarithmic scale" if space.get("log") else ""
            lines.append(f"{name}{whole} from {low:g} to {high:g}{log}")
    return lines


def _mixture(space: Mapping[str, Any]) -> str:
    sources = [word(s) for s in items(space.get("sources"))]
    said = f"the shares of {esc(', '.join(sources))}, which sum to one"
    rest = [s for s in sources if s not in mapping(space.get("settings"))]
    if len(rest) == 1:
        said += f"; {esc(rest[0])} takes what is left"
    for key, words in (("floors", "at least"), ("ceilings", "at most")):
        for source, bound in mapping(space.get(key)).items():
            if number(bound) is not None:
                said += f"; {esc(source)} {words} {number(bound):g}"
    return said


def _limits(found: Found) -> str:
    """How many trials met each constraint, and all of them."""
    said = []
    for c in found.constraints:
        own = [t.values[c.name] for t in found.trials if c.name in t.values]
        met = sum(c.holds(m.value) for m in own)
        said.append(
            f"<code>{esc(c.name)}</code> {limit(found, c)}: {met} of {plural(len(own), 'trial')}"
            " that measured it"
        )
    if not said:
        return ""
    noun = "Constraint" if len(said) == 1 else "Constraints"
    unknown = sum(t.feasible is None for t in found.trials)
    rest = f" Of {plural(unknown, 'trial')} it is not known." if unknown else ""
    return f"{noun}: {'; '.join(said)}.{rest}"


def saved(found: Found) -> str:
    """What sharing stages saved, in tokens."""
    tokens = mapping(mapping(found.part.get("sharing")).get("tokens"))
    needed, alone, ratio = tokens.get("needed"), tokens.get("alone"), tokens_ratio(found)
    if ratio is None:
        return ""
    own = number(tokens.get("made")) or 0.0
    there = (number(needed) or 0.0) - own
    before = f"; {short_count(there)} of them were in the store before" if there > 0 else ""
    return (
        f"Trials share the stages that their settings leave equal: they took {short_count(needed)}"
        f" tokens of training, {short_count(alone)} without sharing, a ratio of"
        f" <b>{ratio:.2f}</b>{before}."
    )


def tokens_ratio(found: Found) -> float | None:
    """Tokens that the trials needed over those that they would have trained without sharing."""
    tokens = mapping(mapping(found.part.get("sharing")).get("tokens"))
    needed, alone = number(tokens.get("needed")), number(tokens.get("alone"))
    return needed / alone if needed is not None and alone else None


def limit(found: Found, constraint: Constraint) -> str:
    """A constraint's range in words."""
    said = []
    if constraint.at_least is not None:
        said.append(f"at least {found.say(constraint.name, constraint.at_least)}")
    if constraint.at_most is not None:
        said.append(f"at most {found.say(constraint.name, constraint.at_most)}")
    return " and ".join(said) or "without a bound"
