"""A model behind an endpoint, as jobs name it: what it is, how hard it is asked, its price."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msm_ray.llm.endpoint import Endpoint, HttpRuntime
from msm_ray.llm.price import Price

if TYPE_CHECKING:
    from msm_ray.llm.http import HttpAnswers

# What answers depend on; the rest is where the endpoint stands.
IDENTITY = ("model", "api", "limit_field", "leave_out", "extra")


@dataclass(frozen=True)
class Model:
    """See the module. `identity` goes into a stage's config, `place` into its runtime."""

    endpoint: Endpoint
    http: HttpRuntime = field(default_factory=HttpRuntime)
    price: Price = field(default_factory=Price)

    def identity(self) -> dict[str, Any]:
        """What answers depend on: not where the endpoint stands, nor how hard it is asked."""
        return {name: getattr(self.endpoint, name) for name in IDENTITY}

    def place(self) -> dict[str, Any]:
        """The rest, for `answers_at` and `price_at`."""
        return {
            "base_url": self.endpoint.base_url,
            "key_env": self.endpoint.key_env,
            "http": dataclasses.asdict(self.http),
            "price": dataclasses.asdict(self.price),
        }


def answers_at(identity: Mapping[str, Any], place: Mapping[str, Any]) -> HttpAnswers:
    """The source of answers that a stage's config and runtime name."""
    from msm_ray.llm.http import HttpAnswers

    values = {**identity, "leave_out": tuple(identity["leave_out"])}
    endpoint = Endpoint(base_url=place["base_url"], key_env=place["key_env"], **values)
    return HttpAnswers(endpoint, HttpRuntime(**place["http"]))


def price_at(place: Mapping[str, Any] | None) -> Price:
    """What a stage's runtime says that answers cost; nothing where nobody is asked."""
    return Price(**place["price"]) if place else Price()
