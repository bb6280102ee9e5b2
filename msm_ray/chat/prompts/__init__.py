"""The prompts of conversations, one Markdown file each; filled as those of the corpus are.

``planner`` and ``planner_preferences`` are the system texts of who asks for questions, ``value``,
``rule`` and ``preference`` those of who answers them, ``judge_system`` and
``judge_preference_system`` those of who judges. All that hold the spec begin with it. The system
texts about preferences hold no spec: whoever has not read a reason cannot give it away.
"""

from __future__ import annotations

from msm_ray.corpus.prompts import PromptFolder

CHAT = PromptFolder(__name__)
names, load, fingerprint = CHAT.names, CHAT.load, CHAT.fingerprint
