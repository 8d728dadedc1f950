"""The paper's algorithm on tensors and networks alone: no files, no processes."""

from gvbsm.data.epochs import draw_plan, view_batch
from gvbsm.method.ensemble import label_batch
from gvbsm.method.groups import group_indices, make_stack
from gvbsm.method.losses import densify, ensemble_logits, hard_loss, kd_loss, mse_gt_loss
from gvbsm.method.matching import make_teacher, matching_loss
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics, record_statistics
from gvbsm.method.synthesis import begin_synthesis, synthesize

__all__ = [
    "Moments",
    "Statistics",
    "begin_synthesis",
    "densify",
    "draw_plan",
    "ensemble_logits",
    "group_indices",
    "hard_loss",
    "kd_loss",
    "label_batch",
    "make_stack",
    "make_teacher",
    "matching_loss",
    "mse_gt_loss",
    "record_statistics",
    "synthesize",
    "view_batch",
]
