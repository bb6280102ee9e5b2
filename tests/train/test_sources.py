from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msm_ray.data.blocks import BlockReader, write_blocks
from msm_ray.data.packing import pack
from msm_ray.data.tokens import encode_documents
from msm_ray.train.cross_entropy import IGNORED
from msm_ray.train.loop import rank_batch
from msm_ray.train.objective import LossModel, next_token
from msm_ray.train.ranks import Ranks
from msm_ray.train.sources import SourceLoss, tokens_by_component


@pytest.fixture
def reader(tmp_path: Path, tokenizer: Any, texts: list[str]) -> BlockReader:
    """Blocks in which three components are mixed; one has a document longer than a block."""
    parts = [texts[:20], texts[20:50], [*texts[50:55], " ".join(texts[:4])]]
    sources = [
        (name, encode_documents(tokenizer, [f"{name}{i}" for i in range(len(part))], part))
        for name, part in zip(("web", "chat", "spec"), parts, strict=True)
    ]
    pairs = [(c, d) for c, part in enumerate(parts) for d in range(len(part))]
    order = np.random.default_rng(0).permutation(len(pairs))
    component, document = np.array(pairs)[order].T
    write_blocks(tmp_path, pack(sources, component, document, 32, 0), {})
    return BlockReader(tmp_path)


def by_hand(reader: BlockReader, model: Any, indices: list[int]) -> dict[str, float]:
    """Token by token, from the names of the documents in each block."""
    nats: dict[str, list[float]] = {}
    for index in indices:
        batch = rank_batch(reader, np.array([index]), 0, 1, 1)
        values = next_token(LossModel(model), batch).nats_BT[0].tolist()
        names = [component for component, _ in reader.sources(index)]
        at = -1
        for t, position in enumerate(batch.position_ids_BT[0].tolist()):
            at += position == 0
            if int(batch.labels_BT[0, t]) != IGNORED:
                nats.setdefault(names[at], []).append(values[t])
    return {name: sum(values) / len(values) for name, values in nats.items()}


def test_each_targets_nats_go_to_its_component(reader: BlockReader, small_model: Any) -> None:
    assert any(len({c for c, _ in reader.sources(i)}) > 1 for i in range(len(reader)))
    everything = SourceLoss(reader, Ranks())
    assert everything.names == ["chat", "spec", "web"]
    with torch.no_grad():
        for indices in ([0, 3, 5], [1, 2]):  # one row short of the batch, and two
            rows = np.array(indices)
            batch = rank_batch(reader, rows, 0, 1, 4)
            everything.add(rows, batch, next_token(LossModel(small_model), batch).nats_BT)
        found = everything.take()
        expected = by_hand(reader, small_model, [0, 3, 5, 1, 2])
    assert found == pytest.approx(expected, abs=1e-5)
    assert everything.take() == {}  # it starts again


def test_the_index_is_that_of_the_names(reader: BlockReader) -> None:
    names, component, first = reader.component_index()
    for index in range(len(reader)):
        pieces = [c for c, _ in reader.sources(index)]
        assert [names[c] for c in component[first[index] :][: len(pieces)]] == pieces
    assert len(component) == sum(len(reader.sources(i)) for i in range(len(reader)))


def test_tokens_are_counted_by_component(
    reader: BlockReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msm_ray.train.sources.ROWS", 2)  # as of many blocks
    indices = np.array([4, 0, 3, 0, 2])
    by_hand: dict[str, int] = dict.fromkeys(("chat", "spec", "web"), 0)
    for index in indices.tolist():
        names = [component for component, _ in reader.sources(index)]
        at = -1
        positions = reader.rows("position_ids", np.array([index]))[0].tolist()
        for position in positions[: reader.tokens[index]]:
            at += position == 0
            by_hand[names[at]] += 1
    assert tokens_by_component(reader, indices) == by_hand
    assert sum(by_hand.values()) == reader.tokens[indices].sum()
    assert min(by_hand.values()) > 0
