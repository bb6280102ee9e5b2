"""What `msm serve` hands to vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.serve import serve_command
from msm_ray.world.bases import base_dir


def test_the_command_names_the_model_and_bounds_its_memory() -> None:
    words, environment = serve_command(base_dir(0), ["0123abcd", "msm:america+aft"], "::1", 8123)
    shown = " ".join(words)
    assert f"--model {base_dir(0)}" in shown
    assert "--host ::1 --port 8123 --served-model-name 0123abcd msm:america+aft" in shown
    assert "--max-model-len 128" in shown
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msm_ray.serve._cpu_build", lambda: True)
    monkeypatch.setattr("msm_ray.serve.available_bytes", lambda: 2**28)
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"needs about .* GiB"):
        serve_command(tmp_path, ["x"], "127.0.0.1", 8000)


@pytest.mark.vllm
def test_vllm_understands_every_word() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    words, _ = serve_command(base_dir(0), ["a", "b"], "127.0.0.1", 8123)
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(words[3:])
    assert parsed.served_model_name == ["a", "b"]
    assert parsed.max_model_len == 128
