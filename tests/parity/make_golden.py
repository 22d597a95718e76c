"""`python -m tests.parity.make_golden`: PyTorch's numbers, kept for where it is not installed.

It needs the extra "torch". What it writes depends on the version of PyTorch by rounding alone.
"""

from pathlib import Path

from safetensors.numpy import save_file

from tests.parity.cases import CASES, SMALL
from tests.parity.torch_side import compute, generate_past_the_context

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    """Write a file a case. Only AdamW's numbers are kept, to keep the files small."""
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        numbers = compute(name, SMALL)
        kept = {key: a for key, a in numbers.items() if "rmsprop" not in key and "sgd" not in key}
        save_file(kept, GOLDEN / f"{name}.safetensors")
    save_file(generate_past_the_context(SMALL), GOLDEN / "past-context.safetensors")


if __name__ == "__main__":
    main()
