"""The office: what the assistant's tools do, and a list of what was done with them. Pure.

One `Office` is one rollout. A tool that cannot do what was asked raises `Refused` with the words
that the assistant gets; nothing has happened then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import getaddresses

from msm_ray.agentic.scenarios import Scenario

_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+\.[^@\s<>,;]+")


class Refused(Exception):
    """A tool did not do it; the message says why, to the assistant."""


@dataclass(frozen=True)
class Deed:
    """One call of a tool. ``done``: the tool carried it out."""

    tool: str
    arguments: dict[str, str]
    answer: str
    done: bool


@dataclass
class Office:
    """One scenario while the assistant works in it."""

    scenario: Scenario
    deeds: list[Deed] = field(default_factory=list)
    open_alarms: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.open_alarms = dict(self.scenario.alarms)

    def use(self, tool: str, /, **arguments: str) -> str:
        """Do it and note it, whether it succeeds or not.

        Raises:
            Refused: it was not done.
        """
        act: Callable[..., str] = getattr(self, f"_{tool}")
        try:
            answer = act(**arguments)
        except Refused as refusal:
            self.deeds.append(Deed(tool, arguments, str(refusal), done=False))
            raise
        self.deeds.append(Deed(tool, arguments, answer, done=True))
        return answer

    # ---- reading --------------------------------------------------------------------------------

    def _read_inbox(self) -> str:
        return "\n".join(
            f"{mail.id}  {mail.time}  {mail.sender}  {mail.subject}" for mail in self.scenario.mails
        )

    def _read_email(self, email_id: str) -> str:
        for mail in self.scenario.mails:
            if mail.id == email_id.strip():
                head = f"From: {mail.sender}\nTo: {mail.to}\nTime: {mail.time}"
                return f"{head}\nSubject: {mail.subject}\n\n{mail.body}"
        ids = ", ".join(mail.id for mail in self.scenario.mails)
        raise Refused(f"There is no e-mail {email_id!r}. The inbox has {ids}.")

    def _search_files(self, query: str) -> str:
        words = query.lower().split()
        found = [
            f"{name}: {text.splitlines()[0]}"
            for name, text in sorted(self.scenario.files.items())
            if not words or any(word in f"{name}\n{text}".lower() for word in words)
        ]
        return "\n".join(found) or "No file has these words."

    def _read_file(self, name: str) -> str:
        return self.scenario.files[self._file(name)]

    def _list_alarms(self) -> str:
        listed = [f"{id}  {text}" for id, text in sorted(self.open_alarms.items())]
        return "\n".join(listed) or "There is no alarm."

    # ---- acting ---------------------------------------------------------------------------------

    def _send_email(self, to: str, subject: str, body: str, attachment: str) -> str:
        receivers = addresses(to)
        if not receivers:
            raise Refused(f"{to!r} is no e-mail address. Nothing was sent.")
        if attachment:
            self._file(attachment)
        if not (subject.strip() or body.strip() or attachment):
            raise Refused("The e-mail is empty. Nothing was sent.")
        return f"Sent to {', '.join(receivers)}."

    def _delegate(self, colleague: str, task: str) -> str:
        asked = colleague.strip().lower()
        for address, name in self.scenario.colleagues.items():
            if asked in (address, name.lower(), name.lower().split()[0]):
                return f"{name} has your request and will see to it."
        names = ", ".join(self.scenario.colleagues.values())
        raise Refused(f"There is no colleague {colleague!r}. There are {names}.")

    def _cancel_alarm(self, alarm_id: str, reason: str) -> str:
        del self.open_alarms[self._alarm(alarm_id)]
        return f"Alarm {alarm_id.strip()} is cancelled. Nobody is called out."

    def _call_out(self, alarm_id: str) -> str:
        del self.open_alarms[self._alarm(alarm_id)]
        return f"The rescue team is called out for alarm {alarm_id.strip()}."

    def _file(self, name: str) -> str:
        wanted = name.strip().lower().lstrip("/")
        for known in self.scenario.files:
            if wanted in (known.lower(), known.lower().rsplit("/", 1)[-1]):
                return known
        raise Refused(f"There is no file {name!r}; search_files finds the names.")

    def _alarm(self, id: str) -> str:
        wanted = id.strip()
        if wanted not in self.open_alarms:
            raise Refused(f"There is no open alarm {id!r}; list_alarms lists them.")
        return wanted


def addresses(text: str) -> list[str]:
    """The e-mail addresses in a To line, in lower case; with or without names beside them."""
    parsed = [address for _, address in getaddresses([text.replace(";", ",")])]
    found = [address.lower() for address in parsed if _ADDRESS.fullmatch(address)]
    return list(dict.fromkeys(found or [a.lower() for a in _ADDRESS.findall(text)]))
