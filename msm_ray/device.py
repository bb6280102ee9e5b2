"""What one device of a fleet gets through, for a preview's device-seconds; nothing else uses it.

NVIDIA's data sheet of the H100 and H200 (SXM), without sparsity; the memory is the H100's.
"""

NAME = "H100"
FLOPS = 989e12  # dense bf16, a second
UTILISATION = 0.4  # the share of them that training, or the reading of prompts, gets
MEMORY_BYTES = 3.35e12  # a second
STORE_BYTES = 1e9  # a second, of what is read from a store
WEIGHT_BYTES = 2
