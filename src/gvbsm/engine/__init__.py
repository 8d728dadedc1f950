"""Computation: devices, seeds, processes, optimizers, the training loop."""
