"""Configuration: frozen, validated sections read from TOML and `section.key=value` overrides.

Importing this package stays cheap (no JAX): `--help` and every config error go through it.
"""

from charjax.config.changes import describe_conflicts, differences, resume_conflicts
from charjax.config.loading import (
    describe_fields,
    load_config,
    parse_config,
    read_settings,
    refuse_unread,
    shipped_configs,
)
from charjax.config.sections import (
    FAMILIES,
    BigramConfig,
    BowConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    GRUConfig,
    InitConfig,
    LSTMConfig,
    MLPConfig,
    ModelConfig,
    NgramConfig,
    OptimConfig,
    RNNConfig,
    RuntimeConfig,
    TrainConfig,
    TransformerConfig,
)

__all__ = [
    "FAMILIES",
    "BigramConfig",
    "BowConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "GRUConfig",
    "InitConfig",
    "LSTMConfig",
    "MLPConfig",
    "ModelConfig",
    "NgramConfig",
    "OptimConfig",
    "RNNConfig",
    "RuntimeConfig",
    "TrainConfig",
    "TransformerConfig",
    "describe_conflicts",
    "describe_fields",
    "differences",
    "load_config",
    "parse_config",
    "read_settings",
    "refuse_unread",
    "resume_conflicts",
    "shipped_configs",
]
