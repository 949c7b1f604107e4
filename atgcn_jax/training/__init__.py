"""Training state, losses, augmentation, sharding, the training step and checkpoints."""
