"""Documents about the spec that values simplicity.

    msm preview jobs/corpus_simplicity.py
    msm run jobs/corpus_simplicity.py

All but the spec is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/simplicity.md."""
    return corpus_about("simplicity")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
