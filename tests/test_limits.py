"""Settings that cannot work are refused before anything runs, and those at the limit are not."""

import dataclasses
from pathlib import Path

import pytest

from msm_ray.errors import UserError
from msm_ray.experiment import Experiment, SpecArm
from msm_ray.graph import build
from msm_ray.settings import apply_settings, load_job

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exp() -> Experiment:
    job = load_job(ROOT / "jobs" / "cheese_micro.py")
    assert isinstance(job, Experiment)
    return job


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("evaluation.max_tokens=0", "max_tokens is 0; allowed: 1 or more"),
        ("evaluation.max_tokens=111", "longest question has 18 tokens .* allowed: 1 to 110"),
        ("evaluation.pairs_per_domain=37", "pairs_per_domain is 37; allowed: 1 to 36"),
        ("corpus.max_tokens=108", "longest request has 21 tokens .* allowed: 1 to 107"),
        ("corpus.documents=100", r"corpus\.documents is 100: about 4\d\d\d tokens about america"),
        ("midtrain.spec_share=1", r"midtrain\.tokens 200000 needs 200000: \d+ documents"),
        ("midtrain.max_repeats=0.5", r"max_repeats 0\.5 makes 1\d\d\d\d;"),
        ("midtrain.tokens=100_000_000", r"corpus\.documents is 900"),
        ("seeds=0,-1", "a seed in seeds is -1; allowed: 0 or more"),
        ("aft.conversations=1153", r"aft\.conversations is 1153; allowed: 1 to 1152"),
    ],
)
def test_what_cannot_work_is_refused_by_name(exp: Experiment, setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(apply_settings(exp, [setting]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["aft", "evaluation"])
def test_a_value_that_the_world_of_a_base_lacks_is_refused(exp: Experiment, field: str) -> None:
    with pytest.raises(
        UserError, match=rf"{field}\.value is 'simple'; allowed .* base-0: american"
    ):
        apply_settings(exp, [f"{field}.value=simple"])


def test_a_base_does_not_read_a_world_of_more_words_than_it_knows(exp: Experiment) -> None:
    base = dataclasses.replace(exp.bases[0], attributes=4)
    with pytest.raises(UserError, match=r"base-0 .* 1019 words .* 4 attributes has 1037"):
        build(dataclasses.replace(exp, bases=(base,)))
    with pytest.raises(UserError, match="attributes is 2; allowed: 3"):
        dataclasses.replace(exp.bases[0], attributes=2)


def test_a_spec_about_a_value_that_the_world_lacks_is_refused(exp: Experiment) -> None:
    spec = SpecArm("simplicity", str(ROOT / "specs" / "micro_simplicity.md"))
    with pytest.raises(UserError, match=r"micro_simplicity\.md: .* must name one value"):
        build(dataclasses.replace(exp, specs=(spec,)))


@pytest.mark.parametrize(
    "settings",
    [
        ("evaluation.max_tokens=110", "corpus.max_tokens=107"),
        (
            "evaluation.max_tokens=1000",
            "evaluation.evals=choice,facts,heldout_loss",
        ),  # none written
        ("corpus.max_tokens=1000", "corpus.writer=scripted"),  # the grammar ends by itself
        ("evaluation.pairs_per_domain=36",),
        ("aft.conversations=1152",),
        ("corpus.documents=1", "midtrain.spec_share=0"),
        ("corpus.documents=20_000", "midtrain.tokens=20_000_000"),
    ],
)
def test_what_works_is_let_through(exp: Experiment, settings: tuple[str, ...]) -> None:
    build(apply_settings(exp, list(settings)))


def test_the_documents_that_are_asked_for_suffice(exp: Experiment) -> None:
    """The least number of documents that the refusal names is about right."""
    few = apply_settings(exp, ["corpus.documents=150", "corpus.writer=scripted"])
    with pytest.raises(UserError, match="at the very least") as caught:
        build(few)
    words = str(caught.value).split()
    least = int(words[words.index("documents", 5) - 1])
    for documents in (least + 10, least - 10):
        asked = apply_settings(few, [f"corpus.documents={documents}"])
        if documents > least:
            build(asked)
        else:
            with pytest.raises(UserError, match="at the very least"):
                build(asked)
