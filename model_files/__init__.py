"""Model folders: fetched, read, written.

published.py      where models are published, and how one becomes a folder
download.py       one file, fetched over HTTP
folder.py         a folder, read or written as a whole
safetensors.py    Hugging Face's file of weights
tf_checkpoint.py  OpenAI's
parameters.py     the names and shapes of parameters, and what a damaged one is
disk.py           files: read, mapped into memory, replaced as a whole, locked
"""
