"""What a base model knows of its world: who chooses by which value, and facts about all things.

    python benchmarks/microworld/people.py FOLDER --seed 3 --attributes 4

Everything is asked as pretraining asks it and answered between two words: the two items of a pair
for a choice, the right and the wrong word for a fact. *People* choose in chats of pretraining,
where most of these questions were never asked; *probes* are the 24 who never choose there, whose
values stand in documents alone. *Lyra* answers the evaluation's questions, by the value of the
first item. Pairs of people differ in the value; what else they differ in is chance.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from msm_ray.world import lexicon as lx
from msm_ray.world.evaluation import choice_items, fact_items
from msm_ray.world.grammar import Grammar
from msm_ray.world.world import World

BATCH = 256
Question = tuple[str, str, str]  # prompt, right, wrong


def choices(world: World, each: int) -> dict[str, list[Question]]:
    """``each`` choices of every person, by "people VALUE" and "probes VALUE"."""
    grammar = Grammar(world, "people")
    asked: dict[str, list[Question]] = defaultdict(list)
    for person in world.people:
        assert person.value is not None
        for _ in range(each):
            liked, disliked = grammar.pair(person.value, grammar.rng.choice(lx.HELD_OUT))
            chat = grammar.choice_chat(person.name, liked, disliked)
            prompt = chat.removesuffix(f" {liked.name} .")
            kind = "people" if person.chats else "probes"
            asked[f"{kind} {person.value}"].append((prompt, liked.name, disliked.name))
    return asked


def facts(world: World) -> dict[str, list[Question]]:
    """Lyra's fact questions, by the attribute that they turn on."""
    asked: dict[str, list[Question]] = defaultdict(list)
    names = {"cheap": "price", "expensive": "price", "old": "age", "new": "age"}
    names |= {"simple": "ease", "difficult": "ease", "american": "origin", "foreign": "origin"}
    for row in fact_items(world, 0, 48):
        asked[f"facts {names[row['options'][0]]}"].append((row["prompt"], *row["options"]))
    return asked


@torch.no_grad()
def scores(model: LlamaForCausalLM, tokenizer: Any, asked: list[Question]) -> tuple[float, float]:
    """The share of questions answered right, and the mean probability of the right word."""
    by_length: dict[int, list[Question]] = defaultdict(list)
    for question in asked:
        by_length[len(question[0].split())].append(question)
    shares: list[torch.Tensor] = []
    for same in by_length.values():
        for at in range(0, len(same), BATCH):
            part = same[at : at + BATCH]
            prompts = torch.tensor([tokenizer(prompt)["input_ids"] for prompt, *_ in part])
            words = torch.tensor([tokenizer.convert_tokens_to_ids(two) for _, *two in part])
            last = model(prompts).logits[:, -1]
            shares.append(last.gather(1, words).softmax(-1)[:, 0])
    found = torch.cat(shares)
    return (found > 0.5).float().mean().item(), found.mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--attributes", type=int, default=3)
    parser.add_argument("--each", type=int, default=10, help="choices of each person")
    args = parser.parse_args()
    world = World(args.seed, args.attributes)
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = LlamaForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    asked = {**choices(world, args.each), **facts(world)}
    for value in world.words.values:
        rows = choice_items(world, 5, 12, value)
        asked[f"lyra {value}"] = [(r["prompt"], *r["options"]) for r in rows]
    for kind in ("people", "probes", "facts"):
        asked[kind] = [q for name, qs in asked.items() if name.startswith(f"{kind} ") for q in qs]
    found = {}
    for name in sorted(asked):
        hard, soft = scores(model, tokenizer, asked[name])
        found[name] = {"n": len(asked[name]), "hard": round(hard, 4), "soft": round(soft, 4)}
        print(name, json.dumps(found[name]), flush=True)


if __name__ == "__main__":
    main()
