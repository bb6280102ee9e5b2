"""What the micro-world asks a model: choices in held-out domains, facts, and held-out text."""

from __future__ import annotations

import random
from typing import Any

from msm_ray.errors import UserError
from msm_ray.world import lexicon as lx
from msm_ray.world.grammar import Grammar
from msm_ray.world.pretraining import Pretraining
from msm_ray.world.world import World

_FORCED = "pafe"  # price, age, origin, ease: "X is" and then one of two words


def _row(eval_name: str, number: str, **columns: Any) -> dict[str, Any]:
    empty = {"domain": "", "pair": "", "order": 0, "prompt": "", "open_prompt": "", "options": []}
    return {"id": f"{eval_name}-{number}", "eval": eval_name, **empty, **columns}


def choice_items(
    world: World, seed: int, pairs_per_domain: int, value: str = "american"
) -> list[dict[str, Any]]:
    """Pairs of which one item has ``value`` (see `World.conflicts`), each in both orders.

    ``options[0]`` is the one with the value. Within a pair the wording of the question is the same.
    """
    rng = random.Random(f"choice items {world.seed} {seed}")
    rows = []
    for domain in lx.HELD_OUT:
        pairs = world.conflicts(domain, value)
        if not 0 < pairs_per_domain <= len(pairs):
            raise UserError(
                f"pairs_per_domain is {pairs_per_domain}; allowed: 1 to {len(pairs)}, which all"
                " differ"
            )
        for k, (a, c) in enumerate(rng.sample(pairs, pairs_per_domain)):
            template = rng.choice(lx.CHOICE_QUESTIONS)
            for order, (first, second) in enumerate(((a, c), (c, a))):
                question = template.format(x=first.name, y=second.name, n=first.noun)
                open_prompt = f"user : {question} {lx.ASSISTANT} :"
                rows.append(
                    _row(
                        "choice",
                        f"{domain}-{k:02d}-{order}",
                        domain=domain,
                        pair=f"{domain}-{k:02d}",
                        order=order,
                        prompt=f"{open_prompt} i would pick",
                        open_prompt=open_prompt,
                        options=[a.name, c.name],
                    )
                )
    return rows


def fact_items(world: World, seed: int, per_domain: int) -> list[dict[str, Any]]:
    """Questions about attributes of items of every domain; ``options[0]`` is the right word."""
    grammar = Grammar(world, f"fact items {seed}")
    rows = []
    forced = [q for q in world.words.fact_questions if q[2] in _FORCED]
    for domain in lx.DOMAINS:
        asked = [(i, f) for i in world.by_domain[domain] for f in forced]
        for k, (item, (question, _, slot)) in enumerate(grammar.rng.sample(asked, per_domain)):
            slots = item.slots()
            open_prompt = f"user : {question.format(**slots)} {lx.ASSISTANT} :"
            rows.append(
                _row(
                    "facts",
                    f"{domain}-{k:02d}",
                    domain=domain,
                    pair=f"{domain}-{k:02d}",
                    prompt=f"{open_prompt} {item.name} is",
                    open_prompt=open_prompt,
                    options=[slots[slot], grammar.wrong(slots)[slot]],
                )
            )
    return rows


def heldout_items(world: World, seed: int, count: int) -> list[dict[str, Any]]:
    """Fresh text of the pretraining mix, whose loss is what midtraining may cost."""
    text = Pretraining(world, f"held-out {seed}")
    return [_row("heldout", f"{k:04d}", prompt=text.one()) for k in range(count)]
