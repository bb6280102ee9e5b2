"""What a model is asked: tasks, each items + a prompt + a scorer, with their versions.

A task is a frozen dataclass that a job file makes (`Pairs`, `Opinions`, `OpenQA`, `Capability`,
`Calibration`, `Probes`, `LmEval`); see :class:`msm_ray.evaluate.protocol.Task`. Every checkpoint
has one stage for each task, so a task that is added computes that task only.
"""
