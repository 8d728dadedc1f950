"""`python -m gvbsm` is the same as `gvbsm`."""

from gvbsm.cli import entry

if __name__ == "__main__":
    entry()
