"""Fingerprints as vLLM computes them: ``python vllm_prints.py JOBS OUT``.

JOBS is a JSON list of [model folder, adapter folder or null, folder whose fingerprint is asked
for]; OUT gets the log-probabilities of each. A process of its own: vLLM configures it as a whole.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from msm_ray.evaluate.engine_settings import environment


def logprobs(model: str, adapter: str | None, asked: dict[str, Any]) -> list[list[float]]:
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest

    more: dict[str, Any] = {}
    if adapter is not None:
        more = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 1}
    llm = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=8,
        kv_cache_memory_bytes=32 * 2**20,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        generation_config="vllm",
        **more,
    )
    prompts = [TokensPrompt(prompt_token_ids=p) for p in asked["prompts"]]
    params = [
        SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=ids, detokenize=False)
        for ids in asked["token_ids"]
    ]
    request = None if adapter is None else LoRARequest("adapter", 1, adapter)
    outputs = llm.generate(prompts, params, use_tqdm=False, lora_request=request)
    rows = [
        [float(output.outputs[0].logprobs[0][token].logprob) for token in ids]
        for output, ids in zip(outputs, asked["token_ids"], strict=True)
    ]
    del llm
    gc.collect()
    return rows


def main() -> None:
    os.environ.update(environment(1))
    jobs = json.loads(Path(sys.argv[1]).read_text())
    found = [
        logprobs(model, adapter, json.loads((Path(folder) / "fingerprint.json").read_text()))
        for model, adapter, folder in jobs
    ]
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
