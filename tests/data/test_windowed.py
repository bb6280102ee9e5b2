"""Mixtures in windowed order: what stands at a place follows from what stands before it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.data.blocks import BlockReader
from msm_ray.data.feed import FeedWriter
from msm_ray.data.mixture import Component
from msm_ray.data.stages import pack
from msm_ray.data.tokens import TokenizedDocuments, joined
from msm_ray.data.windowed import Interleaved, growing_passes, shuffled_passes
from msm_ray.errors import UserError
from msm_ray.stage import StageContext
from msm_ray.streams import RUNNING_FILE, StreamStopped

BLOCK_TOKENS, BLOCKS = 16, 75


def documents(name: str, lengths: list[int], targets: bool = True) -> TokenizedDocuments:
    parts = [
        TokenizedDocuments(
            ids=(f"{name}{number}",),
            tokens=np.full(length, number, dtype=np.int32),
            loss=np.full(length, targets, dtype=np.uint8),
            offsets=np.array([0, length]),
        )
        for number, length in enumerate(lengths)
    ]
    return joined(parts)


lengths = st.lists(st.integers(2, 60), min_size=1, max_size=20)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 1), lengths), min_size=1, max_size=4), st.integers(1, 150)
)
def test_every_prefix_has_the_shares(drawn: list[tuple[float, list[int]]], take: int) -> None:
    components = [Component(str(i), share, 1e9) for i, (share, _) in enumerate(drawn)]
    passes = {
        c.name: shuffled_passes(documents(c.name, sizes), c.name, 0)
        for c, (_, sizes) in zip(components, drawn, strict=True)
    }
    mixed = Interleaved(components, passes, 0)
    tokens = dict.fromkeys(passes, 0)
    total_share = sum(c.share for c in components)
    for name, document in itertools.islice(mixed, take):
        tokens[name] += len(document.tokens)
        total = sum(tokens.values())
        for component, (_, sizes) in zip(components, drawn, strict=True):
            share = component.share / total_share
            # Nobody gets a document while another is further behind.
            assert tokens[component.name] <= share * total + max(sizes)
    assert {r.name: r.tokens for r in mixed.realised()} == tokens
    assert sum(r.documents for r in mixed.realised()) == mixed.taken == take


def test_a_growing_component_is_read_in_its_order_and_then_again_shuffled(tmp_path: Path) -> None:
    sizes = [3, 5, 4, 8, 2, 7, 6, 9]
    docs = documents("d", sizes)
    refused = {"documents": 0, "tokens": 0, "block_tokens": 0}

    def batches() -> Iterator[TokenizedDocuments]:
        yield docs.select(np.arange(3))
        yield documents("no", [4, 4], targets=False)
        yield docs.select(np.arange(3, 8))

    passes = growing_passes(batches(), "d", 0, tmp_path / "cache", refused)
    rows = [(number, doc.ids[0]) for number, doc in itertools.islice(passes, 24)]
    assert rows[:8] == [(0, f"d{i}") for i in range(8)]
    for number in (1, 2):
        ids = [name for at, name in rows if at == number]
        assert sorted(ids) == sorted(docs.ids)
        assert ids != list(docs.ids)
    assert refused == {"documents": 2, "tokens": 8, "block_tokens": 0}


def test_nothing_to_learn_from_is_told(tmp_path: Path) -> None:
    refused = {"documents": 0, "tokens": 0, "block_tokens": 0}
    batches = iter([documents("no", [4, 4], targets=False)])
    passes = growing_passes(batches, "d", 0, tmp_path / "cache", refused)
    with pytest.raises(UserError, match=r"'d': it has no documents .* \(2 without a target\)"):
        next(passes)


def test_a_cap_is_kept() -> None:
    docs = documents("d", [10] * 10)
    mixed = Interleaved([Component("d", 1.0, 2.0)], {"d": shuffled_passes(docs, "d", 0)}, 200)
    assert len(list(itertools.islice(mixed, 20))) == 20
    with pytest.raises(UserError, match="allows 200: 10 tokens are missing"):
        next(mixed)
    early = Interleaved([Component("d", 1.0, 2.0)], {"d": shuffled_passes(docs, "d", 0)}, 300)
    list(itertools.islice(early, 10))
    with pytest.raises(UserError, match="allows 200: 100 tokens are missing"):
        next(early)  # as soon as it is known, not when all is used up


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="a 0"):
        Interleaved([Component("a", 0.0, 1.0)], {}, 10)


# ---- the stage ---------------------------------------------------------------------------------


def rows(count: int) -> list[dict[str, str]]:
    return [{"id": f"s{i}", "text": "lyra " + "brie . " * (i % 7 + 1)} for i in range(count)]


def context(tmp_path: Path, tokenizer: Any, name: str, count: int, **changes: Any) -> StageContext:
    """A context whose spec documents are a committed artifact."""
    folders = {f: tmp_path / f"{name}-{f}" for f in ("tokenizer", "spec", "replay", "out")}
    for folder in folders.values():
        folder.mkdir()
    tokenizer.save_pretrained(folders["tokenizer"])
    pq.write_table(pa.Table.from_pylist(rows(count)), folders["spec"] / "documents.parquet")
    replay = [{"id": f"r{i}", "text": "i would pick gouda . " * (i % 3 + 1)} for i in range(200)]
    pq.write_table(pa.Table.from_pylist(replay), folders["replay"] / "documents.parquet")
    spec = {"name": "spec", "input": "spec", "kind": "documents", "share": 0.6, "max_repeats": 2.0}
    return StageContext(
        config={
            "components": [
                {**spec, "in_order": True},
                {**spec, "name": "replay", "input": "replay", "share": 0.4},
            ],
            "tokens": BLOCKS * BLOCK_TOKENS - 3,
            "block_tokens": BLOCK_TOKENS,
            "seed": 0,
            "loss_on": "all",
            "order": "windowed",
            "window_blocks": 10,
            **changes,
        },
        inputs={f: folders[f] for f in ("tokenizer", "spec", "replay")},
        out=folders["out"],
        work=tmp_path / f"{name}-work",
        runtime={},
        progress=lambda fraction, facts: None,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def follow(ctx: StageContext, place: Path) -> StageContext:
    """The same stage, with the spec documents still being made at ``place``."""
    place.mkdir()
    (place / RUNNING_FILE).touch()
    ctx.inputs["spec"], ctx.live = place, frozenset({"spec"})
    return ctx


def test_the_blocks_are_as_many_as_the_budget_says(tmp_path: Path, tokenizer: Any) -> None:
    ctx = context(tmp_path, tokenizer, "a", 200)
    facts = pack(ctx)
    reader = BlockReader(ctx.out)
    assert len(reader) == facts["blocks"] == BLOCKS
    assert reader.by_window
    assert facts["tokens"] == reader.tokens.sum()
    assert facts["shares"]["spec"] == pytest.approx(0.6, abs=0.02)
    assert all(10 <= size <= 13 for size in reader.windows[:-1])
    seen = [s for i in range(len(reader)) for s in reader.sources(i)]
    spec = list(dict.fromkeys(int(name[1:]) for part, name in seen if part == "spec"))
    # Within a window documents are moved; none comes a window too early or too late.
    assert max(abs(number - at) for at, number in enumerate(spec)) < 40
    for start, size in zip(np.cumsum([0, *reader.windows]), reader.windows, strict=False):
        part = [n for i in range(start, start + size) for n, _ in reader.sources(i)]
        assert {"spec", "replay"} <= set(part)


def test_documents_that_come_one_by_one_give_the_same_bytes(tmp_path: Path, tokenizer: Any) -> None:
    ctx = context(tmp_path, tokenizer, "a", 200)
    facts = pack(ctx)
    late = follow(context(tmp_path, tokenizer, "b", 200), tmp_path / "place")

    def write() -> None:
        feed = FeedWriter(tmp_path / "place")
        for start in range(0, 200, 13):
            feed.add(rows(200)[start : start + 13])
        feed.close()

    thread = threading.Thread(target=write)
    thread.start()
    assert pack(late) == facts
    thread.join()
    assert files(late.out) == files(ctx.out)


def test_a_stopped_pack_goes_on_to_the_same_bytes(tmp_path: Path, tokenizer: Any) -> None:
    ctx = context(tmp_path, tokenizer, "a", 200)
    facts = pack(ctx)
    place = tmp_path / "place"
    late = follow(context(tmp_path, tokenizer, "b", 200), place)
    FeedWriter(place).add(rows(30))
    stop = threading.Timer(0.5, (place / RUNNING_FILE).unlink)
    stop.start()
    with pytest.raises(StreamStopped):
        pack(late)
    begun = {n: b for n, b in files(late.stream).items() if n.startswith("shard")}
    assert begun
    (place / RUNNING_FILE).touch()
    feed = FeedWriter(place)
    assert feed.rows == 30
    feed.add(rows(200)[30:])
    feed.close()
    assert pack(late) == facts
    assert files(late.out) == files(ctx.out)
    assert begun.items() <= files(late.out).items()


def test_too_few_documents_are_told_in_the_same_words(tmp_path: Path, tokenizer: Any) -> None:
    ctx = context(tmp_path, tokenizer, "a", 30)
    with pytest.raises(UserError, match=r"'spec': 720 tokens .* tokens are missing") as one:
        pack(ctx)
    late = follow(context(tmp_path, tokenizer, "b", 30), tmp_path / "place")
    feed = FeedWriter(tmp_path / "place")
    feed.add(rows(30))
    feed.close()
    with pytest.raises(UserError) as other:
        pack(late)
    assert str(one.value) == str(other.value)


def test_documents_are_seen_again_once_all_were_seen(tmp_path: Path, tokenizer: Any) -> None:
    facts = pack(context(tmp_path, tokenizer, "a", 45))
    assert 1 < facts["repeats"]["spec"] <= 2


def test_wrong_input_is_named(tmp_path: Path, tokenizer: Any) -> None:
    wrong = (({"order": "random"}, "order is 'random'"), ({"tokens": 0}, "needs a budget"))
    for number, (changes, words) in enumerate(wrong):
        with pytest.raises(UserError, match=words):
            pack(context(tmp_path, tokenizer, str(number), 9, **changes))
