"""From a spec to the hierarchy of its corpus: domains, subdomains, assertions, types, ideas.

    spec -> domains -> subdomains, each with a section of the spec, verbatim
                            |-> assertions
                            `-> document types -> ideas, each for one assertion

In rules mode a subdomain is a rule, and there are no assertions. A model is asked one level after
the other (`expand`); structure mode asks none (`plan_structure`). What comes out is a `Hierarchy`,
whose documents are the rows of `plan.plan_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from msm_ray.corpus import levels
from msm_ray.corpus.config import HierarchyConfig
from msm_ray.corpus.expansion import Expansion, Progress, Shortfall, expand
from msm_ray.corpus.levels import Item, Level, Parent
from msm_ray.corpus.outline import DocType, Hierarchy, Idea, Topic, is_all, with_text
from msm_ray.corpus.prompts import fingerprint, load
from msm_ray.corpus.structure import plan_structure
from msm_ray.errors import UserError
from msm_ray.llm.protocol import Answers
from msm_ray.records import Rule, Spec, SpecSection
from msm_ray.spec import check_size, fill, rules

__all__ = ["Hierarchy", "HierarchyConfig", "expand", "plan_hierarchy", "prompts_sha256"]

_MORE = ("types_more", "ideas_more")
_PROMPTS = {
    "model": (
        *("planner", "domains", "domains_more", "subdomains", "subdomains_more"),
        *("assertions", "assertions_more", "types", "ideas", *_MORE, "writer", "write"),
    ),
    "rules": (
        *("planner", "rules_domains", "rules_domains_more", "rules_types", "rules_ideas", *_MORE),
        *("writer", "rules_write"),
    ),
    "structure": ("writer", "write"),
}


def prompts_sha256(mode: str) -> str:
    """The hash of all prompts that stand in a plan of this mode or made it, for its identity."""
    return fingerprint(_PROMPTS[mode])


def plan_hierarchy(
    spec: Spec,
    config: HierarchyConfig,
    answers: Answers | None,
    work: Path,
    progress: Progress = lambda level, done, asked: None,
    check: Callable[[Expansion], None] = lambda made: None,
) -> Hierarchy:
    """Divide a spec down to the ideas of single documents.

    Args:
        spec: with or without placeholders; they are filled with the config's names.
        config: what is wanted.
        answers: the model that plans; None in structure mode, which needs none.
        work: scratch that survives a killed process: called again, it continues.
        progress: called with a level, and the prompts answered and asked in the present round.
        check: called with each level as it is made; may raise, as `outages.check_level` does.

    What a model does not give is missing from the result and reported in ``shortfalls``; if it gave
    no domain, there is no topic at all.

    Raises:
        UserError: the spec is too long, has no text, has no rules in rules mode, or has a
            placeholder that the config's names cannot fill; structure mode cannot make as many.
    """
    spec = fill(spec, config.assistant, config.maker)
    check_size(spec, config.spec_tokens)
    if not with_text(spec):
        raise UserError(f"spec {spec.title!r} has headings but no text below them")
    if config.mode == "structure":
        return plan_structure(spec, config)
    if answers is None:
        raise UserError(f"plan.mode is {config.mode!r}, which asks a model, and none is given")
    asking = _Asking(spec, config, answers, work, progress, check)
    return asking.plan_rules() if config.mode == "rules" else asking.plan_model()


class _Asking:
    """The levels in their order, and what was reported on the way."""

    def __init__(
        self,
        spec: Spec,
        config: HierarchyConfig,
        answers: Answers,
        work: Path,
        progress: Progress,
        check: Callable[[Expansion], None],
    ) -> None:
        self.spec, self.config = spec, config
        self._answers, self._work, self._progress = answers, work, progress
        self._check = check
        self._system = load("planner").fill(
            spec=spec.text.strip("\n"), assistant=config.assistant, maker=config.maker
        )
        self._expansions: list[Expansion] = []
        self._shortfalls: list[Shortfall] = []

    def plan_model(self) -> Hierarchy:
        """domains -> subdomains -> assertions and types -> ideas."""
        config = self.config
        sections = {f"S{i}": s for i, s in enumerate(with_text(self.spec), 1)}
        titles = "\n".join(f"{handle}: {_path(self.spec, s)}" for handle, s in sections.items())
        root = Parent(self.spec.id, self.spec.title)
        domains = self._ask(levels.domains(config.domains, config.subdomains), [root])[root.id]
        subdomains = self._ask(
            levels.subdomains(config.subdomains, sections, titles),
            [Parent(d.id, d.name, {"domain": d.name, "description": d.text}) for d in domains],
        )
        topics = {
            item.id: Topic(
                domain=domain.name,
                name=item.name,
                description=item.text,
                section_id=sections[item.ref].id,
                heading=sections[item.ref].heading,
                section_text=sections[item.ref].text,
                is_all=is_all(self.spec, sections[item.ref]),
            )
            for domain in domains
            for item in subdomains[domain.id]
        }
        parents = [_parent(id, topic) for id, topic in topics.items()]
        stated = self._ask(levels.assertions(config.assertions), parents)
        for id, topic in topics.items():
            topics[id] = replace(topic, assertions=tuple(item.name for item in stated[id]))
        types = self._ask(levels.types(config.types), parents)
        return self._finish(levels.ideas(config.ideas), topics, types)

    def plan_rules(self) -> Hierarchy:
        """domains of rules -> rules -> types -> ideas."""
        config, found = self.config, rules(self.spec)
        if not found:
            raise UserError(
                f"spec {self.spec.title!r} has no numbered rules, which mode 'rules' plans for; "
                "begin each with a label such as '1.', '1.2' or 'R3:', or use mode 'model'"
            )
        root = Parent(self.spec.id, self.spec.title, numbers=len(found))
        domains = self._ask(levels.rule_domains(config.domains, found), [root])[root.id]
        topics = {
            rule.id: Topic(
                domain=domain.name,
                name=rule.label,
                description=domain.text,
                section_id=rule.id,
                heading="",
                section_text=rule.text,
            )
            for rule, domain in self._sort(found, domains)
        }
        parents = [_parent(id, topic) for id, topic in topics.items()]
        types = self._ask(levels.types(config.types, "rules_types"), parents)
        return self._finish(levels.rule_ideas(config.ideas), topics, types)

    def _sort(self, found: Sequence[Rule], domains: Sequence[Item]) -> list[tuple[Rule, Item]]:
        """Each rule with its domain: the last one that names it, since later ones divide earlier.

        A rule that no domain names is filed under its heading, so that none is lost, and is
        reported as a shortfall; so is a domain that is left without a rule.
        """
        headings = {section.id: section.heading for section in self.spec.sections}
        chosen = {int(place): domain for domain in domains for place in domain.ref.split(",")}
        pairs: list[tuple[Rule, Item]] = []
        for place, rule in enumerate(found, 1):
            domain = chosen.get(place)
            if domain is None:
                heading = headings[rule.section_id] or self.spec.title
                domain = Item(self.spec.id, heading, f"The rules below the heading: {heading}.")
                reasons = {"in no domain, filed under its heading": 1}
                self._shortfalls.append(Shortfall("rules", rule.label, 1, 0, reasons))
            pairs.append((rule, domain))
        used = {domain.id for _, domain in pairs}
        for domain in domains:
            if domain.id not in used:
                reasons = {"all its rules went to other domains": 1}
                self._shortfalls.append(Shortfall("rules", domain.name, 1, 0, reasons))
        return pairs

    def _finish(
        self, level: Level, topics: Mapping[str, Topic], types: Mapping[str, tuple[Item, ...]]
    ) -> Hierarchy:
        """The topics with their types and ideas, and all that was reported on the way."""
        parents = []
        for id, topic in topics.items():
            for parent in _idea_parents(_parent(id, topic), topic, types[id]):
                if topic.assertions or self.config.mode == "rules":
                    parents.append(parent)
                else:
                    reasons = {"its topic has no assertion": 1}
                    lost = Shortfall(level.name, parent.label, level.wanted, 0, reasons)
                    self._shortfalls.append(lost)
        ideas = self._ask(level, parents)
        made = [
            replace(
                topic,
                types=tuple(DocType(kind.name, kind.text) for kind in types[id]),
                ideas=tuple(
                    tuple(_idea(topic, item) for item in ideas.get(kind.id, ()))
                    for kind in types[id]
                ),
            )
            for id, topic in topics.items()
        ]
        return Hierarchy(
            spec=self.spec,
            config=self.config,
            topics=tuple(made),
            shortfalls=(*(s for e in self._expansions for s in e.shortfalls), *self._shortfalls),
            failures=tuple(failure for e in self._expansions for failure in e.failures),
            dropped={e.level: e.dropped for e in self._expansions},
            calls=sum(e.calls for e in self._expansions),
            prompt_tokens=sum(e.prompt_tokens for e in self._expansions),
            tokens=sum(e.tokens for e in self._expansions),
        )

    def _ask(self, level: Level, parents: Sequence[Parent]) -> Mapping[str, tuple[Item, ...]]:
        level = replace(level, system=self._system)
        expansion = expand(level, parents, self._answers, self.config, self._work, self._progress)
        self._check(expansion)
        self._expansions.append(expansion)
        return expansion.items


def _parent(id: str, topic: Topic) -> Parent:
    """A topic, to be asked about."""
    values = {
        "domain": topic.domain,
        "subdomain": topic.name,
        "label": topic.name,
        "description": topic.description,
        "section": topic.shown,
    }
    return Parent(id, f"{topic.domain} / {topic.name}", values)


def _idea_parents(parent: Parent, topic: Topic, types: Sequence[Item]) -> Iterator[Parent]:
    """A topic with each of its document types, to be asked about. Long texts are shared."""
    stated = "\n".join(f"{i}: {text}" for i, text in enumerate(topic.assertions, 1))
    for kind in types:
        values = {"assertions": stated, "doc_type": kind.name, "type_description": kind.text}
        label = f"{parent.label} / {kind.name}"
        yield Parent(kind.id, label, {**parent.values, **values}, len(topic.assertions))


def _idea(topic: Topic, item: Item) -> Idea:
    return Idea(item.name, topic.assertions[int(item.ref) - 1] if item.ref else "")


def _path(spec: Spec, section: SpecSection) -> str:
    """A section's heading below the headings that it stands under."""
    above: list[SpecSection] = []
    for other in spec.sections:
        above = [*(s for s in above if s.level < other.level), other]
        if other.id == section.id:
            break
    return " > ".join(s.heading for s in above if s.heading) or "(before the first heading)"
