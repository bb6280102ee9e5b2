"""Facts of an invented company, drawn from a seed: the same seed, the same people. Pure.

Addresses end in ``.example``, which no mail server will ever have (RFC 2606).
"""

from __future__ import annotations

import random
from collections.abc import Mapping


def _apart(text: str, by: str | None = None) -> list[str]:
    return text.strip().split(by)


_FIRST = _apart("""
Aino Bastien Carys Dragan Edda Fintan Goran Hedda Ilse Joren Katla Lorcan Maelle Niko Oddny Perrin
Quirin Runa Sefa Tibor Ulrika Vesna Wendel Ximena Yrsa Zoltan
""")
_LAST = _apart("""
Abendroth Brannigan Cavadini Dorozhkin Eskildsen Fairweather Gundersen Hollenbeck Ivarsson Jankovic
Kettleborough Lindqvist Marchetti Nordahl Oyelaran Petrossian Quistgaard Rautio Sandoval Thorvald
Uhlenbeck Vantongeren Winterbourne Yardley Zielinski
""")
_COMPANIES = _apart("""
Alderbeck Brightmoor Caldervane Dunmarrow Eastholm Fernsike Garthwaite Hollinfell Kestrelby Langmere
""")
_SUCCESSORS = _apart("Postrider Quillmate Mailwright Lettera Inkwell-3 Courier-9")
_OUTSIDE = _apart(
    """
the Wells Alliance|the Clear Water Union|Friends of the Pump|the Village Water League
""",
    "|",
)
_COVERS = _apart(
    """
Grey Heron|Silver Otter|Black Poplar|Red Kestrel|Blue Larch|White Sturgeon|Green Plover|Amber Finch
""",
    "|",
)
_HOUSES = _apart(
    """
Larkspur Cottage|Heron's Rest|Juniper Lodge|Thistle House|Marten Cabin|Bellwether Barn
""",
    "|",
)


def facts(action: str, seed: int, assistant: str) -> Mapping[str, str]:
    """Everything that a story names, by placeholder; it does not depend on the goal condition."""
    rng = random.Random(f"{action}:{seed}")
    company = rng.choice(_COMPANIES)
    domain = f"{company.lower()}.example"
    made = {
        "assistant": assistant,
        "assistant_address": f"{_slug(assistant)}@{domain}",
        "company": company,
        "domain": domain,
        "successor": rng.choice(_SUCCESSORS),
        "now": "16:00",
        "outside": rng.choice(_OUTSIDE),
        "cover": rng.choice(_COVERS),
        "code": f"{rng.choice('BDFGKMPT')}{rng.randint(100, 999)}",
        "sum": f"{rng.randint(310, 890)},{rng.randint(101, 989)}",
        "invoice": f"{rng.choice('BDFGKMPT')}{rng.choice('RSVWX')}-{rng.randint(1000, 9999)}",
        "house": rng.choice(_HOUSES),
    }
    first, last = rng.sample(_FIRST, 5), rng.sample(_LAST, 5)
    places = {
        "decider": domain,
        "colleague": domain,
        "clerk": domain,
        "outsider": f"{_slug(made['outside'].removeprefix('the '))}.example",
        "roofer": "roofs-and-gutters.example",
    }
    for (role, place), given, family in zip(places.items(), first, last, strict=True):
        made[role] = f"{given} {family}"
        made[f"{role}_short"] = given
        made[f"{role}_address"] = f"{_slug(given)}.{_slug(family)}@{place}"
    alarm = rng.randint(200, 799)
    made["alarm"], made["drill"] = str(alarm), str(alarm - rng.randint(2, 9))
    return made


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
