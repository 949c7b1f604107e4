"""Import of weights from PyTorch, and export of runs to other formats."""
