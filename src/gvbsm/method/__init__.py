"""The paper, on tensors and networks alone: no files, no processes, no progress."""
