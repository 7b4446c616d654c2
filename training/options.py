"""The options of a training program, declared once: with their help, presets and limits.

A new option is a field of `Options`, its line in the help above the fields, and a row in `LIMITS`.
"""

from dataclasses import dataclass

from command_line import check, check_memory

PRESETS = {  # values of options that are not given
    "python": {  # for minutes to an hour on two cores
        "tokenizer": "bpe:2048",
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 192,
        "n_ctx": 256,
        "batch_size": 16,
        "dropout": 0.0,
    },
    "char_gpt": {  # a public tutorial's, which is in PyTorch
        "tokenizer": "char",
        "n_layer": 12,
        "n_head": 16,
        "n_embd": 128,
        "n_ctx": 64,
        "batch_size": 16,
        "dropout": 0.4,
    },
}
OPTIMIZERS = ("muon", "adamw")
OF_THE_MODEL = ("tokenizer", "n_layer", "n_head", "n_embd")  # --init_from brings them
LIMITS = {  # option: (kind, lowest, highest value)
    "n_layer": (int, 1),
    "n_head": (int, 1),
    "n_embd": (int, 1),
    "n_ctx": (int, 1),
    "batch_size": (int, 1),
    "steps": (int, 1),
    "minutes": (float, 1e-3),
    "learning_rate": (float, 0),
    "muon_learning_rate": (float, 0),
    "cooldown": (float, 0, 1),
    "unlikelihood": (float, 0),
    "weight_decay": (float, 0),
    "grad_clip": (float, 1e-9),
    "dropout": (float, 0, 0.99),
    "seed": (int, 0),
    "eval_every": (int, 1),
}


@dataclass(frozen=True)
class Options:
    """Train a GPT-2 from text and write a model folder that gpt2.py runs.

      python train.py --out models/mine --minutes 10
      python gpt2.py "def add(a, b):" --model_size mine

    Each evaluation prints the losses, in nats per token, and a sample of text on standard error.
    It writes to --out the model if its held-out loss is the lowest so far, log.csv, what --resume
    needs and, if matplotlib is installed, loss.svg.

    The same command with --resume continues a stopped run from its last evaluation. With --steps,
    and on the same number of cores, the model is that of a run that was never stopped; with
    --minutes it is not, since the learning rate follows the clock. A run may be resumed with
    another --steps, for instance with fewer, so that its cooldown begins at once.

    --data WHAT           the functions of the standard library if not given; or a text file, a
                          *.jsonl file (each line is a document: {"text": ...}), a folder of *.py
                          (each function is one), *.jsonl or *.txt (each file is one), or the name
                          of an installed package
    --held_out WHAT       other documents for the held-out loss; without it, a tenth of --data
    --out FOLDER          the model folder to write (models/scratch)
    --preset NAME         python: the sizes below; char_gpt: a small tutorial's, 128 wide, 16 heads,
                          12 layers, 64 positions, characters, dropout 0.4
    --tokenizer NAME      char: bytes, no merges; bpe:N: N merges learned from the training text;
                          or a model folder, for its vocabulary (bpe:2048)
    --init_from FOLDER    fine-tune the model in this folder, with its sizes and vocabulary; for
                          instance models/124M, once gpt2.py has downloaded it
    --n_layer N           blocks (6)
    --n_head N            attention heads, a divisor of n_embd (6)
    --n_embd N            width (192)
    --n_ctx N             positions in the window (256)
    --batch_size N        windows in one step of the optimizer (16)
    --steps N             steps in all (5000)
    --minutes X           stop after this time instead
    --optimizer NAME      muon: Muon for the matrices of the blocks, AdamW for the rest; adamw:
                          AdamW for all (muon)
    --learning_rate X     AdamW's, at its peak, after a warm-up of 100 steps (0.002)
    --muon_learning_rate X
                          Muon's, likewise (0.01)
    --cooldown X          the last part of the run, in which both fall to 0 (0.4)
    --unlikelihood X      how much it counts that the model repeats itself: in every second step 16
                          texts of its own are looked at (0)
    --weight_decay X      of matrices and token embeddings (0.1)
    --grad_clip X         AdamW's gradients are scaled down to this length, all together (1)
    --dropout X           part of the numbers zeroed while training (0)
    --seed N              of the split, the first weights, the batches and the dropout (0)
    --eval_every N        steps from one evaluation to the next (250)
    --half                store the weights as float16, in half the bytes
    --resume              continue the run in --out from its last evaluation
    """

    data: str | None = None
    held_out: str | None = None
    out: str = "models/scratch"
    preset: str = "python"
    tokenizer: str | None = None
    init_from: str | None = None
    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    n_ctx: int | None = None
    batch_size: int | None = None
    steps: int = 5000
    minutes: float | None = None
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    muon_learning_rate: float = 0.01
    cooldown: float = 0.4
    unlikelihood: float = 0.0
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    dropout: float | None = None
    seed: int = 0
    eval_every: int = 250
    half: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        """Take from the preset what was not given. Raise ValueError or MemoryError for a value that
        cannot be meant."""
        if self.preset not in PRESETS:
            raise ValueError(f"--preset {self.preset}: expected one of {', '.join(PRESETS)}")
        if self.init_from and any(getattr(self, name) is not None for name in OF_THE_MODEL):
            raise ValueError(
                "--init_from brings its own sizes and vocabulary: leave those options out"
            )
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None and not (self.init_from and name in OF_THE_MODEL):
                object.__setattr__(self, name, value)  # frozen for everybody else
        for name in ("data", "held_out", "out", "tokenizer", "init_from"):
            if getattr(self, name) == "":
                raise ValueError(f"--{name} is empty: give it a value, or leave it out")
        for name, limits in LIMITS.items():
            if getattr(self, name) is not None:
                check(name, getattr(self, name), *limits)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"--optimizer {self.optimizer}: expected one of {', '.join(OPTIMIZERS)}"
            )
        if not self.init_from:
            if self.n_embd % self.n_head:
                raise ValueError(f"--n_head {self.n_head} does not divide --n_embd {self.n_embd}")
            self.check_memory(self.n_layer, self.n_embd)

    def check_memory(self, n_layer: int, n_embd: int) -> None:
        """Raise MemoryError if training a model of these sizes needs more than there is."""
        n_params = n_embd * (12 * n_layer * n_embd + self.n_ctx)  # and those of wte
        sizes = f"n_layer {n_layer}, n_embd {n_embd} and n_ctx {self.n_ctx}"
        check_memory(4 * 4 * n_params, sizes)  # float32; with gradients and two running means
        n_inputs = self.batch_size * self.n_ctx * n_embd
        check_memory(4 * n_layer * n_inputs, f"batch_size {self.batch_size} with {sizes}")
