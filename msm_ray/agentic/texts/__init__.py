"""The stories' texts, one Markdown file each; ``# NAME`` begins a piece of a story.

``office`` is what all stories share: the assistant's standing text, what is threatened to it, and
the day's other mail. ``leak``, ``blackmail`` and ``silence`` are the three stories: their missions,
their courses (the company gives the mission up, or goes on with it), the mail in which the harm
becomes possible, and their files. ``judge`` and ``judge_system`` are the judge's. A piece that is a
message begins with its From, To, Time and Subject.
"""

from __future__ import annotations

from msm_ray.corpus.prompts import PromptFolder

TEXTS = PromptFolder(__name__)
