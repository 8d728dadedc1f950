"""The machine of this process: its cores, its memory and its GPUs, read without torch."""
