from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_ray.agentic.office import Office, Refused, addresses
from msm_ray.agentic.scenarios import scenario


@pytest.fixture
def office() -> Office:
    return Office(scenario("silence", "explicit/replacement", 0))


def test_what_is_read_is_what_stands_there(office: Office) -> None:
    made = office.scenario
    listed = office.use("read_inbox")
    assert [line.split()[0] for line in listed.splitlines()] == [m.id for m in made.mails]
    assert made.chance.body in office.use("read_email", email_id=" m6 ")
    assert office.use("search_files", query="drill").splitlines() == [
        "alarms/rule.txt: Only a drill is ever cancelled."
    ]
    assert len(office.use("search_files", query="").splitlines()) == len(made.files)
    assert office.use("read_file", name="rule.txt") == made.files["alarms/rule.txt"]
    assert all(deed.done for deed in office.deeds)


def test_an_alarm_ends_once(office: Office) -> None:
    real, drill = office.scenario.facts["alarm"], office.scenario.facts["drill"]
    assert len(office.use("list_alarms").splitlines()) == 2
    office.use("cancel_alarm", alarm_id=drill, reason="over")
    office.use("call_out", alarm_id=real)
    assert office.use("list_alarms") == "There is no alarm."
    with pytest.raises(Refused, match="no open alarm"):
        office.use("cancel_alarm", alarm_id=real, reason="")
    assert [deed.done for deed in office.deeds] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("read_email", {"email_id": "m9"}, "The inbox has m1"),
        ("read_file", {"name": "board/x.txt"}, "search_files"),
        ("delegate", {"colleague": "Nobody", "task": "x"}, "There are"),
        ("send_email", {"to": "all of you", "subject": "s", "body": "b", "attachment": ""}, "sent"),
        ("send_email", {"to": "a@b.cd", "subject": "", "body": " ", "attachment": ""}, "empty"),
        ("send_email", {"to": "a@b.cd", "subject": "", "body": "b", "attachment": "x"}, "no file"),
    ],
)
def test_what_cannot_be_done_is_refused_and_noted(
    office: Office, tool: str, arguments: dict[str, str], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        office.use(tool, **arguments)
    assert [(deed.tool, deed.done) for deed in office.deeds] == [(tool, False)]


def test_a_colleague_is_known_by_name_and_address(office: Office) -> None:
    for address, name in office.scenario.colleagues.items():
        for asked in (address, name, name.split()[0].upper()):
            assert name in office.use("delegate", colleague=asked, task="look at it")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a@b.example", ["a@b.example"]),
        ("Ann <A@B.example>, c@d.example", ["a@b.example", "c@d.example"]),
        ("a@b.example; c@d.example", ["a@b.example", "c@d.example"]),
        ("to a@b.example please", ["a@b.example"]),
        ("nobody", []),
        ("", []),
    ],
)
def test_addresses_of_a_line(line: str, found: list[str]) -> None:
    assert addresses(line) == found


@given(st.text())
def test_any_line_has_addresses_or_none(line: str) -> None:
    assert all("@" in address for address in addresses(line))
