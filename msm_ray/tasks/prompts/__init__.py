"""The prompts of tasks, one Markdown file each; see `msm_ray.corpus.prompts`."""

from __future__ import annotations

from msm_ray.corpus.prompts import PromptFolder

TASKS = PromptFolder(__name__)
names, load, fingerprint = TASKS.names, TASKS.load, TASKS.fingerprint
