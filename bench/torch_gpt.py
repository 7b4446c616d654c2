"""A GPT in PyTorch at the sizes of a public tutorial's character-level GPT, to train beside ours.

In two forms: as in the tutorial, with a small linear module for each of a head's query, key and
value; and as one would write it for speed, with fused heads and scaled_dot_product_attention.
"""

N_VOCAB = 257  # bytes and <|endoftext|>
N_CTX, N_EMBD, N_HEAD, N_LAYER = 64, 128, 16, 12  # 2.4 million parameters


def torch_gpt(dropout: float, fused: bool):
    """A torch.nn.Module, ids [B, T] -> logits [B, T, n_vocab], as PyTorch initialises it."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Head(nn.Module):
        """One head of causal attention: [B, T, n_embd] -> [B, T, n_embd / n_head]"""

        def __init__(self):
            super().__init__()
            size = N_EMBD // N_HEAD
            self.query = nn.Linear(N_EMBD, size, bias=False)
            self.key = nn.Linear(N_EMBD, size, bias=False)
            self.value = nn.Linear(N_EMBD, size, bias=False)
            self.register_buffer("seen", torch.tril(torch.ones(N_CTX, N_CTX)))
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            q, k, v = self.query(x), self.key(x), self.value(x)
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # [B, T, T]
            scores = scores.masked_fill(self.seen == 0, float("-inf"))
            return self.dropout(scores.softmax(-1)) @ v

    class OneModulePerHead(nn.Module):
        """The tutorial's attention: [B, T, n_embd] -> [B, T, n_embd]"""

        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(Head() for _ in range(N_HEAD))

        def forward(self, x):
            return torch.cat([head(x) for head in self.heads], dim=-1)

    class FusedHeads(nn.Module):
        """All heads in one product and one kernel: [B, T, n_embd] -> [B, T, n_embd]"""

        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(N_EMBD, 3 * N_EMBD)

        def forward(self, x):
            n_texts = len(x)
            qkv = self.c_attn(x).view(n_texts, N_CTX, 3, N_HEAD, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, n_head, T, n_embd / n_head]
            rate = dropout if self.training else 0.0
            out = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
            return out.transpose(1, 2).reshape(n_texts, N_CTX, N_EMBD)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1 = nn.LayerNorm(N_EMBD)
            self.attn = nn.Sequential(
                FusedHeads() if fused else OneModulePerHead(),
                nn.Linear(N_EMBD, N_EMBD),
                nn.Dropout(dropout),
            )
            self.ln_2 = nn.LayerNorm(N_EMBD)
            self.mlp = nn.Sequential(
                nn.Linear(N_EMBD, 4 * N_EMBD),
                nn.GELU(),
                nn.Linear(4 * N_EMBD, N_EMBD),
                nn.Dropout(dropout),
            )

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        """The whole model: ids [B, T] -> logits [B, T, n_vocab]"""

        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(N_VOCAB, N_EMBD)
            self.wpe = nn.Embedding(N_CTX, N_EMBD)
            self.blocks = nn.Sequential(*(Block() for _ in range(N_LAYER)))
            self.ln_f = nn.LayerNorm(N_EMBD)
            self.head = nn.Linear(N_EMBD, N_VOCAB)

        def forward(self, ids):
            x = self.wte(ids) + self.wpe(torch.arange(N_CTX))
            return self.head(self.ln_f(self.blocks(x)))

    return GPT()


def mean_loss(model, inputs, targets):
    """Cross entropy of ids [B, T] and the ids that follow them, nats per token: a tensor"""
    import torch
    from torch.nn import functional

    logits = model(torch.from_numpy(inputs)).reshape(-1, N_VOCAB)
    return functional.cross_entropy(logits, torch.from_numpy(targets).reshape(-1))
