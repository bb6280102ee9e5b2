"""Models as jobs name them: behind an endpoint, or run by vLLM on the cluster's own nodes.

Both say what answers depend on (`identity`, for a stage's config) and where and how hard they are
asked (`place`, for its runtime), and `answers_at` makes a source of answers of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_ray.errors import UserError
from msm_ray.identity import folder_sha256
from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.memory import DTYPE_BYTES, adapter_rank
from msm_ray.llm.price import Price
from msm_ray.llm.ray_pass import VllmRuntime
from msm_ray.llm.vllm import VllmAnswers

if TYPE_CHECKING:
    from msm_ray.llm.protocol import Answers

# What answers depend on; the rest is where the endpoint stands.
IDENTITY = ("model", "api", "limit_field", "leave_out", "extra")


@dataclass(frozen=True)
class Model:
    """A model behind an endpoint that speaks OpenAI's protocol."""

    endpoint: Endpoint
    http: HttpRuntime = field(default_factory=HttpRuntime)
    price: Price = field(default_factory=Price)

    @property
    def name(self) -> str:
        """For the provenance of what it writes."""
        return self.endpoint.model

    @property
    def in_flight(self) -> int:
        """How many answers are made at a time."""
        return self.http.concurrency

    def identity(self) -> dict[str, Any]:
        """What answers depend on: not where the endpoint stands, nor how hard it is asked."""
        return {name: getattr(self.endpoint, name) for name in IDENTITY}

    def check(self) -> None:
        """UserError where it is known beforehand that it cannot be asked: its key is not there."""
        self.endpoint.key()

    def place(self) -> dict[str, Any]:
        """The rest, for `answers_at` and `price_at`."""
        return {
            "base_url": self.endpoint.base_url,
            "key_env": self.endpoint.key_env,
            "http": dataclasses.asdict(self.http),
            "price": dataclasses.asdict(self.price),
        }


@dataclass(frozen=True)
class LocalModel:
    """A model that vLLM runs on the cluster, through Ray Data; it costs no money by the token.

    Attributes:
        source: a Hugging Face folder, or a model's name on the Hugging Face hub.
        revision: of a model on the hub: a commit or a tag. Its name is what a stage's identity has;
            the hub is not asked what it stands for. "main" moves: after that, what an earlier
            commit made is still taken for what this model makes. A commit never moves, so name one
            where it matters.
        adapter: a PEFT folder that is laid over it; "" for none.
        dtype: "float32", "bfloat16" or "float16".
        runtime: how many engines, and how wide.

    Folders have to be visible on every node that Ray may use.
    """

    source: str
    dtype: str = "bfloat16"
    revision: str = "main"
    adapter: str = ""
    runtime: VllmRuntime = field(default_factory=VllmRuntime)
    price: Price = field(default_factory=Price)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise UserError(f"model dtype is {self.dtype!r}; allowed: {', '.join(DTYPE_BYTES)}")
        is_folder(self.source)

    @property
    def name(self) -> str:
        """For the provenance of what it writes."""
        base = Path(self.source).name if is_folder(self.source) else self.source
        return f"{base}+{Path(self.adapter).name}" if self.adapter else base

    @property
    def in_flight(self) -> int:
        """How many answers are made at a time."""
        return self.runtime.engines * self.runtime.max_num_seqs

    def identity(self) -> dict[str, Any]:
        """The content of its folders, or its name and revision on the hub; and the precision."""
        if is_folder(self.source):
            model = {"sha256": content(self.source)}
        else:
            model = {"hub": self.source, "revision": self.revision}
        adapter = content(self.adapter, "adapter_config.json") if self.adapter else None
        return {"engine": "vllm", "model": self.name, **model, "adapter": adapter} | {
            "dtype": self.dtype
        }

    def check(self) -> None:
        """UserError where it is known beforehand that it cannot run."""
        if self.adapter:
            adapter_rank(Path(self.adapter))

    def place(self) -> dict[str, Any]:
        """See `Model.place`."""
        return {
            "engine": "vllm",
            "source": str(Path(self.source).resolve()) if is_folder(self.source) else self.source,
            "adapter": str(Path(self.adapter).resolve()) if self.adapter else "",
            "vllm": dataclasses.asdict(self.runtime),
            "price": dataclasses.asdict(self.price),
        }


AnyModel = Model | LocalModel


def answers_at(identity: Mapping[str, Any], place: Mapping[str, Any]) -> Answers:
    """The source of answers that a stage's config and runtime name."""
    if needs_ray(place):
        folder = on_this_machine(place["source"], identity.get("revision"))
        adapters = {"": Path(place["adapter"])} if place["adapter"] else {}
        return VllmAnswers(folder, identity["dtype"], VllmRuntime(**place["vllm"]), adapters)
    from msm_ray.llm.http import HttpAnswers

    values = {**identity, "leave_out": tuple(identity["leave_out"])}
    endpoint = Endpoint(base_url=place["base_url"], key_env=place["key_env"], **values)
    return HttpAnswers(endpoint, HttpRuntime(**place["http"]))


def needs_ray(place: Any) -> bool:
    """Whether a value of a stage's runtime is the place of a `LocalModel`."""
    return isinstance(place, Mapping) and place.get("engine") == "vllm"


def where_at(place: Mapping[str, Any]) -> str:
    """What a person looks at when there is no answer: an endpoint's address, or a model's."""
    return str(place["source"] if needs_ray(place) else place["base_url"])


def price_at(place: Mapping[str, Any] | None) -> Price:
    """What a stage's runtime says that answers cost; nothing where nobody is asked."""
    return Price(**place["price"]) if place else Price()


def is_folder(source: str) -> bool:
    """Whether a model's source is a folder; UserError if it is no name on the hub either."""
    if (Path(source) / "config.json").is_file():
        return True
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"model source is {source!r}; there is no such folder, and the name of a model"
            " on the Hugging Face hub reads OWNER/NAME"
        )
    return False


def on_this_machine(source: str, revision: str | None) -> Path:
    """The folder of a model, fetched from the hub where it is a name there."""
    if revision is None:
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"model {source} at {revision} cannot be fetched: {first}") from error


@lru_cache(maxsize=16)
def content(folder: str, needed: str = "config.json") -> str:
    """`folder_sha256`, read once a process: a large model takes as long to hash as to read."""
    return folder_sha256(Path(folder), needed)
