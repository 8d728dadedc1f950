"""Train the students of a run, and test networks on corrupted pictures."""
