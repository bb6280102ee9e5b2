"""What a plan of a corpus is made from: the counts at each level, the assistant, how to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from msm_ray.errors import UserError
from msm_ray.llm.protocol import Sampling
from msm_ray.spec import is_line

MODES = ("model", "rules", "structure")
MOST = 100_000  # of anything at one level: more is a slip of the keyboard
# The counts that a mode asks for; the others come from the spec itself, or have no level.
_COUNTS = {
    "model": ("domains", "subdomains", "assertions", "types", "ideas"),
    "rules": ("domains", "types", "ideas"),
    "structure": ("types", "ideas"),
}


@dataclass(frozen=True)
class HierarchyConfig:
    """How a spec becomes a plan.

    ``mode``: "model" (a model divides the spec into domains, subdomains, assertions, types and
    ideas), "rules" (the same for a spec of numbered rules: domains, rules, types, ideas) or
    "structure" (headings, built-in types and templates: no model at all, for a try).

    ``assistant`` and ``maker``: the trained model's, as documents name them. ``domains`` in all;
    ``subdomains`` a domain, ``assertions`` and ``types`` a subdomain (or rule), ``ideas`` a
    subdomain and type. Rules mode takes subdomains from the rules and has no assertions; structure
    mode takes domains and subdomains from the headings and, where ``assertions`` is 0, all of a
    section's sentences. ``words``: the length of a document.

    ``rounds``: how often more items are asked for when too few came back, ``per_answer``: the most
    that one answer is asked for. ``spec_tokens``: the longest spec. ``sampling``: how the planning
    answers are drawn; structure mode needs none.
    """

    mode: str
    assistant: str
    maker: str
    types: int
    ideas: int
    words: int
    domains: int = 0
    subdomains: int = 0
    assertions: int = 0
    rounds: int = 3
    per_answer: int = 25
    spec_tokens: int = 100_000
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"plan.mode is {self.mode!r}; allowed: {', '.join(MODES)}")
        for name in ("assistant", "maker"):
            value = getattr(self, name)
            if not isinstance(value, str) or not is_line(value):
                raise UserError(f"plan.{name} is {value!r}; needed is a name on one line")
        counted = (*_COUNTS[self.mode], "words", "per_answer", "spec_tokens")
        for name in (*_COUNTS["model"], "words", "rounds", "per_answer", "spec_tokens"):
            least, most = int(name in counted), 10**9 if name == "spec_tokens" else MOST
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UserError(
                    f"plan.{name} is {value!r}; allowed in mode {self.mode!r}: "
                    f"{least} to {most}, a whole number"
                )
        if self.mode != "structure" and self.sampling is None:
            raise UserError(f"plan.sampling is missing; mode {self.mode!r} asks a model")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HierarchyConfig:
        """Read a stage's config: the fields by name, ``sampling`` as `Sampling.from_config` does.

        Raises:
            UserError: a field is unknown, missing or not allowed.
        """
        known = {field.name for field in fields(cls)}
        needed = {"mode", "assistant", "maker", "types", "ideas", "words"}
        if unknown := sorted(set(config) - known):
            raise UserError(f"plan has {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
        if missing := sorted(needed - set(config)):
            raise UserError(f"plan lacks {', '.join(missing)}")
        values = dict(config)
        if values.get("sampling") is not None:
            values["sampling"] = Sampling.from_config(values["sampling"])
        return cls(**values)

    def sampling_for(self, schema: str) -> Sampling:
        """How answers bound by a JSON schema are drawn."""
        assert self.sampling is not None, "structure mode asks no model"
        return replace(self.sampling, schema=schema)
