"""The paper's algorithm on tensors and networks alone: no files, no processes."""
