"""One-shot federated learning on scikit-learn's digits: clients send distilled sets, once.

    python examples/federated.py --clients 3 --concentration 0.3 --splits 3 --workdir runs/federated

Each class is divided between the clients by shares from a Dirichlet distribution: a small
concentration makes clients of few classes. Each client distills its pictures by `gvbsm run`; the
server merges the sets and trains a student on them. Beside it: as many random real pictures of each
client with soft labels of its teachers, and FedAvg (McMahan et al., 2017), in which clients send
weights after every round. The table has the mean and the sample deviation of the splits, and the
bytes that all clients send.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import gvbsm

MODEL = "convnet128_d2"
TRAINING = {
    "tests": 1,
    "batch_size": 25,
    "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine"},
}
SHOWN = (1, 5, 20)  # rounds of FedAvg whose accuracy is shown
FEWEST = 20  # pictures of a class at a client that has any


def split_by_class(labels, clients, concentration, seed):
    """Return the indices of each client's pictures; redrawn until each has two classes or more."""
    generator = np.random.default_rng(seed)
    while True:
        parts = [[] for _ in range(clients)]
        for label in np.unique(labels):
            index = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet([concentration] * clients)
            cuts = (shares.cumsum()[:-1] * len(index)).astype(int)
            pieces = np.split(index, cuts)
            largest = max(range(clients), key=lambda client: len(pieces[client]))
            for client, piece in enumerate(pieces):  # too few for a client go to the largest
                few = client != largest and len(piece) < FEWEST
                parts[largest if few else client].append(piece)
        joined = [np.concatenate([*part, np.empty(0, int)]) for part in parts]
        if all(len(np.unique(labels[index])) >= 2 for index in joined):
            return joined


def distill(data, index, folder, seed):
    """Distill a client's pictures; random ones with the same labels are made beside them."""
    labels, images = data.train.labels.numpy(), data.train.images[:, 0].numpy()
    known = np.isin(data.test.labels.numpy(), labels[index])
    test = (data.test.images[:, 0].numpy()[known], data.test.labels.numpy()[known])
    gvbsm.run(
        "digits",
        folder,
        quiet=True,
        data=(images[index], labels[index], *test),
        seed=seed,
        threads=1,
        evaluation={"students": ["convnet8_d1"], "seeds": 1},  # the clients need none
        baselines={"methods": ["random-soft"], "draws": 1},
    )


def server(folders, out, seed):
    """Merge the clients' sets, train on them, and return the accuracy and the bytes sent."""
    gvbsm.merge(folders, out / "set", overwrite=(out / "set").exists(), quiet=True)
    given = {"data": {"name": "digits"}, "evaluation": TRAINING, "seed": seed, "threads": 1}
    history = gvbsm.train(out / "set", MODEL, out / "student.safetensors", given, quiet=True)
    files = [path for folder in folders for path in sent_files(folder)]
    return history["top1"][-1], sum(path.stat().st_size for path in files)


def sent_files(folder):
    return [folder / "synthesis" / "images.safetensors", *(folder / "labels").iterdir()]


def federated_averaging(data, parts, rounds, seed):
    """Return the accuracy after each round, and the bytes that the clients send in a round."""
    torch.manual_seed(seed)
    model = gvbsm.build_backbone(MODEL, 10, 8, 1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    nbytes = len(parts) * sum(value.nbytes for value in weights.values())
    images = data.normalization.normalize(data.train.images)
    test, accuracies = data.normalization.normalize(data.test.images), []
    for _ in range(rounds):
        average = {name: torch.zeros_like(value) for name, value in weights.items()}
        for part in parts:
            model.load_state_dict(weights)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            for index in torch.split(torch.as_tensor(part)[torch.randperm(len(part))], 25):
                optimizer.zero_grad()
                F.cross_entropy(model(images[index]), data.train.labels[index]).backward()
                optimizer.step()
            share = len(part) / sum(map(len, parts))
            for name, value in model.state_dict().items():
                average[name] += share * value
        weights = average
        model.load_state_dict(weights)
        with torch.no_grad():
            right = model(test).argmax(1) == data.test.labels
        accuracies.append(100 * float(right.float().mean()))
    return accuracies, nbytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--concentration", type=float, default=0.3)
    parser.add_argument("--splits", type=int, default=3, help="seeds of splits and trainings")
    parser.add_argument("--workdir", type=Path, default=Path("runs/federated"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, rows = gvbsm.load_dataset("digits"), {}
    for seed in range(options.splits):
        labels = data.train.labels.numpy()
        parts = split_by_class(labels, options.clients, options.concentration, seed)
        folders = [options.workdir / f"split{seed}-client{n}" for n in range(len(parts))]
        for index, folder in zip(parts, folders, strict=True):
            print(f"{folder}: {len(index)} pictures, {len(set(labels[index]))} classes", flush=True)
            distill(data, index, folder, seed)
        random = [folder / "baselines" / "random-0" for folder in folders]
        for name, sets in (("distilled", folders), ("random real pictures", random)):
            found = server(sets, options.workdir / f"split{seed}-{name.split()[0]}", seed)
            rows.setdefault(f"{name}, once", []).append(found)
        accuracies, nbytes = federated_averaging(data, parts, max(SHOWN), seed)
        for rounds in SHOWN:
            found = accuracies[rounds - 1], rounds * nbytes
            rows.setdefault(f"FedAvg, round {rounds}", []).append(found)
    print("\nmethod                      top-1 %        MB sent")
    for name, found in rows.items():
        top1, sent = zip(*found, strict=True)
        deviation = statistics.stdev(top1) if len(top1) > 1 else float("nan")
        mean = statistics.mean(top1)
        print(f"{name:26}  {mean:5.1f} ± {deviation:4.1f}  {statistics.mean(sent) / 1e6:8.2f}")


if __name__ == "__main__":
    main()
