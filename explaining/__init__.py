"""The parts of `explain.py`.

watch.py          every value that gpt2.py computes for a text, by name
dump.py           all of them in a file
mistakes.py       known mistakes, and what an operation gives with each of them
hint.py           which of them explains a difference
compare.py        where two such files part, and why
page_data.py      what the page shows
page.py, page/    the page: HTML, style, script
server.py         the page, served, so that its prompt can be changed
"""
