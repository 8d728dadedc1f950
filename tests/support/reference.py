"""The paper's mathematics restated slowly: a second opinion that shares no code with gvbsm.

Written from the equations of the G-VBSM paper (numbers below) in float64, with plain loops and no
care for speed: moments take two passes (mean first, deviations after), views visit every pixel.
Where a gradient is asked for, torch differentiates these loops.
"""

import math

import torch


def stop_grad(tensor):
    return tensor.detach()


def norm(tensor):
    """||.||_2 of all entries."""
    return tensor.square().sum().sqrt()


# Moments: section 3.3.


def mean_and_variance(values):
    """Mean and biased variance of a bag of numbers, in two passes."""
    values = values.double().reshape(-1)
    mean = values.sum() / len(values)
    return mean, (values - mean).square().sum() / len(values)


def channel_moments(x):
    """CM and CV of (batch, channels, height, width): two (channels,)."""
    pairs = [mean_and_variance(x[:, c]) for c in range(x.shape[1])]
    return torch.stack([mean for mean, _ in pairs]), torch.stack([var for _, var in pairs])


def patch_moments(x, n_p):
    """PM and PV: two (ceil(height / n_p), ceil(width / n_p)); Python's slices end at the border."""
    _, _, height, width = x.shape
    rows, columns = math.ceil(height / n_p), math.ceil(width / n_p)
    mean, variance = [], []
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i * n_p : (i + 1) * n_p, j * n_p : (j + 1) * n_p]
            m, v = mean_and_variance(patch)
            mean.append(m)
            variance.append(v)
    return torch.stack(mean).view(rows, columns), torch.stack(variance).view(rows, columns)


def conv_moments(x, n_p):
    """[CM, CV, PM, PV]: the four statistics of Eq. 10."""
    return [*channel_moments(x), *patch_moments(x, n_p)]


# Matching: Eq. 1, 6, 10, 13-15. Lists hold one tensor a statistic.


def update_totals(totals, statistics, alpha):
    """Eq. 13 (the first line of Eq. 6)."""
    return [alpha * t + (1 - alpha) * stop_grad(s) for t, s in zip(totals, statistics, strict=True)]


def plain_matching(statistics, targets):
    """Eq. 1: the batch against the data set, no history."""
    return sum(norm(s - t) for s, t in zip(statistics, targets, strict=True))


def sds_matching(statistics, targets, totals):
    """Eq. 6, 10 and 14, stop_grad and all; `totals` are already updated with `statistics`."""
    return sum(
        norm(s - t - stop_grad(s - total))
        for s, t, total in zip(statistics, targets, totals, strict=True)
    )


def sds_gradient(x, statistics, targets, totals):
    """Eq. 15: each statistic's Jacobian against the unit vector of (total - target)."""
    units = [(total - t) / norm(total - t) for t, total in zip(targets, totals, strict=True)]
    return torch.autograd.grad(statistics, x, grad_outputs=[stop_grad(u) for u in units])[0]


# Data densification: Eq. 4 and 5.


def average_pool(images, size):
    """AvgPool2d to size x size; row i averages rows floor(i H / size) to ceil((i + 1) H / size)."""
    batch, channels, height, width = images.shape
    out = images.new_zeros(batch, channels, size, size)
    for i in range(size):
        top, bottom = i * height // size, -(-(i + 1) * height // size)
        for j in range(size):
            left, right = j * width // size, -(-(j + 1) * width // size)
            out[:, :, i, j] = images[:, :, top:bottom, left:right].mean(dim=(2, 3))
    return out


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def kl_divergence(p, q):
    """Sum of p log(p / q) with 0 log 0 = 0."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def spectra(images, labels, scaled):
    """Eigenvalues of every class's Gram matrix by the general, complex solver, sorted lists."""
    found = {}
    for label in sorted(set(labels.tolist())):
        rows = images[labels == label].double().flatten(1)
        gram = torch.stack([torch.stack([(a * b).sum() for b in rows]) for a in rows])
        if scaled:
            gram = gram / (gram.trace() / len(rows))
        found[label] = sorted(torch.linalg.eigvals(gram).real.tolist())
    return found


def densification(images, labels, tau, scaled=False, frozen=None):
    """L_DD of images that need no pooling; the stop_grad side is taken at `frozen` (or `images`).

    With `frozen` fixed, finite differences of this function are the gradient that stop_grad means.
    """
    live = spectra(images, labels, scaled)
    held = spectra(images if frozen is None else frozen, labels, scaled)
    return sum(
        kl_divergence(softmax([e / tau for e in held[label]]), softmax(live[label]))
        for label in live
    )


def finite_differences(function, x, step=1e-6):
    """Central differences of a scalar function, one entry of `x` at a time."""
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        ahead, behind = x.clone(), x.clone()
        ahead.view(-1)[i] += step
        behind.view(-1)[i] -= step
        gradient.view(-1)[i] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


# Soft labels and the student's loss: Eq. 8 and 11.


def frobenius(matrix):
    return math.sqrt(sum(v * v for row in matrix.tolist() for v in row))


def ensemble_logits(logits, normalize):
    """Eq. 8 with (w/ LN) and without (w/o LN) normalization; each (batch, classes)."""
    teachers = len(logits)
    out = torch.zeros_like(logits[0], dtype=torch.float64)
    for z in logits:
        z = z.double()
        if normalize:
            z = z * (sum(frobenius(g) for g in logits) / (teachers * frobenius(z)))
        out += z / teachers
    return out


def refined_cosine_distance(student, teacher, hard):
    """GIFT's loss of one view: lists of its logits, the teacher's, and its smoothed hard label."""

    def length(row):
        return math.sqrt(sum(v * v for v in row))

    both = zip(teacher, hard, strict=True)
    label = [t / length(teacher) + 0.1 * s / length(hard) for t, s in both]
    product = sum(a * b for a, b in zip(student, label, strict=True))
    return 1 - product / (length(student) * length(label))


# Views.


def roll(image, down, right):
    """A (channels, height, width) image shifted cyclically."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            out[:, (i + down) % height, (j + right) % width] = image[:, i, j]
    return out


def pad_and_slice(image, top, left, padding):
    """RandomCrop(padding): a border of zeros, then a window of the image's size at (top, left)."""
    channels, height, width = image.shape
    canvas = image.new_zeros(channels, height + 2 * padding, width + 2 * padding)
    canvas[:, padding : padding + height, padding : padding + width] = image
    top, left = top + padding, left + padding
    return canvas[:, top : top + height, left : left + width]


def resized_crop(image, top, left, height, width):
    """Cut the box out and bring it back to the image's size: half-pixel centres, edges repeated."""
    channels, out_height, out_width = image.shape
    box = image[:, top : top + height, left : left + width]
    out = image.new_zeros(channels, out_height, out_width)
    for i in range(out_height):
        y = min(max((i + 0.5) * height / out_height - 0.5, 0.0), height - 1.0)
        above, below = math.floor(y), min(math.floor(y) + 1, height - 1)
        for j in range(out_width):
            x = min(max((j + 0.5) * width / out_width - 0.5, 0.0), width - 1.0)
            before, after = math.floor(x), min(math.floor(x) + 1, width - 1)
            upper = (1 - x % 1) * box[:, above, before] + x % 1 * box[:, above, after]
            lower = (1 - x % 1) * box[:, below, before] + x % 1 * box[:, below, after]
            out[:, i, j] = (1 - y % 1) * upper + y % 1 * lower
    return out


def mirror(image):
    width = image.shape[2]
    return torch.stack([image[:, :, width - 1 - j] for j in range(width)], dim=2)


def paste(image, partner, top, left, height, width):
    """CutMix: the partner's pixels inside of the box."""
    out = image.clone()
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            if top <= i < top + height and left <= j < left + width:
                out[:, i, j] = partner[:, i, j]
    return out


def cut_moments(a):
    """E[side], E[side^2] and E[area] of a CutMix box on the unit square, clipped at the border.

    With lambda ~ Beta(a, a), the cut is c = sqrt(1 - lambda) and its centre is uniform. Given c the
    two sides are independent, E[side | c] = c - c^2 / 4 and E[side^2 | c] = c^2 - 5 c^3 / 12.
    """

    def power(k):  # E[c^k] = E[(1 - lambda)^(k / 2)], a moment of the Beta law
        half = k / 2
        top = math.lgamma(a + half) + math.lgamma(2 * a)
        return math.exp(top - math.lgamma(a) - math.lgamma(2 * a + half))

    side = power(1) - power(2) / 4
    squared = power(2) - 5 * power(3) / 12
    return side, squared, power(2) - power(3) / 2 + power(4) / 16


def shuffled(picture, cells):
    """A picture (channels, side, side) whose places take the cells of these numbers, row by row."""
    n = round(len(cells) ** 0.5)
    side = picture.shape[1] // n
    out = torch.empty_like(picture)
    for place, cell in enumerate(cells.tolist()):
        to, come = divmod(place, n), divmod(cell, n)
        out[:, to[0] * side : (to[0] + 1) * side, to[1] * side : (to[1] + 1) * side] = picture[
            :, come[0] * side : (come[0] + 1) * side, come[1] * side : (come[1] + 1) * side
        ]
    return out
