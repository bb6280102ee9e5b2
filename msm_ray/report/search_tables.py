"""The table of all trials, what they shared by kind of stage, and the recommended job file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from msm_ray.report.mixtures import FAR
from msm_ray.report.search_found import Found, Trial, chosen, shown
from msm_ray.report.text import (
    count,
    duration,
    esc,
    fixed,
    mapping,
    note,
    number,
    sortable,
    table,
    word,
)

Cell = tuple[str, float | str | None]
ROWS_PRINTED = 40  # of the table of trials, as the style sheet says


def trials(found: Found) -> str:
    """Every trial, the best first."""
    heading = "<h3>Trials</h3>"
    if not found.trials:
        return f"{heading}<p>The report has no trials.</p>"
    sources = _sources(found)
    ranked = {t.number: i + 1 for i, t in enumerate(found.measured)}
    settings = found.varied
    head = ["rank", "trial", *(f"<code>{esc(n)}</code>" for n in found.measures)]
    named = ["state", "phase", *(["constraints"] if found.constraints else [])]
    choose = [len(head) + i for i in range(len(named))]
    head += named
    head += [f"{esc(s)}<small>asked, realised</small>" for s in sources]
    head += [f"<code>{esc(n)}</code>" for n in settings]
    head += ["tokens", "new tokens", "stages made", "time", "error"]
    rows = [_row(found, t, ranked, sources, settings) for t in found.trials]
    made = sortable("Trials of the search", head, rows, "numbers trials", choose)
    first = found.first
    by = f" by <code>{esc(first.name)}</code>" if first else ""
    order = [" done before stopped ones"]
    if any(t.phase == "swarm" for t in found.trials):
        order.append("full trials before the small runs of the swarm")
    if found.constraints:
        order.append("those that meet the constraints before the others")
    printed = ""
    if len(found.trials) > ROWS_PRINTED:
        printed = (
            f' <span class="printed">On paper the table has the first {ROWS_PRINTED} rows.</span>'
        )
    return (
        heading
        + made
        + note(
            f"Ranked{by},{', '.join(order)}. A value stands over its 95 % interval; a share that"
            " was asked for over the realised one. <i>Tokens</i> are those of a trial's whole path,"
            f" <i>new tokens</i> those that no other trial or run had trained before.{printed}"
        )
    )


def _sources(found: Found) -> list[str]:
    """The mixture's sources, then any others that a trial has shares of."""
    names = dict.fromkeys(found.mixture.sources if found.mixture else ())
    names |= dict.fromkeys(s for t in found.trials for s in t.mix)
    return [s for s in names if any(s in t.mix or s in t.realised for t in found.trials)]


def _row(
    found: Found,
    trial: Trial,
    ranked: Mapping[int, int],
    sources: Sequence[str],
    settings: Sequence[str],
) -> list[str | Cell]:
    rank = ranked.get(trial.number)
    said = chosen(found, trial).partition(": ")[2]
    words = "".join(f"<small>{esc(w)}</small>" for w in said.split(", ") if w)
    number_cell = f"<b>{trial.number}</b>{words}" if said else str(trial.number)
    state = f'<span class="warn">{trial.state}</span>' if trial.state == "failed" else trial.state
    row: list[str | Cell] = [
        ("" if rank is None else str(rank), rank),
        (number_cell, trial.number),
        *(_value(found, trial, name) for name in found.measures),
        state,
        esc(trial.phase),
    ]
    if found.constraints:
        row.append({True: "met", False: "not met", None: ""}[trial.feasible])
    row += [_share(trial, s) for s in sources]
    row += [_setting(trial, n) for n in settings]
    made = "" if trial.stages_new is None else count(trial.stages_new)
    if made and trial.stages is not None:
        made += f" of {count(trial.stages)}"
    row += [
        _count(trial.tokens),
        _count(trial.tokens_new),
        (made, trial.stages_new),
        ("" if trial.seconds is None else duration(trial.seconds), trial.seconds),
        f"<small>{esc(trial.error)}</small>" if trial.error else "",
    ]
    return row


def _value(found: Found, trial: Trial, name: str) -> Cell:
    own = trial.values.get(name)
    if own is None:
        return "", None
    bounds = found.bounds(name, own.ci95)
    return found.say(name, own.value) + (f"<small>{bounds}</small>" if bounds else ""), own.value


def _share(trial: Trial, source: str) -> Cell:
    asked, came = trial.mix.get(source), trial.realised.get(source)
    markup = "" if asked is None else fixed(asked, 3)
    if came is not None:
        far = asked is not None and abs(came - asked) > FAR
        markup += f"<small{' class=warn' * far}>{fixed(came, 4)}</small>"
    return markup, asked


def _setting(trial: Trial, name: str) -> Cell:
    if name not in trial.settings:
        return "", None
    value = trial.settings[name]
    x = number(value)
    return esc(shown(value)), shown(value) if x is None else x


def _count(value: float | None) -> Cell:
    return ("" if value is None else count(value)), value


# --------------------------------------------------------------------------------------- sharing


def sharing(found: Found) -> str:
    """Stages by kind, and tokens: needed, made here, and what trials alone would have made."""
    heading, own = "<h3>What was shared</h3>", mapping(found.part.get("sharing"))
    rows = [_shared(esc(kind), entry) for kind, entry in mapping(own.get("by_kind")).items()]
    if mapping(own.get("tokens")):
        rows.append(_shared("<b>tokens trained</b>", own["tokens"]))
    if not rows:
        return f"{heading}<p>The report does not say what the trials shared.</p>"
    head = ["kind of stage", "needed", "made here", "without sharing", "made, of those"]
    return (
        heading
        + table(head, rows, "numbers")
        + note(
            "<i>Needed</i>: different stages of all trials together. <i>Made here</i>: those that"
            " this search made; the rest were in the store before. <i>Without sharing</i>: what the"
            " same trials would have made if each had made all of its own."
        )
    )


def _shared(kind: str, entry: Any) -> list[str]:
    own = mapping(entry)
    made, alone = number(own.get("made")), number(own.get("alone"))
    ratio = f"{made / alone:.2f}" if made is not None and alone else ""
    return [kind, *(count(own.get(k)) for k in ("needed", "made", "alone")), ratio]


# ------------------------------------------------------------------------------- recommended job


def recommended(found: Found) -> str:
    """The job file with the best settings, to copy or to save, and how it is run."""
    own = mapping(found.part.get("recommended"))
    source = word(own.get("source"), "")
    heading = '<h3 id="job">Recommended job</h3>'
    if not source:
        return f"{heading}<p>The report recommends no job file.</p>"
    name = word(own.get("file"), "recommended.py")
    data = base64.b64encode(source.encode("utf-8")).decode("ascii")
    link = (
        f'<a class="save" download="{esc(name)}" href="data:text/x-python;base64,{data}">'
        f"Save {esc(name)}</a>"
    )
    return (
        f"{heading}<p>The best settings as a job of their own. Save it (beside the job of the"
        f" search, where it imports from there) and run it: <code>msm run {esc(name)}</code></p>"
        f'<p class="copy"><code>{esc(name)}</code> {link}</p>'
        f'<pre data-copy="{esc(name)}"><code>{esc(source)}</code></pre>'
    )
