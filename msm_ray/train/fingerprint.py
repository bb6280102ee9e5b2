"""The logprob fingerprint: numbers by which a served model is recognised as this checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from msm_ray.data.order import permutation
from msm_ray.train.model import load_model

FINGERPRINT_FILE = "fingerprint.json"
# Tokens of each prompt. Prefix caches keep whole blocks (16 to 128 tokens): the long prompts fill
# some, so that an engine whose cache is of other weights answers them wrongly and is found out.
PROMPT_TOKENS = (8, 12, 48, 120)
LIKELY = 4  # most likely next tokens of this model
DRAWN = 4  # tokens drawn from the vocabulary


def fingerprint(model: Any) -> dict[str, list[list[float]] | list[list[int]]]:
    """Next-token logprobs (nats, fp32) of a few tokens after a few prompts.

    ``prompts``: token ids, the same for every model of one vocabulary size: an engine that still
    serves the weights it had before answers them with numbers of the other checkpoint.
    ``token_ids``: the next tokens looked at, ``logprobs``: their values.
    """
    vocabulary = model.config.vocab_size
    bos = model.config.bos_token_id
    prompts, token_ids, logprobs = [], [], []
    longest = model.config.max_position_embeddings - 1  # an engine answers with one token more
    for number, length in enumerate(PROMPT_TOKENS):
        drawn = permutation(vocabulary, "fingerprint", number).tolist()
        prompt = [drawn[i % vocabulary] for i in range(min(length, longest))]
        if bos is not None:
            prompt = [bos, *prompt[1:]]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
        values = logits.float().log_softmax(-1)
        tokens = values.topk(min(LIKELY, vocabulary)).indices.tolist()
        rest = [t for t in reversed(drawn) if t not in tokens]
        tokens += rest[:DRAWN]
        prompts.append(prompt)
        token_ids.append(tokens)
        logprobs.append(values[tokens].tolist())
    return {"prompts": prompts, "token_ids": token_ids, "logprobs": logprobs}


def write_fingerprint(directory: Path) -> None:
    """Compute the fingerprint of the weights as they lie in ``directory``, and put it there."""
    model = load_model(directory).eval()
    text = json.dumps(fingerprint(model), indent=1)
    (directory / FINGERPRINT_FILE).write_text(text + "\n")
