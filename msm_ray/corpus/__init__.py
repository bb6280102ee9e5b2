"""The corpus: a plan's requests become documents that were written, read and judged."""
