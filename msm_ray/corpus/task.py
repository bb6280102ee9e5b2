"""What a corpus is about: the part of writing documents that knows their world."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from msm_ray.errors import UserError

Plan = Mapping[str, Any]  # one row of PLAN_SCHEMA


class CorpusTask(Protocol):
    """How to read and judge what a writer wrote about a plan. Pure: no model, no clock.

    ``reasons``: every reason for which it rejects, and what that means to a reader.
    """

    reasons: Mapping[str, str]

    def parse(self, plan: Plan, completion: str) -> str:
        """The document in a completion; ValueError(reason) if there is none."""
        ...

    def verdict(self, plan: Plan, text: str) -> str | None:
        """Why the document is rejected, the same few words for like cases; else None."""
        ...

    def write(self, plan: Plan) -> str:
        """A completion for the plan without a model: the scripted writer."""
        ...


def load_task(name: str, arguments: Mapping[str, Any]) -> CorpusTask:
    """Make the task ``package.module:Class`` with ``arguments``; UserError if it cannot be made."""
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
        task: CorpusTask = factory(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"corpus task {name!r} with {dict(arguments)}: {error}") from error
    missing = [m for m in ("parse", "verdict", "write") if not callable(getattr(task, m, None))]
    missing += ["reasons"] * (not hasattr(task, "reasons"))
    if missing:
        raise UserError(f"corpus task {name!r} has no {', '.join(missing)}")
    return task
