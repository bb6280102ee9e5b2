"""The stage that turns documents and conversations into packed blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from msm_ray.data import mixture
from msm_ray.data.blocks import write_blocks
from msm_ray.data.packing import pack as pack_blocks
from msm_ray.data.tokens import TokenizedDocuments, encode_conversations, encode_documents
from msm_ray.errors import UserError

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

KINDS = ("documents", "conversations")
LOSS_ON = ("all", "assistant")


def pack(ctx: StageContext) -> dict[str, Any]:
    """Mix the components, tokenize, and pack into blocks.

    Inputs: ``tokenizer``, a Hugging Face folder, and one directory for each component, with
    ``documents.parquet`` (columns id, text) or ``conversations.parquet`` (id, messages).

    Config: ``components``: a list of ``{name, input, kind, share, max_repeats}``; ``tokens``, the
    budget of the mixture (0: everything once); ``block_tokens``; ``seed``; ``loss_on``: which
    tokens of conversations are targets ("all" | "assistant"; documents are targets throughout);
    ``shuffle`` (default true).
    """
    from transformers import AutoTokenizer

    config = ctx.config
    _check(config, ctx.inputs)
    tokenizer = AutoTokenizer.from_pretrained(ctx.inputs["tokenizer"])
    parts = [
        mixture.Component(c["name"], c["share"], c["max_repeats"]) for c in config["components"]
    ]
    sources: list[tuple[str, TokenizedDocuments]] = []
    for index, component in enumerate(config["components"]):
        directory = ctx.inputs[component["input"]]
        sources.append((component["name"], _read(tokenizer, component, directory, config)))
        ctx.progress(0.8 * (index + 1) / len(parts), {"component": component["name"]})
    drawn = mixture.draw(
        parts,
        {name: docs.lengths for name, docs in sources},
        config["tokens"],
        config["seed"],
        shuffle=config.get("shuffle", True),
    )
    pad = tokenizer.pad_token_id
    blocks = pack_blocks(
        sources,
        drawn.component,
        drawn.document,
        config["block_tokens"],
        tokenizer.eos_token_id if pad is None else pad,
    )
    facts: dict[str, Any] = {
        "tokens": int(blocks.tokens.sum()),
        "loss_tokens": int(blocks.loss_tokens.sum()),
        "blocks": len(blocks.tokens),
        "documents": len(drawn.document),
        "padding": 1 - float(blocks.tokens.sum()) / max(1, blocks.input_ids.size),
        "shares": {r.name: r.share for r in drawn.realised},
        "repeats": {r.name: r.repeats for r in drawn.realised},
        "components": [asdict(r) for r in drawn.realised],
    }
    assert facts["tokens"] == drawn.tokens, "packing lost or made tokens"
    if facts["loss_tokens"] == 0:
        raise UserError("pack: no token of the mixture is a target; there is nothing to learn")
    write_blocks(ctx.out, blocks, {**facts, "config": dict(config)})
    ctx.progress(1.0, {"tokens": facts["tokens"]})
    return facts


def _check(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    if config["loss_on"] not in LOSS_ON:
        raise UserError(f"pack: loss_on is {config['loss_on']!r}, allowed are {', '.join(LOSS_ON)}")
    names = [c["name"] for c in config["components"]]
    if len(set(names)) != len(names):
        raise UserError(f"pack: component names have to differ, they are {', '.join(names)}")
    for component in config["components"]:
        if component["kind"] not in KINDS:
            raise UserError(
                f"pack: component {component['name']!r} has kind {component['kind']!r}, "
                f"allowed are {', '.join(KINDS)}"
            )
        if component["input"] not in inputs:
            raise UserError(
                f"pack: component {component['name']!r} reads input {component['input']!r}, "
                f"the inputs are {', '.join(sorted(inputs))}"
            )


def _read(
    tokenizer: Any, component: Mapping[str, Any], directory: Path, config: Mapping[str, Any]
) -> TokenizedDocuments:
    kind = component["kind"]
    path = directory / f"{kind}.parquet"
    if not path.is_file():
        raise UserError(f"pack: component {component['name']!r} needs {path.name} in {directory}")
    column = "text" if kind == "documents" else "messages"
    table = pq.read_table(path, columns=["id", column])
    ids: Sequence[str] = table["id"].to_pylist()
    rows = table[column].to_pylist()
    if kind == "documents":
        return encode_documents(tokenizer, ids, rows)
    return encode_conversations(tokenizer, ids, rows, config["loss_on"])
