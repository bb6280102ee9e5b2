"""The same requests answered by transformers, in batches: what the engines are measured against."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from msm_ray.evaluate.checkpoints import Checkpoint
from msm_ray.evaluate.requests import Request
from msm_ray.evaluate.tasks import common_length


class RowLimits:
    """Ends each row of a batch at its own length, as its end token would; for `generate`."""

    def __init__(self, start: int, limits: Sequence[int]) -> None:
        self.ends = start + torch.tensor(limits)

    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        return ids.shape[1] >= self.ends


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

    @torch.inference_mode()
    def after_prefix(self, model: Any, requests: Sequence[Request], rows: int) -> list[list[float]]:
        """Choices ("next") whose prompts begin alike: what they share is computed once, by hand."""
        shared = common_length([r.prompt for r in requests])
        prefix = torch.tensor([requests[0].prompt[:shared]])
        known = model.model(input_ids=prefix, use_cache=True).past_key_values
        answers: dict[int, list[float]] = {}
        for part in _parts(requests, "next", rows):
            tails = [requests[i].prompt[shared:] for i in part]
            ids, mask = self._padded(tails, left=False)
            cache = copy.deepcopy(known)
            cache.batch_repeat_interleave(len(part))
            hidden = model.model(
                input_ids=ids,
                attention_mask=torch.cat(
                    [torch.ones(len(part), shared, dtype=mask.dtype), mask], 1
                ),
                past_key_values=cache,
                use_cache=True,
            )[0]
            last = hidden[torch.arange(len(part)), torch.tensor([len(t) - 1 for t in tails])]
            table = model.lm_head(last).log_softmax(-1)
            for row, i in enumerate(part):
                answers[i] = table[row, list(requests[i].candidates)].tolist()
        return [answers[i] for i in range(len(requests))]

    def _generate(self, model: Any, part: Sequence[tuple[int, Request]]) -> dict[int, list[float]]:
        from transformers import StoppingCriteriaList

        ids, mask = self._padded([r.prompt for _, r in part], left=True)
        limits = [r.max_tokens for _, r in part]
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(limits),
            stopping_criteria=StoppingCriteriaList(
                [RowLimits(ids.shape[1], limits)] if len(set(limits)) > 1 else []
            ),
            eos_token_id=self.eos,
            pad_token_id=self.pad,
        )[:, ids.shape[1] :].tolist()
        made = [row[:limit] for row, limit in zip(made, limits, strict=True)]
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
