"""The parts of `explain.py`.

watch.py          every value that gpt2.py computes for a text, by name
"""
