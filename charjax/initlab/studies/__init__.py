"""Questions on initialisation that this laboratory answers, each measured by a module of its own.

A module has the attributes of `charjax.initlab.studies.study.Module`, and is imported when it is
run: nothing here needs JAX.
"""

from collections.abc import Sequence

from charjax.initlab.named import select_named
from charjax.initlab.studies.study import Study

STUDIES: tuple[Study, ...] = (
    Study(
        "trainability",
        1,
        "Trainability by weight variance and depth",
        "How deep can a network be trained, as a multiple of the depth scale of its correlations?",
        (
            "Schoenholz et al. 2017, arXiv:1611.01232: abstract and introduction; its section on "
            "experiments was not at hand",
            "github.com/ghliu/mean-field-fcdnn, plot-trainability.py: that experiment again, "
            "σ_w² from 1 to 4, σ_b² = 0.05, depths 10 to 100, width 300, 200 steps of SGD at rate "
            "0.001, batches of 256 digits; it draws ξ_c, 2 ξ_c and 4.5 ξ_c over the accuracy",
            "Critical initialisation in continuous approximation of binary neural networks, "
            "manuscript under review: it cites Schoenholz et al. for 6 ξ_c, beyond which training "
            "becomes difficult, and says that the number of steps is an arbitrary choice",
        ),
        ("names",),
    ),
    Study(
        "muon",
        2,
        "Schemes under AdamW, Muon and SGD",
        "Which initialisation schemes still matter under Muon?",
        (
            "Jordan et al. 2024, Muon, its README: hidden matrices by Muon with a momentum of 0.95 "
            "and, as an example, a rate of 0.02; embeddings, heads, gains and biases by AdamW, "
            "there with 3e-4 (github.com/KellerJordan/Muon)",
            "Liu et al. 2025, Muon is Scalable for LLM Training, abstract: weight decay, and one "
            "size of step for matrices of all shapes (arXiv:2502.16982)",
            "modded-nanogpt, README: projections and classification layers begin at 0 with Muon "
            "(github.com/KellerJordan/modded-nanogpt)",
            "modded-nanogpt, pull request 267: where the norms of matrices stay as they were "
            "drawn, their standard deviations are tuned with Muon "
            "(github.com/KellerJordan/modded-nanogpt/pull/267)",
            "No publication that compares schemes under Muon was found.",
        ),
        ("names", "shakespeare"),
    ),
    Study(
        "edge-of-stability",
        3,
        "The edge of stability by scheme",
        "Where does the sharpness settle, from each scheme, under each optimiser?",
        (
            "Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge "
            "of Stability (arXiv:2103.00065): the abstract and the introduction; 2 / rate, at or "
            "just above which the sharpness stays",
            "its code (github.com/locuslab/edge-of-stability): README.md, src/gd.py and "
            "src/utilities.py; the whole batch at a constant rate, Polyak's momentum as "
            "torch.optim.SGD has it",
            "Phunyaphibarn et al. 2023 (arXiv:2311.15051): the introduction; Polyak's momentum as "
            "a recursion",
            "Andreyev et al. 2026 (arXiv:2604.14108): the abstract; 2 (1 + beta) / rate with "
            "momentum and large batches",
            "Cohen et al. 2022, Adaptive Gradient Methods at the Edge of Stability "
            "(arXiv:2207.14484): the abstract; 38 / rate of Adam's preconditioned Hessian",
            "Damian et al. 2023, Self-Stabilization (arXiv:2209.15594): the abstract and the "
            "introduction; why the sharpness stays",
        ),
        ("names",),
    ),
    Study(
        "mup-transfer",
        4,
        "Learning-rate transfer of muP under Adam, Muon and SGD",
        "How far does the best learning rate of muP drift over 8 times the width?",
        (
            "Yang et al. 2022 (https://arxiv.org/abs/2203.03466) by its package, README.md, "
            "mup/optim.py and issue 7 of https://github.com/microsoft/mup: the rates of Adam and "
            "SGD",
            "Yang, Simon and Bernstein 2023, abstract (https://arxiv.org/abs/2310.17813): weights "
            "and updates of spectral norm sqrt(outputs / inputs)",
            "Jordan et al. 2024, README.md of https://github.com/KellerJordan/Muon: a rate of Muon "
            "that should not need tuning again at another size",
            "https://github.com/google-deepmind/optax/pull/1435: the two factors of Muon's step by "
            "a matrix's shape, and Liu et al. 2025 (https://arxiv.org/abs/2502.16982)",
            "https://github.com/NVIDIA/Megatron-LM/pull/3715: muP with Muon; matrices take "
            "sqrt(outputs / inputs) and none of Adam's factors",
        ),
        ("shakespeare",),
    ),
)


def select(words: Sequence[str]) -> tuple[Study, ...]:
    """Return the studies that the command's words name, in order: names, numbers, or "all".

    Raises:
      UserError: a word that is none of them.
    """
    return select_named(words, STUDIES)
