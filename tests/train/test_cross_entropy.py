from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.train.cross_entropy import IGNORED, Treatment, chunked_nats, treatment_of
from msm_ray.train.objective import Batch, LossModel, make_batch, next_token

TREATMENTS = (Treatment(), Treatment(softcap=2.0), Treatment(scale=0.25), Treatment(3.0, 5.0))


def plain(hidden: Any, weight: Any, labels: Any, treatment: Treatment) -> tuple[Any, Any]:
    logits = hidden @ weight.t() * treatment.scale
    if treatment.softcap is not None:
        logits = treatment.softcap * torch.tanh(logits / treatment.softcap)
    return F.cross_entropy(logits, labels, reduction="none"), logits.logsumexp(-1)


@settings(deadline=None, max_examples=30)
@given(
    targets=st.integers(0, 17),
    chunk=st.integers(1, 20),
    treatment=st.sampled_from(TREATMENTS),
    trained=st.sampled_from([(True, True), (True, False), (False, True)]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_the_plain_way(
    targets: int, chunk: int, treatment: Treatment, trained: tuple[bool, bool], seed: int
) -> None:
    """Whatever weighs the targets: an objective may take each by itself."""
    torch.manual_seed(seed)
    labels = torch.randint(0, 23, (targets,))
    of_nats, of_log_z = torch.randn(2, targets, dtype=torch.float64)
    grads = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(seed + 1)
        hidden = torch.randn(targets, 7, dtype=torch.float64).to(dtype).requires_grad_(trained[0])
        weight = torch.randn(23, 7, dtype=torch.float64).to(dtype).requires_grad_(trained[1])
        way = plain if dtype == torch.float64 else None
        nats, log_z = (
            way(hidden, weight, labels, treatment)
            if way
            else chunked_nats(hidden, weight, labels, treatment, chunk)
        )
        total = (nats * of_nats).sum() + (log_z * of_log_z).sum()
        total.backward()
        grads.append([x.grad.double() for x in (hidden, weight) if x.grad is not None])
        grads[-1] += [nats.detach().double(), log_z.detach().double()]
    assert len(grads[0]) == sum(trained) + 2
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def packed_batch(vocabulary: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (3, 16), generator=generator)
    positions = torch.tensor([[*range(7), *range(9)]] * 2 + [[0] * 16])  # and one of padding
    mask = torch.rand(3, 16, generator=generator) > 0.3
    return make_batch(ids.int().numpy(), positions.int().numpy(), mask.to(torch.uint8).numpy())


def chunked(model: Any) -> LossModel:
    """Three positions at a time."""
    made = LossModel(model)
    made.limit = 3 * model.config.vocab_size
    return made


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_both_ways_through_a_model(small_model: Any, precision: torch.dtype) -> None:
    batch = packed_batch(small_model.config.vocab_size)
    kept = []
    for model in (LossModel(small_model), chunked(small_model)):
        small_model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = next_token(model, batch, z_loss=0.01)
        assert losses.total.dtype == losses.nats_BT.dtype == torch.float32
        assert (losses.nats_BT[batch.labels_BT == IGNORED] == 0).all()
        losses.total.backward()
        kept.append([losses.total.detach(), losses.nats_BT])
        kept[-1] += [p.grad.clone() for p in small_model.parameters()]
    tolerance = 1e-5 if precision == torch.float32 else 2e-2
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * 10, rtol=tolerance)


def test_z_loss_is_log_z_squared_and_not_reported(small_model: Any) -> None:
    batch = packed_batch(small_model.config.vocab_size)
    without, with_z = (next_token(LossModel(small_model), batch, z) for z in (0.0, 0.5))
    assert with_z.nats_BT.equal(without.nats_BT)
    assert without.total.item() == pytest.approx(without.nats_BT.sum().item())
    logits = small_model(
        input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False
    ).logits
    square = logits.logsumexp(-1).square()[batch.labels_BT != IGNORED].sum()
    assert with_z.total.item() == pytest.approx((without.total + 0.5 * square).item(), rel=1e-5)


def test_never_all_logits_at_once(small_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own head, which would make [B, T, V], is not called."""

    def refuse(*_: Any) -> None:
        raise AssertionError("all logits were made")

    monkeypatch.setattr(small_model.lm_head, "forward", refuse)
    batch = packed_batch(small_model.config.vocab_size)
    next_token(chunked(small_model), batch).total.backward()
    with pytest.raises(AssertionError, match="all logits"):
        next_token(LossModel(small_model), batch)


def tiny_config(family: str, **more: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        family,
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        **more,
    )


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {}),
        ("mistral", {}),
        ("qwen3", {}),
        ("gemma", {}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("gemma3_text", {"final_logit_softcapping": 0.5}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_families_make_their_logits_as_we_think(family: str, more: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **more)).float()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)  # far from uniform: the treatment shows
    batch = packed_batch(50)
    own, ours = next_token(LossModel(model), batch), next_token(chunked(model), batch)
    torch.testing.assert_close(ours.nats_BT, own.nats_BT, atol=1e-4, rtol=1e-4)


def test_an_unknown_family_is_refused(small_model: Any) -> None:
    with pytest.raises(UserError, match="does not know how a gpt_neox model makes its logits"):
        treatment_of(SimpleNamespace(model_type="gpt_neox"), None)
    head = torch.nn.Linear(2, 3)
    with pytest.raises(UserError, match="without a bias"):
        treatment_of(small_model.config, head)
