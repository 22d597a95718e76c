"""Settings of the study of learning-rate transfer: networks, optimisers, rates and their grids."""

import dataclasses

from charjax.initlab.reproductions.transfer import PARAMETRISATIONS
from charjax.initlab.studies.study import Tier

# muP transfers where the best rate moves by at most so many octaves: fixed before any run.
OCTAVES = 1.0
MUP, STANDARD = "muP", "standard"


@dataclasses.dataclass(frozen=True)
class Settings:
    """An experiment.

    Attributes:
      widths: of the stream, increasing; the first is muP's base.
      head: width of a head.
      seeds: how many; they are 0, 1, ...
      steps: of a run.
      halved_from: the width from which on a piece holds half of a grid's rates.
      words: the rest of the configuration of all runs.
      optimisers: names, and the words of each.
      grids: optimiser, parametrisation, and the rates as exponents of 2, evenly spaced.
    """

    widths: tuple[int, ...]
    head: int
    seeds: int
    steps: int
    halved_from: int
    words: tuple[str, ...]
    optimisers: tuple[tuple[str, tuple[str, ...]], ...]
    grids: tuple[tuple[str, str, tuple[float, ...]], ...]

    @property
    def times(self) -> int:
        """The widest width over the narrowest."""
        return self.widths[-1] // self.widths[0]

    def words_of(self, optimiser: str) -> tuple[str, ...]:
        """Return the configuration of an optimiser."""
        return dict(self.optimisers)[optimiser]


_WORDS = (
    *("data.name=shakespeare", "model.kind=transformer", "model.n_layer=1"),
    *("model.tie_embeddings=false", "optim.schedule=constant", "optim.weight_decay=0"),
    "optim.grad_clip=0",
)
_OPTIMISERS = (
    ("AdamW", ("optim.kind=adamw", "optim.beta1=0.9", "optim.beta2=0.999")),
    ("Muon", ("optim.kind=muon", "optim.momentum=0.95")),
    ("SGD", ("optim.kind=sgd", "optim.momentum=0.9")),
)


def _octaves(low: int, high: int) -> tuple[float, ...]:
    return tuple(float(exponent) for exponent in range(low, high + 1))


SETTINGS: dict[Tier, Settings] = {
    "cpu": Settings(
        widths=(32, 64, 128, 256),
        head=16,
        seeds=5,
        steps=100,
        halved_from=256,
        words=(*_WORDS, "model.context_length=32", "train.batch_size=8"),
        optimisers=_OPTIMISERS,
        grids=(
            ("AdamW", MUP, _octaves(-9, -4)),
            ("AdamW", STANDARD, _octaves(-11, -5)),
            ("Muon", MUP, _octaves(-8, -3)),
            ("Muon", STANDARD, _octaves(-10, -3)),
            ("SGD", MUP, _octaves(-5, 0)),
            ("SGD", STANDARD, _octaves(-7, -1)),
        ),
    ),
    "trial": Settings(
        widths=(16, 32),
        head=16,
        seeds=2,
        steps=10,
        halved_from=64,
        words=(*_WORDS, "model.context_length=8", "train.batch_size=2"),
        optimisers=_OPTIMISERS[2:],
        grids=(("SGD", MUP, _octaves(-4, -1)),),
    ),
}


def rules(settings: Settings) -> list[str]:
    """Return what is fixed before a run."""
    widths = ", ".join(map(str, settings.widths))
    words = dict(word.split("=", 1) for word in settings.words)
    return [
        f"Transformers of {words['model.n_layer']} block and width {widths}, with heads of "
        f"{settings.head}; shakespeare in characters, batches of {words['train.batch_size']} x "
        f"{words['model.context_length']}; {settings.steps} steps at a constant rate, without "
        "warm-up, decay or clipping.",
        "Number 10 of the reproductions has two blocks, but a third of the runs: the products by "
        "which Muon orthogonalises a step cost several times the network's own.",
        f"muP is the scheme mup with base width {settings.widths[0]}; standard is the scheme "
        f"{PARAMETRISATIONS[STANDARD]}, with one rate for all parameters; at the narrowest width "
        "both draw from the same distributions (but for a truncation) and train alike.",
        "AdamW with beta1 = 0.9 and beta2 = 0.999; Muon with momentum 0.95, and AdamW at the same "
        "rate for embeddings, readout and gains (with a rate of its own there, the loss hardly "
        "depends on Muon's, and its best rate is not defined by 5 seeds); SGD with momentum 0.9.",
        f"Rates: powers of 2, an octave apart ({_in_words(settings)}), chosen by the pilot runs "
        "of benchmarks/NOTES.md with seeds from 1000 on.",
        f"{settings.seeds} seeds; each draws its own parameters and batches, and all rates, widths "
        "and optimisers of a seed see the same batches.",
        "Loss of a run: the mean training loss over the last tenth of its steps. A rate at which "
        "any seed diverges has no mean loss and cannot be the best.",
        "Best rate: that of the parabola through the lowest mean loss over seeds and its two "
        "neighbours; beside a diverged rate, the rate of the lowest loss itself. One at the edge "
        "of its grid is reported, and no drift is computed from it.",
        "Drift: octaves from the narrowest to the widest width's best rate; beside it the slope of "
        "the best rate against the width, over all widths.",
        "Loss lost: that of the widest width at the narrowest's best rate, over that at its own; "
        "on the parabola within its three rates, on straight lines between the others.",
        "Intervals: 95 % over seeds, from all bootstrap resamples of the seeds (the same ones at "
        "every rate and width), distances from the estimate widened by sqrt(n/(n-1)) t/z as in all "
        "comparisons of the laboratory.",
        f"muP transfers if the drift is at most {OCTAVES:g} octave either way: in the check, the "
        "drift itself; in the answer, its whole interval.",
    ]


def _in_words(settings: Settings) -> str:
    return "; ".join(
        f"{optimiser}, {parametrisation}: 2^{rates[0]:g} to 2^{rates[-1]:g}"
        for optimiser, parametrisation, rates in settings.grids
    )
