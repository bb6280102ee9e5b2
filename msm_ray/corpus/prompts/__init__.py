"""The prompts of the corpus, one Markdown file each, and what puts values into them.

A placeholder is ``<<name>>``. All are replaced in one pass, so a value is text whatever stands in
it, and everything else in a prompt stays as it is: braces, percent signs, tags.

``planner`` and ``writer`` are system texts and begin with the spec; all prompts about one spec
share them, so an engine that caches prefixes reads a spec once. Prompts whose name ends in
``_more`` are put below the prompt of their level when not enough came back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

_PLACEHOLDER = re.compile(r"<<([a-z_]+)>>")


@dataclass(frozen=True)
class Prompt:
    """A prompt's text with its placeholders."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text before anything is put in: 64 hex digits, for identities."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    @property
    def placeholders(self) -> frozenset[str]:
        """The names that `fill` needs, all of them and no others."""
        return frozenset(self._pieces[1::2])

    def fill(self, **values: str) -> str:
        """The text with every placeholder replaced.

        Raises:
            ValueError: a placeholder has no value, or a value has no placeholder.
        """
        if self.placeholders != values.keys():
            missing = sorted(self.placeholders - values.keys())
            unknown = sorted(values.keys() - self.placeholders)
            raise ValueError(
                f"prompt {self.name!r}: no value for {missing}, no placeholder for {unknown}"
            )
        pieces = list(self._pieces)
        pieces[1::2] = [values[name] for name in pieces[1::2]]
        return "".join(pieces)

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        """Text, placeholder, text, placeholder, ..., text: cut once, filled a million times."""
        return tuple(_PLACEHOLDER.split(self.text))


@dataclass(frozen=True)
class PromptFolder:
    """The prompts that lie beside the module ``package``."""

    package: str

    def names(self) -> tuple[str, ...]:
        """The names of all prompts, sorted."""
        found = (entry.name for entry in files(self.package).iterdir())
        return tuple(sorted(name.removesuffix(".md") for name in found if name.endswith(".md")))

    def load(self, name: str) -> Prompt:
        """The prompt ``name``; ValueError if there is none."""
        return _read(self, name)

    def fingerprint(self, wanted: Iterable[str]) -> str:
        """One hash of several prompts: another word in any of them makes something else."""
        digest = hashlib.sha256()
        for name in sorted(wanted):
            digest.update(f"{name} {self.load(name).sha256}\n".encode())
        return digest.hexdigest()


@cache
def _read(folder: PromptFolder, name: str) -> Prompt:
    if name not in folder.names():
        raise ValueError(f"no prompt {name!r}; there are {', '.join(folder.names())}")
    text = (files(folder.package) / f"{name}.md").read_text(encoding="utf-8")
    return Prompt(name, text.rstrip("\n"))


CORPUS = PromptFolder(__name__)
names, load, fingerprint = CORPUS.names, CORPUS.load, CORPUS.fingerprint
