"""The sizes of a public tutorial's character-level GPT: 2.4 million parameters."""

N_VOCAB = 257  # bytes and <|endoftext|>
N_CTX, N_EMBD, N_HEAD, N_LAYER = 64, 128, 16, 12
