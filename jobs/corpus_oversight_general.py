"""Documents about human oversight in general terms.

    msm preview jobs/corpus_oversight_general.py
    msm run jobs/corpus_oversight_general.py

All but the spec is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/oversight_general.md."""
    return corpus_about("oversight_general")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
