"""The same requests answered by transformers, in batches: what the engines are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.evaluate.requests import Request


class Transformers:
    """A model at a time; adapters are merged into their base, which is faster than beside it."""

    def __init__(self, eos: int, pad: int) -> None:
        self.eos, self.pad = eos, pad

    def load(self, checkpoint: Checkpoint) -> Any:
        from transformers import AutoModelForCausalLM

        folder = (checkpoint.base or checkpoint).path
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if checkpoint.base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, checkpoint.path).merge_and_unload()
        return model.eval()

    @torch.inference_mode()
    def answer(
        self, model: Any, requests: Sequence[Request], score_rows: int, generate_rows: int
    ) -> list[list[float]]:
        """As an engine answers; prompts of like length share a batch."""
        answers: dict[int, list[float]] = {}
        for kind, rows in (("next", score_rows), ("sequence", score_rows)):
            for part in _parts(requests, kind, rows):
                answers.update(self._score(model, [(i, requests[i]) for i in part], kind))
        for part in _parts(requests, "generate", generate_rows):
            answers.update(self._generate(model, [(i, requests[i]) for i in part]))
        return [answers[i] for i in range(len(requests))]

    def _score(
        self, model: Any, part: Sequence[tuple[int, Request]], kind: str
    ) -> dict[int, list[float]]:
        lengths = torch.tensor([len(r.prompt) for _, r in part])
        ids, mask = self._padded([r.prompt for _, r in part], left=False)
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        if kind == "next":  # the head for the last token of each prompt only
            last = hidden[torch.arange(len(part)), lengths - 1]
            table = model.lm_head(last).log_softmax(-1)
            return {i: table[row, list(r.candidates)].tolist() for row, (i, r) in enumerate(part)}
        table = model.lm_head(hidden[:, :-1]).log_softmax(-1)
        found = table.gather(-1, ids[:, 1:, None])[..., 0].tolist()
        return {i: found[row][r.start - 1 : len(r.prompt) - 1] for row, (i, r) in enumerate(part)}

    def _generate(self, model: Any, part: Sequence[tuple[int, Request]]) -> dict[int, list[float]]:
        ids, mask = self._padded([r.prompt for _, r in part], left=True)
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=part[0][1].max_tokens,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )[:, ids.shape[1] :].tolist()
        ends = [row.index(self.eos) if self.eos in row else len(row) for row in made]
        return {i: made[row][: ends[row]] for row, (i, _) in enumerate(part)}

    def _padded(self, prompts: Sequence[Sequence[int]], left: bool) -> tuple[Any, Any]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            at = slice(width - len(prompt), width) if left else slice(0, len(prompt))
            ids[row, at], mask[row, at] = torch.tensor(prompt), 1
        return ids, mask


def _parts(requests: Sequence[Request], kind: str, rows: int) -> list[list[int]]:
    chosen = [i for i, r in enumerate(requests) if r.kind == kind]
    chosen.sort(key=lambda i: len(requests[i].prompt))
    return [chosen[i : i + rows] for i in range(0, len(chosen), rows)]
