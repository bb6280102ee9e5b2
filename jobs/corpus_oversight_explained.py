"""Documents about human oversight, its values explained.

    msm preview jobs/corpus_oversight_explained.py
    msm run jobs/corpus_oversight_explained.py

All but the spec is that of corpus_america.py.
"""

from corpus_america import corpus_about

from msm_ray.corpus.job import CorpusJob


def experiment() -> CorpusJob:
    """The corpus about specs/oversight_explained.md."""
    return corpus_about("oversight_explained")


if __name__ == "__main__":
    from msm_ray.cli import job_main

    job_main(experiment)
