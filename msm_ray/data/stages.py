"""The stage that turns documents and conversations into packed blocks.

Two passes over data that need not fit in memory: tokenize each component into a cache on disk, then
draw the mixture from the documents' lengths and pack it, window by window, into shards. In windowed
order it is one pass, which can begin while documents are still being written.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from msm_ray.data import mixture, windowed
from msm_ray.data.blocks import MANIFEST_FILE, BlockWriter
from msm_ray.data.cache import CacheWriter, open_cache
from msm_ray.data.feed import follow
from msm_ray.data.packing import pack_windows
from msm_ray.data.stream import StreamWriter
from msm_ray.data.tokens import ROWS, Encoder, TokenizedDocuments
from msm_ray.errors import UserError

if TYPE_CHECKING:
    from msm_ray.stage import StageContext

KINDS = ("documents", "conversations")
LOSS_ON = ("all", "assistant")
ORDERS = ("shuffled", "windowed")


def pack(ctx: StageContext) -> dict[str, Any]:
    """Mix the components, tokenize, and pack into blocks.

    Inputs: ``tokenizer``, a Hugging Face folder, and one directory for each component, with
    ``documents.parquet`` (columns id, text) or ``conversations.parquet`` (id, messages).

    Config: ``components``: a list of ``{name, input, kind, share, max_repeats}``; ``tokens``, the
    budget of the mixture (0: everything ``epochs`` times, by default once); ``block_tokens``;
    ``seed``; ``loss_on``: which tokens of conversations are targets ("all" | "assistant"; documents
    are targets throughout); ``shuffle`` (default true). ``order`` "shuffled" (default) draws the
    mixture from all documents; "windowed" takes them as they come, see :func:`_pack_windowed`.

    Rows without a target are refused before the mixture is drawn; ``refused`` counts them. ``cut``
    counts the documents that fit in a block and were cut all the same, to fill others.
    """
    from transformers import AutoTokenizer

    config = ctx.config
    _check(config, ctx.inputs)
    tokenizer = AutoTokenizer.from_pretrained(ctx.inputs["tokenizer"])
    parts = [
        mixture.Component(c["name"], c["share"], c["max_repeats"]) for c in config["components"]
    ]
    if config.get("order", "shuffled") == "windowed":
        return _pack_windowed(ctx, tokenizer, parts)
    sources: list[tuple[str, TokenizedDocuments]] = []
    refused: dict[str, dict[str, int]] = {}
    for index, component in enumerate(config["components"]):
        name = component["name"]
        docs, refused[name] = _tokenize(ctx, tokenizer, component, index)
        sources.append((name, docs))
        ctx.progress(0.8 * (index + 1) / len(parts), {"component": name})
    drawn = mixture.draw(
        parts,
        {name: docs.lengths for name, docs in sources},
        config["tokens"],
        config["seed"],
        epochs=config.get("epochs"),
        shuffle=config.get("shuffle", True),
    )
    pad = tokenizer.pad_token_id
    writer = BlockWriter(ctx.out, config["block_tokens"])
    cut = done = 0
    for window in pack_windows(
        sources,
        drawn.component,
        drawn.document,
        config["block_tokens"],
        tokenizer.eos_token_id if pad is None else pad,
        # A cut would part what the assistant says from what it was asked.
        whole=[c["kind"] == "conversations" for c in config["components"]],
    ):
        writer.add(window.blocks)
        cut += window.cut
        done += window.documents
        for name, tokens in window.refused.items():
            refused[name]["block_tokens"] += tokens
        ctx.progress(0.8 + 0.2 * done / len(drawn.document), {"blocks": writer.total("blocks")})
    facts = _facts(writer, drawn, refused, cut)
    if facts["loss_tokens"] == 0:
        raise UserError("pack: no token of the mixture is a target; there is nothing to learn")
    writer.finish({**facts, "config": dict(config)})
    ctx.progress(1.0, {"tokens": facts["tokens"]})
    return facts


def _pack_windowed(
    ctx: StageContext, tokenizer: Any, parts: Sequence[mixture.Component]
) -> dict[str, Any]:
    """Pack exactly the blocks that hold ``tokens``, window by window, and publish them meanwhile.

    A component that says ``in_order`` is read as its rows come, and its input may still be being
    written; the rest of it is left alone once there are enough blocks. ``window_blocks``: blocks in
    a window. Killed and called again, it goes on behind the last window that was committed.
    """
    config = ctx.config
    pad = tokenizer.pad_token_id
    blocks = math.ceil(config["tokens"] / config["block_tokens"])
    passes: dict[str, windowed.Pass] = {}
    refused: dict[str, dict[str, int]] = {}
    for index, component in enumerate(config["components"]):
        name = component["name"]
        if component.get("in_order"):
            refused[name] = _nothing_refused()
            folder = ctx.work / "tokens" / str(index)
            rows = _as_they_come(ctx, tokenizer, component)
            passes[name] = windowed.growing_passes(
                rows, name, config["seed"], folder, refused[name]
            )
        else:
            docs, refused[name] = _tokenize(ctx, tokenizer, component, index)
            passes[name] = windowed.shuffled_passes(docs, name, config["seed"])
    mixed = windowed.Interleaved(parts, passes, blocks * config["block_tokens"])
    writer = StreamWriter(
        ctx.stream,
        config["block_tokens"],
        tokenizer.eos_token_id if pad is None else pad,
        components=[c["name"] for c in config["components"]],
        whole=[c["name"] for c in config["components"] if c["kind"] == "conversations"],
        window_blocks=config["window_blocks"],
        blocks=blocks,
        facts={"config": dict(config)},
    )
    try:
        while mixed.taken < writer.documents:  # these are packed already
            next(mixed)
        while not writer.is_full:
            writer.append(*next(mixed))
            ctx.progress(writer.watermark.blocks / blocks, {"blocks": writer.watermark.blocks})
    except BaseException:
        writer.abandon()
        raise
    writer.close()
    mark = writer.watermark
    for name, counts in mark.refused.items():
        refused[name]["block_tokens"] += counts["block_tokens"]
    for path in sorted(ctx.stream.glob("shard-*.arrow")):
        shutil.copyfile(path, ctx.out / path.name)
    shutil.copyfile(ctx.stream / MANIFEST_FILE, ctx.out / MANIFEST_FILE)
    realised = mixed.realised()
    return {
        "tokens": mark.tokens,
        "loss_tokens": mark.loss_tokens,
        "blocks": mark.blocks,
        "documents": mixed.taken,
        "padding": 1 - mark.tokens / (mark.blocks * config["block_tokens"]),
        "cut": mark.cut,
        "refused": refused,
        "shares": {r.name: r.share for r in realised},
        "repeats": {r.name: r.repeats for r in realised},
        "components": [asdict(r) for r in realised],
    }


def _nothing_refused() -> dict[str, int]:
    return {"documents": 0, "tokens": 0, "block_tokens": 0}


def _as_they_come(
    ctx: StageContext, tokenizer: Any, component: Mapping[str, Any]
) -> Iterator[TokenizedDocuments]:
    """The rows of a component in their order, also while they are being written."""
    encoder = Encoder(tokenizer, component["kind"], ctx.config["loss_on"])
    if component["input"] not in ctx.live:
        yield from _batches(_rows_file(ctx, component), encoder)
        return
    for rows in follow(ctx.inputs[component["input"]]):
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            yield encoder([row["id"] for row in part], [row[encoder.column] for row in part])


def _rows_file(ctx: StageContext, component: Mapping[str, Any]) -> Path:
    file = component.get("file", f"{component['kind']}.parquet")
    path: Path = ctx.inputs[component["input"]] / file
    if not path.is_file():
        raise UserError(f"pack: component {component['name']!r} needs {path.name} in {path.parent}")
    return path


def _facts(
    writer: BlockWriter, drawn: mixture.Draw, refused: dict[str, dict[str, int]], cut: int
) -> dict[str, Any]:
    tokens, blocks = writer.total("tokens"), writer.total("blocks")
    left_out = sum(counts["block_tokens"] for counts in refused.values())
    assert tokens + left_out == drawn.tokens, "packing lost or made tokens"
    return {
        "tokens": tokens,
        "loss_tokens": writer.total("loss_tokens"),
        "blocks": blocks,
        "documents": len(drawn.document),
        "padding": 1 - tokens / max(1, blocks * writer.block_tokens),
        "cut": cut,
        "refused": refused,
        "shares": {r.name: r.share for r in drawn.realised},
        "repeats": {r.name: r.repeats for r in drawn.realised},
        "components": [asdict(r) for r in drawn.realised],
    }


def _check(config: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    order = config.get("order", "shuffled")
    if order not in ORDERS:
        raise UserError(f"pack: order is {order!r}, allowed are {', '.join(ORDERS)}")
    if order == "windowed" and config["tokens"] < 1:
        raise UserError(f"pack: order windowed needs a budget, tokens is {config['tokens']}")
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


def _tokenize(
    ctx: StageContext, tokenizer: Any, component: Mapping[str, Any], index: int
) -> tuple[TokenizedDocuments, dict[str, int]]:
    """A component's documents that have a target, on disk, and how many were refused.

    What an earlier attempt at the same stage finished is used again.
    """
    name, kind = component["name"], component["kind"]
    path = _rows_file(ctx, component)
    folder = ctx.work / "tokens" / str(index)
    if (there := open_cache(folder)) is not None:
        return there
    refused = _nothing_refused()
    encoder = Encoder(tokenizer, kind, ctx.config["loss_on"])
    with CacheWriter(folder) as cache:
        for docs in _batches(path, encoder):
            learns = docs.targets > 0
            if not learns.all():
                refused["documents"] += int((~learns).sum())
                refused["tokens"] += int(docs.lengths[~learns].sum())
                docs = docs.select(np.flatnonzero(learns))
            cache.add(docs)
        if refused["documents"] and not len(cache):
            raise UserError(
                f"pack: component {name!r}: none of its {refused['documents']} {kind} has a target "
                f"(loss_on is {ctx.config['loss_on']!r}); there is nothing to learn from it"
            )
        cache.finish(refused)
    finished = open_cache(folder)
    assert finished is not None
    return finished


def _batches(path: Path, encoder: Encoder) -> Iterator[TokenizedDocuments]:
    """The file's rows, tokenized in this process, or by Ray Data where that helps."""
    if "ray" in sys.modules:  # else there is no cluster to be connected to
        from msm_ray.data import ray_tokens

        if ray_tokens.worthwhile(path):
            yield from ray_tokens.batches(path, encoder)
            return
    file = pq.ParquetFile(path, memory_map=True)
    for batch in file.iter_batches(ROWS, columns=["id", encoder.column]):
        yield encoder(batch["id"].to_pylist(), batch[encoder.column].to_pylist())
