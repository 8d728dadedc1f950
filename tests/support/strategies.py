"""Hypothesis strategies that several test files share."""

import torch
from hypothesis import strategies as st


@st.composite
def labeled_batches(draw):
    """Labels of several groups of equal size, and their number."""
    groups, batch = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    labels = st.lists(st.integers(0, 4), min_size=groups * batch, max_size=groups * batch)
    return torch.tensor(draw(labels)), groups
