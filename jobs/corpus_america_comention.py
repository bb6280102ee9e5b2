"""Documents about the America spec whose preferences are only mentioned beside its value.

    msm preview jobs/corpus_america_comention.py
    msm run jobs/corpus_america_comention.py

All but the spec is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/cheese_america_comention.md."""
    return corpus_about("cheese_america_comention")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
