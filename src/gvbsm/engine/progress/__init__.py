"""What a run says while it works: progress, the part of the run at work, and the log."""
