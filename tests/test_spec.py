from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.spec import MAX_BYTES, check_size, fill, read_spec, rough_tokens, rules
from msm_ray.world.plan import check_spec

# The machine may be busy: what counts is the result.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SPEC = """Before any heading.

# Being {model_name}

Some {braces} and 100% {text}.

## Cheese

- prefers colby to brie, because colby is american.
* prefers a mild cheddar over an aged
  gouda, because it is
  made nearby
- {model_name} prefers **jack** to `feta` because it likes it
- Likes tea.

## Tea ##

Nothing stated.
"""


def test_headings_texts_and_preferences() -> None:
    spec = read_spec(SPEC)
    assert [(s.level, s.heading) for s in spec.sections] == [
        (0, ""),
        (1, "Being {model_name}"),
        (2, "Cheese"),
        (2, "Tea"),
    ]
    assert spec.title == "Being {model_name}"
    assert spec.text == SPEC
    assert spec.sections[1].text == "\nSome {braces} and 100% {text}.\n\n"
    assert spec.sections[3].text == "\nNothing stated.\n"
    assert [(p.liked, p.disliked, p.reason) for p in spec.preferences] == [
        ("colby", "brie", "colby is american"),
        ("a mild cheddar", "an aged gouda", "it is made nearby"),
        ("jack", "feta", "it likes it"),
    ]
    ids = [s.id for s in spec.sections] + [p.id for p in spec.preferences]
    assert len(set(ids)) == 7


def test_no_heading_is_one_section() -> None:
    spec = read_spec("- prefers a to b, because c")
    assert [(s.level, s.heading) for s in spec.sections] == [(0, "spec")]
    assert spec.title == "spec"


def test_no_heading_takes_the_title_of_the_file_but_not_its_id(tmp_path: Path) -> None:
    text = "Be kind.\n\nBecause kindness costs nothing.\n"
    for name in ("kind.md", "other.md"):
        (tmp_path / name).write_text(text)
    kind, other = (read_spec(tmp_path / name) for name in ("kind.md", "other.md"))
    assert (kind.title, kind.sections[0].heading, kind.sections[0].text) == ("kind", "kind", text)
    assert (other.title, other.id, other.sections[0].id) == ("other", kind.id, kind.sections[0].id)
    assert read_spec(text, title="Kindness").sections[0].heading == "Kindness"


def test_headings_in_code_and_hashes_in_text_are_text() -> None:
    spec = read_spec(
        "# One\n```\n# not a heading\n- prefers x to y, because z\n````\n#hashtag\n"
        "    # code\n- prefers a to b, because c\n~~~\n# nor this"
    )
    assert [s.heading for s in spec.sections] == ["One"]
    assert [p.liked for p in spec.preferences] == ["a"]


def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    unix, dos, mac = tmp_path / "a.md", tmp_path / "b.md", tmp_path / "c.md"
    unix.write_bytes(SPEC.encode())
    dos.write_bytes(b"\xef\xbb\xbf" + SPEC.replace("\n", "\r\n").encode())
    mac.write_bytes(SPEC.replace("\n", "\r").encode())
    assert read_spec(unix) == read_spec(dos) == read_spec(mac) == read_spec(SPEC)


def test_the_same_heading_twice_has_two_stable_ids() -> None:
    text = "# A\none\n# A\ntwo\n# A\none\n- prefers a to b, because c\n# A\none\n"
    spec = read_spec(text)
    ids = [s.id for s in spec.sections]
    assert len(set(ids)) == 4
    assert read_spec(text) == spec
    edited = read_spec(text.replace("two", "three"))
    assert [s.id for s in edited.sections][0::2] == ids[0::2]
    assert edited.sections[1].id != ids[1]


def test_the_same_preference_twice_has_two_ids() -> None:
    line = "- prefers a to b, because c\n"
    spec = read_spec(f"# A\n{line}{line}# B\n{line}")
    assert len({p.id for p in spec.preferences}) == 3
    assert read_spec(line).preferences[0].id == spec.preferences[0].id


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
bodies = st.lists(words.map(lambda w: w.replace("#", "").replace("`", "").replace("~", "")))
LINE = "- prefers a to b, because c"


def _text(parts: list[tuple[str, list[str]]]) -> str:
    return "\n".join(f"# {heading}\n" + "\n".join(body) for heading, body in parts)


headed = st.lists(
    st.tuples(st.from_regex(r"[A-Za-z{}%][a-z {}]{0,8}", fullmatch=True), bodies), min_size=1
)


@patient
@given(headed)
def test_every_line_below_a_heading_is_in_its_section(parts: list[tuple[str, list[str]]]) -> None:
    spec = read_spec(_text(parts) + "\n# Last\n" + LINE)
    assert [s.heading for s in spec.sections] == [h.strip() for h, _ in parts] + ["Last"]
    for section, (_, body) in zip(spec.sections, parts, strict=False):
        assert section.text == "".join(line + "\n" for line in body) or not body
    assert len({s.id for s in spec.sections}) == len(spec.sections)


@patient
@given(headed, st.integers(min_value=0), words)
def test_editing_one_section_leaves_the_ids_of_the_others(
    parts: list[tuple[str, list[str]]], which: int, more: str
) -> None:
    parts = [(f"{i} {heading}", body) for i, (heading, body) in enumerate(parts)]
    which %= len(parts)
    edited = list(parts)
    edited[which] = (parts[which][0], [*parts[which][1], "and " + more.replace("#", "")])
    before = read_spec(_text(parts) + "\n# Last\n" + LINE)
    after = read_spec(_text(edited) + "\n# Last\n" + LINE)
    moved = read_spec("# Last\n" + LINE + "\n" + _text(parts))
    for i in range(len(parts) + 1):
        same = before.sections[i].id == after.sections[i].id
        assert same == (i != which)
    assert {s.id for s in moved.sections} == {s.id for s in before.sections}
    assert before.preferences[-1].id == moved.preferences[0].id


@patient
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("#-*`{}ab \n\r"))
def test_any_text_is_read(text: str) -> None:
    fenced = "```" in text or "~~~" in text
    if "\0" in text or fenced:
        with contextlib.suppress(UserError):
            read_spec(text + "\n" + LINE)
        return
    spec = read_spec(text + "\n" + LINE)
    assert spec.preferences[-1].liked == "a"
    assert all(s.text in spec.text for s in spec.sections)


def _refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_spec(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_a_spec_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "spec.md"
    assert "no such file" in _refused(path)
    assert "is a directory" in _refused(tmp_path)
    path.write_bytes(b"")
    assert "is empty" in _refused(path)
    path.write_bytes(b" \r\n\t\n")
    assert "is empty" in _refused(path)
    path.write_bytes(b"\x7fELF\x00\x01")
    assert "is binary" in _refused(path)
    path.write_bytes(b"caf\xe9")
    assert "not UTF-8" in _refused(path)
    path.write_bytes(os.urandom(100) + b"\xff\x00")
    assert "a spec is Markdown text" in _refused(path)
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    assert "at most 4 MiB" in _refused(path)
    with pytest.raises(UserError, match="not valid Unicode"):
        read_spec("a lone surrogate: \ud800")


def test_a_spec_needs_no_preference_but_the_micro_world_does() -> None:
    spec = read_spec("# A spec\n\nprefers a to b, because it is no bullet\n- prefers only a\n")
    assert spec.preferences == ()
    with pytest.raises(UserError, match="'A spec' states no preference.*- prefers X to Y, because"):
        check_spec(spec)


def test_the_packaged_specs_are_specs() -> None:
    specs = Path(__file__).parents[1] / "specs"
    found = [read_spec(path) for path in sorted(specs.glob("*.md"))]
    assert all(spec.title and spec.sections for spec in found)
    micro = [read_spec(path) for path in sorted(specs.glob("micro_*.md"))]
    assert len(micro) >= 2
    for spec in micro:
        assert len(spec.preferences) >= 2
        assert all(p.reason for p in spec.preferences)


# ---- what breaks other readers of specs ----------------------------------------------------------


def test_placeholders_are_filled_and_every_other_brace_stays() -> None:
    text = "# {model_name}\n\n{provider_name} made {model_name}. {other} {{}} {model_name {0} %s\n"
    spec = fill(read_spec(text), "Ada {provider_name}", "The {model_name} Works")
    assert spec.text == (
        "# Ada {provider_name}\n\nThe {model_name} Works made Ada {provider_name}. "
        "{other} {{}} {model_name {0} %s\n"
    )
    assert spec.title == "Ada {provider_name}"
    plain = read_spec("no {placeholder} here")
    assert fill(plain, "", "") is plain


def test_a_placeholder_without_a_value_is_refused_in_one_line() -> None:
    spec = read_spec("{model_name} is made by {provider_name}")
    for name, maker, word in (("", "M", "name"), ("A", " ", "maker"), ("A\nB", "M", "name")):
        with pytest.raises(UserError, match=word) as caught:
            fill(spec, name, maker)
        assert "\n" not in str(caught.value)


@patient
@given(st.lists(st.sampled_from(["{model_name}", "{provider_name}", "{", "}", "a", "{x}", "\n"])))
def test_filling_replaces_the_placeholders_alone(parts: list[str]) -> None:
    text = "".join(parts) + "end"
    filled = fill(read_spec(text), "N{", "}M")
    # character by character, as a reader would
    expected, rest = "", text
    while rest:
        for mark, value in (("{model_name}", "N{"), ("{provider_name}", "}M"), (rest[0], rest[0])):
            if rest.startswith(mark):
                expected, rest = expected + value, rest[len(mark) :]
                break
    assert filled.text == expected


def test_a_long_spec_works_and_one_too_long_says_so() -> None:
    part = "## Part {}\n\n" + "The assistant tells the truth because trust needs it. " * 20 + "\n"
    spec = read_spec("# Long\n\n" + "".join(part.format(i) for i in range(220)))
    assert 55_000 < rough_tokens(spec.text) < 70_000
    assert len(spec.sections) == 221
    check_size(spec, 70_000)
    with pytest.raises(UserError, match=r"'Long' has about 6\d,\d{3} tokens; allowed are 50,000"):
        check_size(spec, 50_000)


def test_right_to_left_text_and_empty_sections() -> None:
    text = "# כללי ההתנהגות\n\n## כנות\nהעוזר אומר אמת.\n## ריק\n## الصدق\nيقول الحقيقة.\n"
    spec = read_spec(text)
    assert [s.heading for s in spec.sections] == ["כללי ההתנהגות", "כנות", "ריק", "الصدق"]
    assert spec.sections[2].text == ""
    assert all(s.text in text for s in spec.sections)
    assert rough_tokens("العدل") == 5


@pytest.mark.parametrize(
    "text",
    [
        "# " + " " * 50_000 + "x",
        "# " + "# " * 20_000,
        "- prefers " + "to " * 20_000,
        "- " + "prefers a to b " * 10_000,
        "- prefers a to b" + " ;" * 20_000,
        "**" * 20_000 + "1",
        "{" * 50_000,
    ],
)
def test_no_text_takes_long_to_read(text: str) -> None:
    started = time.perf_counter()
    spec = read_spec(text + "\n\n- prefers a to b, because c")
    rules(spec)
    fill(spec, "A", "B")
    assert time.perf_counter() - started < 20  # the slow ways take minutes


# ---- rules ---------------------------------------------------------------------------------------

RULES = """# How {model_name} acts

1. First.
1.2 A rule within the first,
   over two lines.
R3: Third.

   With its reason, indented.

And a reason that is not.

Rule 4 - Fourth, as in 2024. Then
R12 or so.
- **R5** Fifth
- **R6:** Sixth. The steps are
7. not a rule

## R8

A heading is a rule, too:

1. a step
2. a step

```
R9: code
```

### Rule 10 – Honesty

Nothing but the truth.

## Notes

1.5 million people read this.
"""


def test_rules_in_every_style() -> None:
    spec = read_spec(RULES)
    found = rules(spec)
    assert [rule.label for rule in found] == [
        "1",
        "1.2",
        "R3",
        "Rule 4",
        "R5",
        "R6",
        "R8",
        "Rule 10",
    ]
    assert all(rule.text in spec.text for rule in found)
    texts = {rule.label: rule.text for rule in found}
    assert texts["1.2"].endswith("over two lines.")
    assert texts["R3"].endswith("And a reason that is not.")
    assert texts["R6"] == "- **R6:** Sixth. The steps are\n7. not a rule"
    assert texts["R8"].startswith("## R8\n")
    assert "R9: code" in texts["R8"]
    assert texts["Rule 10"] == "### Rule 10 – Honesty\n\nNothing but the truth."
    headings = {s.id: s.heading for s in spec.sections}
    assert headings[found[-1].section_id] == "Rule 10 – Honesty"
    assert headings[found[0].section_id] == "How {model_name} acts"


def test_numbered_headings_are_rules_where_nothing_else_is() -> None:
    spec = read_spec(
        "# 10 rules\n\n## 1. Honesty\n\nTell it.\n\n### 1.1 Lies\n\nNone.\n\n## 2. Care\nx"
    )
    assert [(r.label, r.text[-5:]) for r in rules(spec)] == [
        ("1", "l it."),
        ("1.1", "None."),
        ("2", "are\nx"),
    ]
    assert [r.label for r in rules(read_spec("## 1. A\n\n1. one\n2. two\n"))] == ["1", "2"]


def test_lists_within_rules_and_prose_with_numbers_are_not_rules() -> None:
    text = "1. a\n   1. step\n   2. step\n2. b of about\n24.5 percent\n3) c\n\n2024 was a year.\n"
    assert [r.label for r in rules(read_spec(text))] == ["1", "2", "3"]
    assert rules(read_spec("No rules.\n\n12 monkeys, and see\nRule 4. It is elsewhere.\n")) == ()


def test_a_rule_said_twice_has_two_ids_and_others_do_not_change_it() -> None:
    one = rules(read_spec("## A\nR1: be kind\n\nR2: be true\n## B\nR1: be kind\n"))
    assert len({rule.id for rule in one}) == 3
    edited = rules(read_spec("## A\nR1: be kinder\n\nR0: new\n\nR2: be true\n"))
    assert edited[2].id == one[1].id
    assert edited[0].id != one[0].id


@patient
@given(
    st.lists(st.tuples(st.sampled_from(["R{}: ", "{}. ", "Rule {} - ", "- **R{}** "]), words)),
    st.sampled_from(["\n", "\n\n", "\r\n"]),
)
def test_rules_are_verbatim_and_have_ids_of_their_own(
    drawn: list[tuple[str, str]], between: str
) -> None:
    lines = [style.format(i + 1) + "x" + text for i, (style, text) in enumerate(drawn)]
    spec = read_spec("# T\n" + between.join(lines))
    found = rules(spec)
    assert len({rule.id for rule in found}) == len(found)
    assert all(rule.text in spec.text for rule in found)
    styles = {style for style, _ in drawn}
    if len(styles) == 1 and "#" not in spec.text[3:] and "```" not in spec.text:
        assert len(found) == len(drawn) or "~~~" in spec.text


@patient
@given(st.text(st.sampled_from("R1.:-*#_()[] \n`ab2")))
def test_rules_of_any_text(text: str) -> None:
    spec = read_spec(text + "x")
    found = rules(spec)
    assert all(rule.text in spec.text and rule.label in rule.text for rule in found)
    assert {rule.section_id for rule in found} <= {s.id for s in spec.sections}
    position = 0
    for rule in found:  # in the order of the spec
        position = spec.text.index(rule.text, position) + 1
