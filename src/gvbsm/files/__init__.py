"""File access: atomic writes, checksums, locks, checkpoints; no pickle."""
