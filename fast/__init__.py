"""Speed: the same results in less time. Nothing here knows of GPT-2.

schedule.py  runs a function on its input piece by piece: by_rows, by_queries
product.py   multiplies by a matrix in the way that is fastest for its number of rows
threads.py   shares work among the processor's cores
"""
