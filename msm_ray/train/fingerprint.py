"""The logprob fingerprint: numbers by which a served model is recognised as this checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from msm_ray.data.order import permutation
from msm_ray.train.lora import is_adapter, load_adapted
from msm_ray.train.model import load_model

FINGERPRINT_FILE = "fingerprint.json"
# Tokens of each prompt. Prefix caches keep whole blocks (16 to 128 tokens): the long prompts fill
# some, so that an engine whose cache is of other weights answers them wrongly and is found out.
PROMPT_TOKENS = (8, 12, 48, 120)
LIKELY = 4  # most likely next tokens of this model
DRAWN = 4  # tokens drawn from the vocabulary


def fingerprint(model: Any) -> dict[str, Any]:
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


def write_fingerprint(directory: Path, base: Path | None = None) -> None:
    """Compute the fingerprint of the weights as they lie in ``directory``, and put it there.

    ``base``: the model below, where ``directory`` is an adapter.
    """
    if is_adapter(directory):
        assert base is not None, "an adapter is nothing without its base"
        model = load_adapted(directory, base)
    else:
        model = load_model(directory)
    text = json.dumps(fingerprint(model.eval()), indent=1)
    (directory / FINGERPRINT_FILE).write_text(text + "\n")


def fingerprint_of(directory: Path) -> dict[str, Any]:
    """The fingerprint in a model's folder; of a folder without one, that of its weights."""
    path = directory / FINGERPRINT_FILE
    if path.is_file():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    return fingerprint(load_model(directory).eval())


def same_fingerprint(one: Mapping[str, Any], other: Mapping[str, Any], atol: float = 1e-3) -> bool:
    """Whether two fingerprints are of the same weights, up to rounding (``atol`` in nats)."""
    if (one["prompts"], one["token_ids"]) != (other["prompts"], other["token_ids"]):
        return False
    pairs = zip(one["logprobs"], other["logprobs"], strict=True)
    return all(abs(a - b) <= atol for row, same in pairs for a, b in zip(row, same, strict=True))
