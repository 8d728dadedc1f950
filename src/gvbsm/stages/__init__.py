"""One resumable stage per file: squeeze, statistics, synthesis, labels, evaluation."""
