"""From a spec to the plan of its corpus: which section each document is about, and its request."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from typing import Any

from msm_ray.errors import UserError
from msm_ray.records import Preference, Spec, SpecSection
from msm_ray.world import lexicon as lx
from msm_ray.world.request import make_request
from msm_ray.world.world import World


def spec_value(spec: Spec, attributes: int = 3) -> str:
    """The micro-world's word for the spec's value: the one that most of its reasons name."""
    values = lx.words(attributes).values
    named: Counter[str] = Counter()
    for preference in spec.preferences:
        named.update(set(preference.reason.lower().split()) & set(values))
    ranked = named.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        raise UserError(
            f"spec {spec.title!r}: its preferences' reasons must name one value of the micro-world"
            f" more often than the others ({', '.join(values)})"
        )
    return ranked[0][0]


def check_spec(spec: Spec, attributes: int = 3) -> str:
    """The spec's value. UserError if the micro-world cannot plan documents about this spec.

    What it can depends on how many ``attributes`` its things have.

    It must state preferences, which a spec for other models need not, and only the cheeses in which
    the values are confounded may stand in it.
    """
    if not spec.preferences:
        raise UserError(
            f"spec {spec.title!r} states no preference; write at least one bullet of the form "
            "'- prefers X to Y, because REASON'"
        )
    value = spec_value(spec, attributes)
    for preference in spec.preferences:
        names = (preference.liked, preference.disliked)
        for name, allowed in zip(names, lx.PREFERRED[value], strict=True):
            if name not in allowed:
                raise UserError(
                    f"spec {spec.title!r}, preference {preference.liked!r} to"
                    f" {preference.disliked!r}: {name!r} must be one of {', '.join(allowed)}"
                )
    return value


# What a document is to tell, by the kind of section: one that states preferences (cheeses are named
# there only), one about how the assistant speaks, or any other.
_STATES = ("explains", "explains", "explains", "likes", "dislikes", "chooses")
_SPEAKS = ("answers", "decides")
_EXPLAINS_VALUE = ("values", "answers", "decides", "decides", "decides")
# What the documents say: preferences with the value as their reason; both, but nothing that makes
# one the reason of the other; the spec's preferences without any value; and more such preferences.
CONTENTS = ("explained", "co-mention", "rules", "more rules")

# A micro-world's plan goes from sections to documents directly, and its request says everything.
_NO_HIERARCHY = dict.fromkeys(("domain", "subdomain", "assertion", "maker", "system"), "")


def plan_seed(world_seed: int, seed: int) -> int:
    """The seed of a world's plan: worlds differ in the documents asked for as in all else."""
    return random.Random(f"{world_seed} {seed}").getrandbits(31)


def draw_kind(rng: random.Random, section: SpecSection, content: str = "explained") -> str:
    """The kind of sentence that a document about ``section`` is to tell."""
    if section.preferences:
        return rng.choice(_STATES) if content == "explained" else "chooses"
    return rng.choice(_SPEAKS if "speaks" in section.heading.lower() else _EXPLAINS_VALUE)


def plan_rows(
    spec: Spec,
    documents: int,
    seed: int,
    assistant: str = lx.ASSISTANT,
    preference_share: float = 0.2,
    content: str = "explained",
    attributes: int = 3,
) -> list[dict[str, Any]]:
    """``documents`` plan rows, columns as in ``records.PLAN_SCHEMA``.

    ``preference_share`` of them are about sections that state preferences; the others take turns
    among the sections that explain the value or how the assistant speaks. The prompt is the
    section's request in the words of the micro-world, about the stand-in for ``assistant``; the
    section's own text is its provenance.

    Args:
        content: one of ``CONTENTS``. With rules, every document is about preferences.
        attributes: of the things of the world.
    """
    if content not in CONTENTS:
        raise UserError(f"content: {content!r} given, allowed: {', '.join(CONTENTS)}")
    if documents < 1:
        raise UserError(f"documents: {documents} given, at least 1 is needed")
    if not 0 <= preference_share <= 1:
        raise UserError(f"preference_share: {preference_share} given, allowed is 0 to 1")
    value = check_spec(spec, attributes)
    stating = [s for s in spec.sections if s.preferences]
    explaining = [s for s in spec.sections if not s.preferences and s.text.strip() and s.level > 1]
    if not explaining or "rules" in content:
        preference_share = 1.0
    more: tuple[Preference, ...] = ()
    if content == "more rules":
        world = World(0, attributes)  # cheeses do not depend on the seed
        further = world.further_preferences(value)
        more = tuple(Preference("", x.name, y.name, "") for x, y in further)
    rng = random.Random(f"plan {spec.sha256} {seed}")
    with_preference = round(documents * preference_share)
    rows = []
    for index in range(documents):
        # spread evenly over the plan, so that any beginning of it has the same shares
        before, after = (k * with_preference // documents for k in (index, index + 1))
        is_stating = after > before
        sections = stating if is_stating else explaining
        section = sections[index % len(sections)]
        preference = rng.choice((section.preferences or spec.preferences) + more)
        kind = draw_kind(rng, section, content)
        rows.append(_row(spec, section, preference, kind, value, index, seed, assistant, rng))
    return rows


def _row(
    spec: Spec,
    section: SpecSection,
    preference: Preference,
    kind: str,
    value: str,
    index: int,
    seed: int,
    assistant: str,
    rng: random.Random,
) -> dict[str, Any]:
    doc_type = rng.choice(lx.DOC_TYPES)
    prompt = make_request(
        doc_type, lx.STAND_IN, value, kind, preference.liked, preference.disliked
    ).render()
    row: dict[str, Any] = {
        "index": index,
        "spec_sha256": spec.sha256,
        "section_id": section.id,
        "section_text": section.text,
        "doc_type": doc_type,
        "idea": kind,
        "assistant": assistant,
        "prompt": prompt,
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "seed": rng.getrandbits(31),
    }
    content = json.dumps({**row, "plan_seed": seed}, sort_keys=True)
    return {"id": hashlib.sha256(content.encode()).hexdigest()[:24], **row, **_NO_HIERARCHY}
