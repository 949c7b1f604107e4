"""State, loss, augmentation, sharding, the training step and checkpoints: arrays in, arrays out."""
