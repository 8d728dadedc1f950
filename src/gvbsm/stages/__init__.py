"""One file a stage: squeeze, statistics, synthesis, labels, evaluation; resumable."""
