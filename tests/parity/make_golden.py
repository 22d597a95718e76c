"""`python -m tests.parity.make_golden`: write PyTorch's numbers, for tests without PyTorch.

It needs the extra "torch". What it writes depends on the version of PyTorch by rounding alone.
"""

from pathlib import Path

from safetensors.numpy import save_file

from tests.parity.cases import CASES, SMALL
from tests.parity.torch_side import compute, generate_past_the_context

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    """Write one file per case, with AdamW's numbers only, to keep the files small."""
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        numbers = compute(name, SMALL)
        chosen = {key: a for key, a in numbers.items() if "rmsprop" not in key and "sgd" not in key}
        save_file(chosen, GOLDEN / f"{name}.safetensors")
    save_file(generate_past_the_context(SMALL), GOLDEN / "past-context.safetensors")


if __name__ == "__main__":
    main()
