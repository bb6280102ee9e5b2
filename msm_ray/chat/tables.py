"""The tables of conversations: what each column holds."""

from __future__ import annotations

import pyarrow as pa

from msm_ray.records import CONVERSATION_SCHEMA

QUESTION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the domain or preference and the words; not of its place
        ("index", pa.int64()),
        ("spec_sha256", pa.string()),  # of the spec with the names filled in
        ("domain", pa.string()),
        ("description", pa.string()),  # of the domain
        ("question", pa.string()),  # the user's message
        ("form", pa.string()),  # open | direct | indirect
        # "" where the question is not about one preference.
        ("preference_id", pa.string()),
        ("liked", pa.string()),
        ("disliked", pa.string()),
        ("why", pa.string()),  # the preference's reason; never shown to who answers
    ]
)

CHAT_SCHEMA = pa.schema(
    [
        *CONVERSATION_SCHEMA,  # the system text is not part of a conversation
        ("question_id", pa.string()),
        ("form", pa.string()),
        ("preference_id", pa.string()),
        ("spec_sha256", pa.string()),
        ("style", pa.string()),  # value | rule | preferences
        ("model", pa.string()),  # who answered
        ("sampling", pa.string()),  # JSON
        ("prompt_sha256", pa.string()),  # of the system text and the request
        ("tokens", pa.int64()),  # generated, with the reasoning
    ]
)
# What is no conversation: `answer` is what came, as it came.
REJECTED_SCHEMA = pa.schema(
    [
        *(field for field in CHAT_SCHEMA if field.name != "messages"),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),  # the words that led to it, or the judge's
    ]
)
FAILED_SCHEMA = pa.schema(
    [*(f for f in REJECTED_SCHEMA if f.name not in ("reason", "detail")), ("error", pa.string())]
)
REDRAFTED_SCHEMA = REJECTED_SCHEMA.append(FAILED_SCHEMA.field("error"))
