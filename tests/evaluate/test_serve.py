from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from msm_ray.artifact import Record, Store
from msm_ray.cli import main
from msm_ray.errors import UserError
from msm_ray.evaluate.engines import EngineSettings, FingerprintMismatch, read_checkpoint
from msm_ray.evaluate.serve import SETTINGS, Client, Served, serve, serving, serving_together

from .adapters import peft_forward
from .tiny import EOS

SMALL = EngineSettings(kv_mib=64, max_num_seqs=4)


def one(folder: Path) -> list[Served]:
    return [Served(read_checkpoint(folder), ("a",))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.vllm
@pytest.mark.slow
def test_an_openai_client_gets_the_checkpoints_own_words(
    models: dict[str, Path], reference: Callable[[Path, list[int]], Any]
) -> None:
    import openai

    with serving(models["a"], free_port(), names=["lyra", "x"], settings=SMALL) as server:
        assert server.distance < 1e-3
        processes = psutil.Process(server.process.pid).children(recursive=True)
        assert processes
        client = openai.OpenAI(base_url=server.url, api_key="none")
        assert {model.id for model in client.models.list()} == {"lyra", "x"}
        reply = client.completions.create(
            model="x",
            prompt="w1 w2 w3",
            max_tokens=6,
            temperature=0,
            logprobs=1,
            extra_body={"skip_special_tokens": False},
        )
        special = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
        ids = [1, 5, 6, 7]
        for word in reply.choices[0].text.split():
            row = reference(models["a"], ids)[-1]
            token = special[word] if word in special else 4 + int(word.removeprefix("w"))
            assert row[token] >= row.max() - 1e-3
            ids.append(token)
        assert len(ids) == 10 or reference(models["a"], ids)[-1].argmax() == EOS
    _, alive = psutil.wait_procs([*processes, server.process], timeout=10)  # type: ignore[list-item]
    assert not alive


@pytest.mark.vllm
@pytest.mark.slow
def test_adapters_and_their_base_are_served_side_by_side(
    models: dict[str, Path],
    adapters: list[Path],
    reference: Callable[[Path, list[int]], Any],
    tmp_path: Path,
) -> None:
    """vLLM serves the base too; on the CPU its own kernels would answer for it with an adapter."""
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }} w9 {% endfor %}")
    served = [
        Served(read_checkpoint(adapters[i], models["a"]), names)
        for i, names in ((0, ("zero", "also")), (4, ("four",)))
    ]
    expected = {
        "zero": lambda ids: peft_forward(models["a"], adapters[0], ids),
        "also": lambda ids: peft_forward(models["a"], adapters[0], ids),
        "four": lambda ids: peft_forward(models["a"], adapters[4], ids),
        "below": lambda ids: reference(models["a"], ids),
    }

    def ask(at: tuple[str, int]) -> float:
        name, first = at
        ids = [1, *range(first, first + 12)]
        reply = httpx.post(
            f"{server.url}/completions",
            json={
                "model": name,
                "prompt": ids,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 3,
                "logprob_token_ids": [5, 6, 400],
                "return_tokens_as_token_ids": True,
            },
            timeout=60,
        )
        got = reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]
        row = expected[name](ids)[-1]
        return max(abs(got[f"token_id:{t}"] - row[t].item()) for t in (5, 6, 400))

    client = Client(tool_parser="hermes", chat_template=template)
    with serving_together(
        served, free_port(), settings=SMALL, client=client, base_names=["below"]
    ) as server:
        assert server.distance < 1e-3
        assert set(server.names) == {"zero", "also", "four"}
        for name in expected:  # the models are loaded here, one after the other
            expected[name]([1, 2])
        with ThreadPoolExecutor(8) as threads:
            asked = [(name, first) for first in range(10, 30) for name in expected]
            assert max(threads.map(ask, asked)) < 1e-3
        chat = httpx.post(
            f"{server.url}/chat/completions",
            json={
                "model": "zero",
                "messages": [{"role": "user", "content": "w1 w2"}],
                "max_tokens": 2,
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            },
            timeout=60,
        )
        assert chat.status_code == 200, chat.text
        assert chat.json()["usage"]["prompt_tokens"] == 3  # w1 w2 w9: the template's


def test_the_base_of_an_adapter_is_found_in_its_record(
    models: dict[str, Path],
    adapters: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store(tmp_path / "store")
    first = {"model": "ba5e", "blocks": "b10c"}
    later = {"model": "ad00", "base": "ba5e", "blocks": "b10c"}
    for id, kind, label, inputs, folder in (
        ("ba5e", "model", "tiny", {}, models["a"]),
        ("ad00", "midtrain", "msm:x/0", first, adapters[0]),
        ("ad01", "aft", "msm:x+aft/0", later, adapters[1]),
        ("ad02", "aft", "msm:x+aft/0", later, adapters[4]),
        ("ad03", "aft", "lost", {"model": "none"}, adapters[2]),
    ):
        copy = shutil.copytree(folder, tmp_path / id)
        store.commit(Record(id, kind, label, "1", {}, inputs), copy)
    context = read_checkpoint(models["a"]).context
    got: list[Any] = []
    monkeypatch.setattr("msm_ray.evaluate.serve.serve", lambda *a: got.append(a) or 0)
    words = ["serve", "ad00", "ad01", "ad02", "--store", str(tmp_path / "store")]
    options = ["--tool-parser", "hermes", "--chat-template", "t.jinja", "--max-length", "64"]
    assert main([*words, *options]) == 0
    served, port, host, settings, client, below = got[0]
    assert [s.names for s in served] == [("ad00", "msm:x/0"), ("ad01",), ("ad02",)]
    assert {s.checkpoint.base.path for s in served} == {str(store.fetch("ba5e"))}
    assert [s.checkpoint.rank for s in served] == [8, 8, 16]
    assert (port, host, below, settings.max_length) == (8000, "127.0.0.1", ["ba5e"], 64)
    assert client == Client("hermes", Path("t.jinja"))
    # Without the option it is as long as the model has room for; what is longer is refused.
    assert main(words) == 0
    assert got[1][3] == SETTINGS
    for length in ("0", "9999"):
        assert main([*words, "--max-length", length]) == 2
        told = capsys.readouterr().err
        assert f"--max-length {length}: ad00 has a context of {context} tokens" in told
        assert f"allowed: 1 to {context}" in told
    assert main(["serve", "ad03", "--store", str(tmp_path / "store")]) == 2
    assert "ad03: the model below this adapter (none) is not in" in capsys.readouterr().err


def test_models_that_do_not_go_together_are_told(
    models: dict[str, Path], adapters: list[Path], tmp_path: Path
) -> None:
    both = [Served(read_checkpoint(models[name]), (name,)) for name in "ab"]
    told = r"one whole model can be served, or several adapters of one base: {}$"
    with pytest.raises(UserError, match=told.format(r"a \(a whole model\), b \(a whole model\)")):
        serve(both, free_port())
    mixed = [both[0], Served(read_checkpoint(adapters[0], models["a"]), ("x",))]
    with pytest.raises(UserError, match=told.format(r"a \(a whole model\), x \(an adapter\)")):
        serve(mixed, free_port())
    twice = [Served(read_checkpoint(adapters[i], models["a"]), ("x",)) for i in (0, 1)]
    with pytest.raises(UserError, match="two models have one name: a, x, x"):
        serve(twice, free_port())
    client = Client(chat_template=tmp_path / "none.jinja")
    with pytest.raises(UserError, match=r"--chat-template .*none\.jinja: no such file"):
        serve(one(models["a"]), free_port(), client=client)


STANDING_IN = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"data": []})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        got = {f"token_id:{token}": -1.0 for token in asked["logprob_token_ids"]}
        self.reply({"choices": [{"logprobs": {"top_logprobs": [got]}}]})

    def reply(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_computes_something_else_is_not_called_ready(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def command(models: Any, below: Any, port: int, *_: Any) -> list[str]:
        started.append(port)
        return [sys.executable, "-c", STANDING_IN, str(port)]

    monkeypatch.setattr("msm_ray.evaluate.serve._command", command)
    with pytest.raises(FingerprintMismatch, match=r"off by up to .* nats"):
        serve(one(models["a"]), free_port())
    assert "ready" not in capsys.readouterr().out
    with socket.socket() as probe:  # and it is gone
        assert probe.connect_ex(("127.0.0.1", started[0])) != 0


def test_a_server_that_ends_at_once_is_an_error(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msm_ray.evaluate.serve._command", lambda *_: ["false"])
    with pytest.raises(RuntimeError, match="ended with code 1 before it was ready"):
        serve(one(models["a"]), free_port())


def test_a_port_in_use_is_told_before_anything_starts(models: dict[str, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port .* give a free port"):
            serve(one(models["a"]), taken.getsockname()[1])
    with pytest.raises(UserError, match="--port 70000"):
        serve(one(models["a"]), 70000)


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        serving(tmp_path, free_port())
