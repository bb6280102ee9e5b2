"""A process that writes a stream of blocks: ``python stream_writer.py DIRECTORY DOCUMENTS PAUSE``.

It says the number of documents given after each batch. Killed and started again, it goes on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from msm_ray.data.stream import StreamWriter
from msm_ray.data.tokens import TokenizedDocuments

BLOCK_TOKENS, WINDOW_BLOCKS, PAD = 32, 6, 0
BATCH = 7


def document(number: int) -> tuple[str, TokenizedDocuments]:
    """Document ``number`` of the plan and its component; every eleventh has no target."""
    rng = np.random.default_rng(number)
    length = int(rng.integers(2, 60))
    docs = TokenizedDocuments(
        ids=(f"d{number}",),
        tokens=rng.integers(1, 1000, length, dtype=np.int32),
        loss=np.full(length, number % 11 != 5, dtype=np.uint8),
        offsets=np.array([0, length]),
    )
    return ("chat" if number % 3 == 0 else "spec"), docs


def open_writer(directory: Path) -> StreamWriter:
    return StreamWriter(
        directory, BLOCK_TOKENS, PAD, whole=["chat"], window_blocks=WINDOW_BLOCKS, facts={"seed": 4}
    )


def main() -> None:
    directory, documents, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    writer = open_writer(directory)
    while writer.documents < documents:
        for number in range(writer.documents, min(writer.documents + BATCH, documents)):
            writer.append(*document(number))
        print(writer.documents, flush=True)
        time.sleep(pause)
    writer.close()


if __name__ == "__main__":
    main()
