"""The optimisers that `optim.kind` can name: the settings that each reads, and their defaults.

How they move parameters is in `charjax.training.optimizers`. The defaults are optax's, except those
of adamw, sgd and rmsprop, which are charjax's own.
"""

from typing import Any, NamedTuple


class Kind(NamedTuple):
    """An optimiser.

    Attributes:
      source: the paper or program it is taken from.
      settings: the settings of [optim] that it reads beside those that all do, and their defaults.
      state: numbers kept per parameter, in words.
    """

    source: str
    settings: dict[str, Any]
    state: str


def _adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> dict[str, Any]:
    return {"beta1": beta1, "beta2": beta2, "eps": eps}


KINDS: dict[str, Kind] = {
    "adamw": Kind("Loshchilov and Hutter 2019 (arXiv:1711.05101)", _adam(), "2"),
    "sgd": Kind("gradient descent with Polyak's momentum", {"momentum": 0.0}, "1 with momentum"),
    "rmsprop": Kind(
        "Tieleman and Hinton 2012",
        {"rms_decay": 0.95, "eps": 1e-8, "momentum": 0.0},
        "1; 2 with momentum",
    ),
    "adabelief": Kind("Zhuang et al. 2020 (arXiv:2010.07468)", _adam(eps=1e-16), "2"),
    "adadelta": Kind("Zeiler 2012 (arXiv:1212.5701)", {"rms_decay": 0.9, "eps": 1e-6}, "2"),
    "adafactor": Kind(
        "Shazeer and Stern 2018 (arXiv:1804.04235)",
        {"eps": 1e-30, "momentum": 0.0},
        "a row and a column of each matrix of 128 by 128 or more; 1 for the others",
    ),
    "adagrad": Kind("Duchi et al. 2011 (jmlr.org/papers/v12/duchi11a.html)", {"eps": 1e-7}, "1"),
    "adamax": Kind("Kingma and Ba 2015 (arXiv:1412.6980)", _adam(), "2"),
    "adan": Kind("Xie et al. 2022 (arXiv:2208.06677)", _adam(0.98, 0.92) | {"beta3": 0.99}, "4"),
    "ademamix": Kind(
        "Pagliardini et al. 2024 (arXiv:2409.03137)", _adam() | {"beta3": 0.9999, "alpha": 5.0}, "3"
    ),
    "adopt": Kind("Taniguchi et al. 2024 (arXiv:2411.02853)", _adam(beta2=0.9999, eps=1e-6), "2"),
    "amsgrad": Kind("Reddi et al. 2018 (arXiv:1904.09237)", _adam(), "3"),
    "fromage": Kind("Bernstein et al. 2020 (arXiv:2002.03432)", {}, "none"),
    "lamb": Kind("You et al. 2020 (arXiv:1904.00962)", _adam(eps=1e-6), "2"),
    "lars": Kind(
        "You et al. 2017 (arXiv:1708.03888)", {"momentum": 0.9, "trust_coefficient": 1e-3}, "1"
    ),
    "lion": Kind("Chen et al. 2023 (arXiv:2302.06675)", {"beta1": 0.9, "beta2": 0.99}, "1"),
    "muon": Kind(
        "Jordan et al. 2024 (github.com/KellerJordan/Muon)",
        {"momentum": 0.95, **_adam(), "adam_learning_rate": None, "consistent_rms": None},
        "1 in hidden matrices; 2 elsewhere",
    ),
    "nadamw": Kind("Dozat 2016 (openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)", _adam(), "2"),
    "novograd": Kind(
        "Ginsburg et al. 2019 (arXiv:1905.11286)", _adam(0.9, 0.25, 1e-6), "1, and 1 per array"
    ),
    "radam": Kind("Liu et al. 2020 (arXiv:1908.03265)", _adam(), "2"),
    "schedule_free_adamw": Kind("Defazio et al. 2024 (arXiv:2405.15682)", _adam(), "2"),
    "signum": Kind("Bernstein et al. 2018 (arXiv:1802.04434)", {"momentum": 0.9}, "1"),
    "sm3": Kind("Anil et al. 2019 (arXiv:1901.11150)", {"momentum": 0.9}, "1, and 1 per axis"),
    "yogi": Kind(
        "Zaheer et al. 2018 (proceedings.neurips.cc, 90365351ccc7437a1309dc64e4db32a3)",
        _adam(eps=1e-3),
        "2",
    ),
}

_LOSS = "it needs the loss's value, which charjax gives to no optimiser"
_RATE = "it finds its own learning rate, and charjax multiplies by that of optim.schedule"
_SECOND = "it needs a second gradient per step, and a step computes one"
_NOISE = "it draws noise, and a step has no key for that"
# optax's other optimisers, and the reason why they are not offered.
REFUSED: dict[str, str] = {
    "adam": "that is adamw with optim.weight_decay=0: give optim.kind=adamw",
    "adamaxw": "that is adamax with optim.weight_decay: give optim.kind=adamax",
    "nadam": "that is nadamw with optim.weight_decay=0: give optim.kind=nadamw",
    "sign_sgd": "that is signum with optim.momentum=0: give optim.kind=signum",
    "schedule_free": "give optim.kind=schedule_free_adamw",
    "adam_mini": "optax has no such optimiser",
    "shampoo": "optax has no such optimiser",
    "soap": "optax has no such optimiser",
    **dict.fromkeys(("polyak_sgd", "momo", "momo_adam", "lbfgs", "reduce_on_plateau"), _LOSS),
    **dict.fromkeys(("cocob", "dadapt_adamw", "dog", "dowg", "mechanize", "prodigy"), _RATE),
    **dict.fromkeys(("sam", "sophia"), _SECOND),
    **dict.fromkeys(("dpsgd", "noisy_sgd"), _NOISE),
    "rprop": "its steps follow the signs of whole-text gradients, and batches' signs are noise",
}


def kinds_reading(setting: str) -> tuple[str, ...]:
    """Return the optimisers that read a setting of [optim]."""
    return tuple(name for name, kind in KINDS.items() if setting in kind.settings)


def with_defaults(section: Any) -> Any:
    """Return the settings of [optim] with the optimiser's own defaults where none is given."""
    if not isinstance(section, dict) or str(section.get("kind", "adamw")) not in KINDS:
        return section
    return KINDS[section.get("kind", "adamw")].settings | section
