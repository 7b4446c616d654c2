"""Speed: the same results in less time. Nothing here knows of GPT-2.

threads.py   shares work among the processor's cores
product.py   multiplies by a matrix, reading each of its numbers from memory once
<<<<<<< ours
schedule.py  runs a function on its input piece by piece: by_rows, by_columns, by_queries
=======
schedule.py  runs a function on its input piece by piece: by_rows, by_queries
lookup.py    guesses the next tokens from what the text has said before
>>>>>>> theirs
"""
