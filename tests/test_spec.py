from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msm_ray.errors import UserError
from msm_ray.spec import MAX_BYTES, read_spec

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
    assert [(s.level, s.heading) for s in spec.sections] == [(0, "")]
    assert spec.title == "spec"


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
    path.write_text("# A spec\n\nprefers a to b, because it is no bullet\n- prefers only a\n")
    text = _refused(path)
    assert "states no preference" in text
    assert "- prefers X to Y, because REASON" in text


def test_the_packaged_specs_are_specs() -> None:
    specs = Path(__file__).parents[1] / "specs"
    found = [read_spec(path) for path in sorted(specs.glob("*.md"))]
    assert len(found) >= 2
    for spec in found:
        assert spec.title
        assert len(spec.preferences) >= 2
        assert all(p.reason for p in spec.preferences)
