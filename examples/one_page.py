"""G-VBSM on scikit-learn's digits by `gvbsm.method` alone, in under a minute on two CPU cores.

Teachers, statistics, images, labels and a student, beside random pictures with the same labels.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from gvbsm import method
from gvbsm.config import LabelsConfig, OptimizerConfig, SynthesisConfig, ViewConfig
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime

IPC, CLASSES, N_P = 1, 10, 4  # images per class, classes, side of a patch in pixels
RUNTIME = Runtime(torch.device("cpu"), "fp32", seed=0)
VIEWS = ViewConfig(crop="pad", padding=1, flip=False)

digits = load_digits()
pictures = torch.tensor(digits.images * 15.9375).round().to(torch.uint8)[:, None]  # (N, 1, 8, 8)
classes, order = torch.tensor(digits.target), torch.randperm(1797, generator=RUNTIME.generator())
train, test = order[:1437], order[1437:]
levels = pictures[train].double() / 255
normalization = Normalization((levels.mean().item(),), (levels.std().item(),))
real, held_out = (normalization.normalize(pictures[index]) for index in (train, test))


def network(width, depth):
    layers = []
    for channels in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(width * 16, CLASSES))


def fit(model, steps, batch_loss):
    solver = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    for step in range(steps):
        solver.zero_grad()
        batch_loss(model.train(), step).backward()
        solver.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def accuracy(model):
    return 100 * (model(held_out).argmax(dim=1) == classes[test]).double().mean().item()


def teacher_loss(model, step):  # squeeze: networks of different sizes learn the real pictures
    batch = torch.randint(len(train), (128,), generator=RUNTIME.generator("squeeze", step))
    return F.cross_entropy(model(real[batch]), classes[train][batch])


def student_accuracy(images, labels):  # labels of every view; MSE + gamma x CE (Eq. 8, 11)
    def loss(model, epoch):
        plan = method.draw_plan(len(images), 8, label_config.views, epoch, RUNTIME)
        views = method.view_batch(images, plan, plan.order, normalization, RUNTIME)
        logits = method.label_batch(views, networks, label_config, RUNTIME).float()
        outputs, partners = model(views), labels[plan.mixes.partners[plan.order]]
        hard = method.hard_loss(outputs, labels[plan.order], partners, torch.ones(len(images)))
        return method.mse_gt_loss(outputs, logits, hard, gamma=0.1)

    return accuracy(fit(network(32, 3), 600, loss))


torch.manual_seed(0)
networks = [fit(network(width, depth), 300, teacher_loss) for width, depth in ((32, 2), (24, 4))]
label_config = LabelsConfig(views=ViewConfig(crop="pad", padding=1, flip=False, cutmix=1.0))
config = SynthesisConfig(
    iterations=200, views=VIEWS, weight_batchnorm=3.0, weight_conv=3.0, beta_dr=0.0,
    optimizer=OptimizerConfig(name="adam", lr=0.02, betas=(0.5, 0.9)),
)  # fmt: skip
teachers = []
for name, model in zip(("shallow", "deep"), networks, strict=True):
    statistics = method.record_statistics(model, real.split(256), N_P)  # GSM's global statistics
    teachers.append(method.make_teacher(name, model, statistics, config, N_P, (1, 8, 8)))
labels = torch.arange(CLASSES).repeat_interleave(IPC)
chosen = torch.cat([(classes[train] == label).nonzero()[:IPC, 0] for label in range(CLASSES)])
stack = method.make_stack([0], labels, RUNTIME.device)
state = method.begin_synthesis(real[chosen], normalization.bounds(), stack, teachers, config)
for step in method.synthesize(state, stack, teachers, config, RUNTIME):
    if step.number % 50 == 0:
        print(f"iteration {step.number}: loss {step.loss.item():.2f}, teacher {step.teacher}")
images = normalization.denormalize(state.images.detach())
print("teachers:", ", ".join(f"{accuracy(model):.1f} %" for model in networks))
print(f"a student of {len(images)} distilled images: {student_accuracy(images, labels):.1f} %")
score = student_accuracy(pictures[train][chosen], labels)
print(f"of as many random pictures with such labels: {score:.1f} %")
