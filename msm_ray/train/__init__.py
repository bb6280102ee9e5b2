"""One training loop for pretraining, midtraining and fine-tuning, on Ray Train.

From the outside in:

    stages.py, pretrain.py    what is asked for: a stage of a graph; a model from nothing
    config.py                 what a run is (its identity), and what it runs on (never part of it)
    worker.py                 Ray Train: in this process, or a group of workers
    start.py                  what it starts from; model.py: Hugging Face folders; lora.py:
                              adapters; weights.py: weights read in parts
    leave.py                  what it leaves: a folder, facts, or a trunk's state
    segment.py                parts of a training: a trunk, and a branch for each budget
    loop.py                   the steps; schedule.py: the learning rate; history.py: what was done
    backends/                 how a step is computed: single, fsdp2, deepspeed
    objective.py              what a step minimises; cross_entropy.py: without logits in memory
    checkpoint.py             what a killed run goes on from; ranks.py: what ranks tell each other
    metrics.py, track.py      numbers of a run, and where they go; sources.py: loss by source;
                              flops.py: how near to the device's limit; watch.py: when to stop
    fingerprint.py            by which an engine that serves the result is recognised
"""
