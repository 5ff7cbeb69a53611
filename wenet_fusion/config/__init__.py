"""Read YAML and key=value overrides into nested frozen dataclasses, and report every problem at once with its line."""

from wenet_fusion.config.building import config_from_mapping, config_from_yaml, load_config, to_yaml
from wenet_fusion.config.located_yaml import ConfigError

__all__ = ["ConfigError", "config_from_mapping", "config_from_yaml", "load_config", "to_yaml"]
