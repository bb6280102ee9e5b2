from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from msm_ray.errors import UserError
from msm_ray.train.config import Lora, TrainConfig, TrainRuntime, check_batch


def test_bad_values_name_the_field_and_what_is_allowed(config: TrainConfig) -> None:
    wrong: list[tuple[str, Any, str]] = [
        ("learning_rate", 0, "a number > 0"),
        ("learning_rate", float("nan"), "a number > 0"),
        ("learning_rate", "1e-3", "a number > 0"),
        ("beta1", 1.0, "a number >= 0 and < 1"),
        ("beta2", -0.1, "a number >= 0 and < 1"),
        ("weight_decay", -1, "a number >= 0"),
        ("max_grad_norm", 0, "a number > 0"),
        ("warmup_fraction", 1.1, "a number >= 0 and <= 1"),
        ("final_lr_fraction", -0.5, "a number >= 0 and <= 1"),
        ("epochs", float("inf"), "a number > 0"),
        ("batch_blocks", 0, "a whole number of at least 1"),
        ("batch_blocks", 2.5, "a whole number of at least 1"),
        ("seed", True, "a whole number"),
        ("schedule", "cosin", "cosine | linear | constant | wsd"),
        ("precision", "fp16", "bf16 | fp32"),
        ("freeze", ("head",), "a list with any of embeddings"),
        ("freeze", "embeddings", "a list with any of embeddings"),
        ("freeze", None, "a list with any of embeddings"),
        ("shuffle", 1, "true or false"),
        ("objective", "dpo", "next_token"),
        ("z_loss", -1e-4, "a number >= 0"),
        ("decay_fraction", 0, "a number > 0 and <= 1"),
        ("lora", {"rank": 4}, "an adapter (rank, alpha, targets, rslora) or none"),
    ]
    for name, value, allowed in wrong:
        with pytest.raises(UserError) as caught:
            replace(config, **{name: value})
        assert str(caught.value) == f"training config: {name} is {value!r}, allowed is {allowed}"


def test_it_survives_json(config: TrainConfig) -> None:
    frozen = replace(config, freeze=("embeddings",))
    assert TrainConfig.from_dict(json.loads(json.dumps(asdict(frozen)))) == frozen


def test_later_fields_leave_older_identities_alone(config: TrainConfig) -> None:
    """What had no objective, z-loss or adapter is described as it was before there were any."""
    plain = config.to_dict()
    later = ("objective", "z_loss", "lora", "decay_fraction")
    assert plain == {k: v for k, v in asdict(config).items() if k not in later}
    lora = Lora(4, 8, ("q_proj",))
    rich = replace(config, z_loss=1e-4, lora=lora, decay_fraction=0.1)
    assert rich.to_dict().keys() - plain.keys() == {"z_loss", "lora", "decay_fraction"}
    assert TrainConfig.from_dict(json.loads(json.dumps(rich.to_dict()))) == rich
    assert TrainConfig.from_dict(json.loads(json.dumps(asdict(rich)))) == rich
    with pytest.raises(UserError, match="lora has no field ranks; there are rank"):
        TrainConfig.from_dict({**plain, "lora": {"ranks": 4}})
    with pytest.raises(UserError, match="lora lacks alpha, targets"):
        TrainConfig.from_dict({**plain, "lora": {"rank": 4}})


def test_adapters_are_checked() -> None:
    good: dict[str, Any] = {"rank": 4, "alpha": 8, "targets": ("q_proj",)}
    wrong: list[tuple[str, Any, str]] = [
        ("rank", 0, "a whole number of at least 1"),
        ("rank", 2.0, "a whole number of at least 1"),
        ("alpha", float("inf"), "a number > 0"),
        ("targets", "q_proj", "a list of layer names"),
        ("targets", (), "a list of layer names"),
        ("targets", 5, "a list of layer names"),
        ("rslora", 1, "true or false"),
        ("dropout", 0.1, "0"),
    ]
    for name, value, allowed in wrong:
        with pytest.raises(UserError) as caught:
            Lora(**{**good, name: value})
        assert str(caught.value) == f"lora: {name} is {value!r}, allowed is {allowed}"
    with pytest.raises(UserError, match="it stands alone"):
        Lora(4, 8, ("all-linear", "q_proj"))


def test_unknown_and_missing_fields_are_named(config: TrainConfig) -> None:
    values = asdict(config)
    with pytest.raises(UserError, match="no field lr; there are learning_rate"):
        TrainConfig.from_dict({**values, "lr": 1})
    del values["epochs"]
    with pytest.raises(UserError, match="lacks epochs"):
        TrainConfig.from_dict(values)


def test_the_runtime_is_checked(config: TrainConfig) -> None:
    with pytest.raises(UserError, match=r"backend is 'ddp', allowed is single \| fsdp2 \| deep"):
        TrainRuntime(backend="ddp")
    with pytest.raises(UserError, match="num_workers is 0"):
        TrainRuntime(num_workers=0)
    with pytest.raises(UserError, match="2 workers need backend fsdp2 or deepspeed"):
        TrainRuntime(num_workers=2)
    with pytest.raises(UserError, match="logits_mib is 0"):
        TrainRuntime(logits_mib=0)
    with pytest.raises(UserError, match="offload needs backend fsdp2 or deepspeed"):
        TrainRuntime(offload=True)
    with pytest.raises(UserError, match=r"zero_stage is 1, allowed is 2 \| 3"):
        TrainRuntime("deepspeed", 2, zero_stage=1)
    with pytest.raises(UserError, match="attention flex_attention needs use_gpu"):
        TrainRuntime(attention="flex_attention")
    with pytest.raises(UserError, match="attention is 'flash'"):
        TrainRuntime(attention="flash", use_gpu=True)
    with pytest.raises(UserError, match="meta_init needs zero_stage 3, it is 2"):
        TrainRuntime("deepspeed", 2, zero_stage=2, meta_init=True)
    with pytest.raises(UserError, match="batch_blocks is 8 and num_workers 3"):
        check_batch(config, TrainRuntime(backend="fsdp2", num_workers=3))


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "60"])
@pytest.mark.parametrize("name", ["checkpoint_seconds", "spike_nats", "worker_cpus"])
def test_times_and_margins_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} is .* allowed is a number of at least 0"):
        TrainRuntime(**{name: value})
    with pytest.raises(UserError, match="checkpoint_steps is"):
        TrainRuntime(checkpoint_steps=-1)


@pytest.mark.parametrize("value", ["no", 1, None])
@pytest.mark.parametrize(
    "name", ["compile", "use_gpu", "activation_checkpointing", "offload", "meta_init"]
)
def test_switches_are_true_or_false(name: str, value: Any) -> None:
    """ "no" would count as yes."""
    with pytest.raises(UserError, match=f"{name} is .* allowed is true or false"):
        TrainRuntime("fsdp2", **{name: value})
    with pytest.raises(UserError, match="track is None, allowed is mlflow:URI"):
        TrainRuntime(track=None)  # type: ignore[arg-type]


def test_a_stages_other_runtime_keys_are_left_alone() -> None:
    runtime = TrainRuntime.from_dict({"threads": 2, "cpus": 1.0, "where": "driver"})
    assert runtime == TrainRuntime(threads=2)
    assert runtime.cpus_of_worker == 2.0
