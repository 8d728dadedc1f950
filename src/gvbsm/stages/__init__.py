"""One resumable stage a file: squeeze, statistics, synthesis, labels, evaluation."""
