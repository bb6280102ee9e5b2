"""Corpora: a spec becomes a plan, a plan's requests become documents that are screened and judged.

Two paths meet in PLAN_SCHEMA and DOCUMENT_SCHEMA. Documents about a spec, by models of language:

    job, running          what a user decides; previewed, run and reported
    making                the stages of such a job, and the evaluation items
    config, hierarchy     the plan: levels (what is asked), expansion (until enough came),
                          structure (no model), outline (in between), plan (its rows)
    writing, drafting     the documents: written, judged, rewritten, drafted again
    screening             what may be kept: reading (tags, refusals: leftovers), naming
                          (known_names), contamination, near; verdicts (the judge)
    measures              the card
    prompts, rehearsal    what models are asked; what a scripted server says to it

The micro-world, whose documents have a grammar: ``task`` (what knows that world), ``pipeline``
(answers to documents), ``stages``, ``filters``. Both use ``ngrams`` and ``compact``.
"""
