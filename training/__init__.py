"""The parts of `train.py`: the data, the layers with their backward passes, the optimizer."""
