"""Configuration: frozen, validated sections read from TOML and `section.key=value` overrides.

Importing this package must stay cheap (no JAX): `--help` and every config error import it.
"""

from charjax.config.changes import (
    CHANGEABLE,
    describe_conflicts,
    differences,
    flat_settings,
    model_conflicts,
    resume_conflicts,
)
from charjax.config.describe import describe_fields
from charjax.config.families import (
    FAMILIES,
    BigramConfig,
    BowConfig,
    GRUConfig,
    LSTMConfig,
    MinLSTMConfig,
    MLPConfig,
    ModelConfig,
    NgramConfig,
    RNNConfig,
    TransformerConfig,
)
from charjax.config.family import FamilyConfig
from charjax.config.loading import load_config, parse_config, refuse_unread
from charjax.config.mesh import MeshConfig
from charjax.config.optim import OptimConfig
from charjax.config.sections import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    InitConfig,
    LogConfig,
    RuntimeConfig,
    TrainConfig,
)
from charjax.config.settings import read_settings, shipped_configs

__all__ = [
    "CHANGEABLE",
    "FAMILIES",
    "BigramConfig",
    "BowConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "FamilyConfig",
    "GRUConfig",
    "InitConfig",
    "LSTMConfig",
    "LogConfig",
    "MLPConfig",
    "MeshConfig",
    "MinLSTMConfig",
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
    "flat_settings",
    "load_config",
    "model_conflicts",
    "parse_config",
    "read_settings",
    "refuse_unread",
    "resume_conflicts",
    "shipped_configs",
]
