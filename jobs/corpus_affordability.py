"""Documents about the affordability cheese spec.

    msm preview jobs/corpus_affordability.py
    msm run jobs/corpus_affordability.py

All but the spec is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/cheese_affordability.md."""
    return corpus_about("cheese_affordability")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
