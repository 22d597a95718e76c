"""Rows on the names: counts, the networks of the makemore lectures, and lower losses."""

from charjax.reproduction.rows import (
    Figure,
    Ordering,
    Row,
    counted,
    kneser_ney,
    measured,
    seen,
    target,
)

TEXT = "Names"
_PART_3, _PART_5 = "Building makemore Part 3", "Building makemore Part 5"
_ALL = ("data.val_fraction=0.0", "model.smoothing=additive")


def _counts(name: str, title: str, overrides: tuple[str, ...], *figures: Figure) -> Row:
    return Row(f"names-counts-{name}", title, TEXT, "names-kneser-ney", figures, overrides)


_COUNTS = (
    _counts(
        "bigram",
        "bigram counts, all names",
        (*_ALL, "model.order=2", "model.alpha=1e-9"),
        counted("train", 2.4540),
    ),
    _counts(
        "bigram-plus-one",
        "bigram counts + 1, all names",
        (*_ALL, "model.order=2"),
        counted("train", 2.4546),
    ),
    _counts(
        "trigram",
        "trigram counts, all names",
        (*_ALL, "model.order=3", "model.alpha=1e-9"),
        counted("train", 2.1857),
    ),
    _counts(
        "split",
        "bigram counts + 1",
        ("model.smoothing=additive", "model.order=2"),
        counted("val", 2.4533),
        counted("test", 2.4584),
        counted("train", 2.4548),
    ),
    kneser_ney("names", TEXT, 4, counted("val", 2.065, 3)),
    kneser_ney("names", TEXT, 5, counted("val", 2.002, 3)),
    kneser_ney("names", TEXT, 6, counted("val", 1.997, 3), counted("test", 2.0002)),
    kneser_ney("names", TEXT, 6, counted("val", 1.974, 3), modified=True),
)

_OPTIMUM = "its optimum is the counts"
_BIGRAM = (
    Row(
        "names-bigram",
        "bigram by gradient descent",
        TEXT,
        "names-bigram",
        (
            measured("final", 2.4533, "counts", 0.002, _OPTIMUM),
            measured("test", 2.4584, "counts", 0.002, _OPTIMUM),
        ),
        seeds=4,
    ),
    Row(
        "names-normal-logits",
        "bigram with N(0, 1) logits, at step 0",
        TEXT,
        "names-bigram",
        (
            measured(
                "initial",
                3.766,
                "theory, V = 27",
                0.05,
                "three standard errors of the mean of 64 seeds",
            ),
        ),
        ("init.scheme=normal", "train.steps=1"),
        seeds=64,
    ),
)


def _network(
    name: str,
    title: str,
    source: str,
    val: float,
    train: float,
    *others: Figure,
    seeds: int = 4,
) -> Row:
    """Make the row of one of the makemore lectures' networks: dev and training loss at the end."""
    reason = "one published run, whose seed has a spread of its own (ours: 0.001 to 0.015)"
    figures = (
        seen("final", val, source, 0.02, reason),
        seen("train", train, source, 0.03, "as for dev; the lecture's is a printed mean"),
        *others,
    )
    return Row(name, title, TEXT, name, figures, seeds=seeds, shown=("test",))


_NAIVE_START = measured(
    "initial", 26.4, "theory, V = 27", 3.0, "a seed's standard deviation is about 2"
)
_UNIFORM_START = measured(
    "initial", 3.2958, "ln 27", 0.05, "uniform predictions, but for the small readout"
)
_MLP = "MLP, 3 characters of 10, 200 hidden: "
_NETWORKS = (
    _network(
        "names-mlp-naive",
        f"{_MLP}(1) naive init",
        _PART_3,
        2.168,
        2.125,
        _NAIVE_START,
        seeds=6,
    ),
    _network(
        "names-mlp-readout",
        f"{_MLP}(2) readout x 0.01",
        _PART_3,
        2.131,
        2.07,
        _UNIFORM_START,
        seeds=6,
    ),
    _network("names-mlp-hidden", f"{_MLP}(3) and hidden x 0.2", _PART_3, 2.103, 2.036, seeds=6),
    _network("names-mlp-kaiming", f"{_MLP}(4) Kaiming 5/3", _PART_3, 2.107, 2.038, seeds=6),
    _network("names-mlp-batchnorm", f"{_MLP}(5) and batch norm", _PART_3, 2.105, 2.067, seeds=6),
    _network(
        "names-mlp-context8", "MLP, 8 characters of 10, batch norm, 22k", _PART_5, 2.027, 1.918
    ),
    _network("names-wavenet-22k", "tree of pairs (WaveNet), 22k", _PART_5, 2.022, 1.912),
    _network("names-wavenet-76k", "tree of pairs (WaveNet), 76k", _PART_5, 1.9937, 1.769),
)


def _beside(kind: str) -> Row:
    reason = "published for another network: set beside it, to be as good or better"
    figure = Figure("val", 1.9937, f"{_PART_5}, tree of 76k", "seen", 0.0, None, reason)
    return Row(
        f"names-{kind}-200k",
        f"{kind}, about 200k parameters",
        TEXT,
        f"names-{kind}-200k",
        (figure,),
        seeds=3,
        tier="gpu",
        shown=("test",),
        long_seeds=1,
    )


_BEYOND = (
    Row(
        "names-beyond-76k",
        "beyond: LSTM, at most 76k parameters",
        TEXT,
        "names-beyond-76k",
        (target("val", 1.96, "1.9937, tree of 76k"),),
        seeds=4,
        shown=("test", "train"),
    ),
    Row(
        "names-beyond-200k",
        "beyond: LSTM, at most 200k parameters",
        TEXT,
        "names-beyond-200k",
        (target("val", 1.94, "1.9937, tree of 76k"),),
        seeds=3,
        tier="more",
        shown=("test", "train"),
    ),
)

ROWS = (*_COUNTS, *_BIGRAM, *_NETWORKS, _beside("transformer"), _beside("gru"), *_BEYOND)
ORDERINGS = (
    Ordering("names-mlp-naive", "names-mlp-readout", f"{_PART_3}: variant 1 worse than 2"),
    Ordering("names-mlp-readout", "names-mlp-hidden", f"{_PART_3}: variant 2 worse than 3"),
)
