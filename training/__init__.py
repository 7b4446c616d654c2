"""The parts of `train.py`.

data.py    documents, the tokenizer that is learned from them, token ids, windows of ids
layers.py  each layer's forward pass beside its backward pass; the whole model; batches on all cores
adamw.py   the optimizer, and the learning rate over a run
"""
