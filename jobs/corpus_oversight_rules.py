"""Documents about human oversight as twenty rules.

    msm preview jobs/corpus_oversight_rules.py
    msm run jobs/corpus_oversight_rules.py

All but the spec and the mode is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/oversight_rules.md."""
    return corpus_about("oversight_rules", mode="rules")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
