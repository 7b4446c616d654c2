"""How arrays are worked on: on all cores, in pieces, in fewer passes. Knows nothing of GPT-2."""
