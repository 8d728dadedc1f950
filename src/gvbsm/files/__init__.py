"""Files: written in one step, checked when read, listed, locked; no pickle."""
