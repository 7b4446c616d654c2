"""The parts of `train.py`.

data.py           documents, the tokenizer that is learned from them, token ids, windows of ids
layers.py         each layer's forward pass beside its backward pass; the model; all cores
muon.py           the optimizer of the matrices in the blocks
adamw.py          the optimizer of the rest
learning_rate.py  how large their steps are over a run
"""
