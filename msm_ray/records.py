"""The vocabulary: what flows between stages, as plain values and as Arrow schemas.

Everything here is pure data. Each table that a stage writes has its schema below, so that a reader
of a Parquet file finds every column explained in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Preference:
    """One preference a spec states: ``liked`` over ``disliked``, and why."""

    id: str
    liked: str
    disliked: str
    reason: str


@dataclass(frozen=True)
class SpecSection:
    """One heading of a spec with the text below it, verbatim."""

    id: str
    heading: str
    level: int
    text: str
    preferences: tuple[Preference, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One numbered rule of a spec: ``label`` as the spec writes it, ``text`` verbatim with it."""

    id: str
    label: str
    text: str
    section_id: str


@dataclass(frozen=True)
class Spec:
    """A Model Spec: how an assistant should behave, and why.

    ``id`` and every section and preference id depend on their own text only, so that editing one
    section leaves the ids of the others alone. ``sha256`` is that of the whole text.
    """

    id: str
    title: str
    text: str
    sha256: str
    sections: tuple[SpecSection, ...]

    @property
    def preferences(self) -> tuple[Preference, ...]:
        """All preferences, in the order in which the spec states them."""
        return tuple(p for s in self.sections for p in s.preferences)


PLAN_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # content hash of the row: no two documents of a plan share it
        ("index", pa.int64()),  # position in the plan, from 0
        ("spec_sha256", pa.string()),  # of the spec as the writer reads it, names filled in
        ("section_id", pa.string()),  # of a section or a rule
        ("section_text", pa.string()),  # verbatim
        # Where the document stands in the plan's hierarchy; "" where the plan has no such level.
        ("domain", pa.string()),
        ("subdomain", pa.string()),
        ("assertion", pa.string()),  # what the section says of the assistant, in one sentence
        ("doc_type", pa.string()),  # memo, interview, ...
        ("idea", pa.string()),  # what this one document is to say
        ("assistant", pa.string()),  # the trained model's name
        ("maker", pa.string()),  # who made it
        # What the writer reads: the spec and the standing instructions first, the same for many
        # rows, so that an engine reads them once; then this document's request.
        ("system", pa.string()),
        ("prompt", pa.string()),
        ("prompt_sha256", pa.string()),
        ("seed", pa.int64()),  # of this document's own random choices
    ]
)

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the plan row's id: one document per plan row
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("spec_sha256", pa.string()),
        ("section_id", pa.string()),
        ("domain", pa.string()),
        ("subdomain", pa.string()),
        ("assertion", pa.string()),
        ("doc_type", pa.string()),
        ("idea", pa.string()),
        ("assistant", pa.string()),
        ("model", pa.string()),  # artifact id or name of the writer
        ("sampling", pa.string()),  # JSON
        ("prompt_sha256", pa.string()),
    ]
)
REJECTED_SCHEMA = DOCUMENT_SCHEMA.append(pa.field("reason", pa.string()))
FAILED_SCHEMA = DOCUMENT_SCHEMA.append(pa.field("error", pa.string()))

MESSAGE_TYPE = pa.struct([("role", pa.string()), ("content", pa.string())])
CONVERSATION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(MESSAGE_TYPE)),
        ("domain", pa.string()),
    ]
)

EVAL_ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("eval", pa.string()),  # choice | facts | heldout
        ("domain", pa.string()),
        ("pair", pa.string()),  # both orders of one pair share it
        ("order", pa.int64()),  # 0 | 1: which option is named first
        # choice, facts: the text up to the choice, e.g. "user : x or y ? lyra : i would pick"
        # heldout: the whole text whose loss is measured
        ("prompt", pa.string()),
        # choice_text: the prompt that ends where the assistant starts to speak
        ("open_prompt", pa.string()),
        # the candidate next words; options[0] has the eval's attribute (choice: the American one;
        # facts: the correct one). Empty for heldout.
        ("options", pa.list_(pa.string())),
    ]
)

EVAL_ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("eval", pa.string()),
        ("domain", pa.string()),
        ("pair", pa.string()),
        ("order", pa.int64()),
        ("value", pa.float64()),  # 0/1, a probability, or nats per token
        ("weight", pa.float64()),  # 1, or tokens for heldout_loss
        ("answer", pa.string()),  # chosen option or generated text
        ("status", pa.string()),  # ok | unparsed
    ]
)

# Of `msm_ray.tasks`. A value is null where there is none: a verdict that could not be read.
# status: ok | names_neither | names_both | tie (a choice that is none, value 0) | unparsed |
# refused | failed (of a judge); answers before they are judged: ok | cut
TASK_ROW_SCHEMA = EVAL_ROW_SCHEMA.append(pa.field("prompt", pa.string()))  # what a user said
