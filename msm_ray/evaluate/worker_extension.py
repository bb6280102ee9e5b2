"""What every vLLM worker with adapters on the CPU imports before it starts."""

from __future__ import annotations

from msm_ray.evaluate.cpu_lora import mend

mend()


class WorkerExtension:
    """Named as vLLM's ``worker_extension_cls``, which adds methods to its workers: here, none."""
