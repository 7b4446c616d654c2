"""The parts of `train.py`, in the order in which a run needs them.

options.py        what a run is told: options, presets, limits
folder.py         where it writes: one training at a time, nothing written over
data.py           documents and their token ids
tokenizer.py      the tokenizer, if need be learned from the documents
batches.py        windows of ids, drawn at random
layers.py         each layer's forward pass beside its backward pass
model.py          the whole model with its backward pass, and new parameters
batch_loss.py     the loss of a batch and its gradients, on all cores
muon.py           the optimizer of the matrices in the blocks
adamw.py          the optimizer of the rest
unlikelihood.py   a loss for what the model repeats in texts of its own
learner.py        a model with its optimizers: one step
learning_rate.py  how large the steps are over a run
checkpoint.py     what a stopped run goes on from
log.py            what it shows
run.py            the run: draw, step, evaluate, save, and go on after it was stopped
"""
