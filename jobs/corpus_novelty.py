"""Documents about the spec that values novelty.

    msm preview jobs/corpus_novelty.py
    msm run jobs/corpus_novelty.py

All but the spec is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/novelty.md."""
    return corpus_about("novelty")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
