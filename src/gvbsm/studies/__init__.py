"""Many runs: studies of the paper's tables and figures, their settings and results."""
