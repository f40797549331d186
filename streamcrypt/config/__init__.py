"""Configuration of the sidecar: YAML and environment to frozen settings. The only importer of pydantic and yaml."""

from streamcrypt.config.load import load
from streamcrypt.config.model import Settings
from streamcrypt.config.pipelines import PipelineSettings
from streamcrypt.config.problems import ConfigProblems, Problem
from streamcrypt.config.sections import (
    CacheSettings,
    HTTPSettings,
    KafkaSettings,
    KeysSettings,
    LogSettings,
    RotationSettings,
)

__all__ = [
    "CacheSettings",
    "ConfigProblems",
    "HTTPSettings",
    "KafkaSettings",
    "KeysSettings",
    "LogSettings",
    "PipelineSettings",
    "Problem",
    "RotationSettings",
    "Settings",
    "load",
]
