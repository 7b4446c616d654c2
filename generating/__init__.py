"""From logits to ids. Nothing here knows the model, which is handed over, or text.

side_by_side.py  several texts at once
guessing.py      greedy ids, several at a time where the text repeats itself
window.py        the end of a text that the model sees, and what of it has been read
guesses.py       guesses at the next ids from what the text has said before
sampling.py      one id out of logits
"""
