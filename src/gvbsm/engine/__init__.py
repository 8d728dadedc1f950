"""How computing is done: devices, seeds, processes, optimizers, the training loop."""
