"""Translate a WeNet training configuration: a finding for each of its settings, and our configuration."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple

import yaml

from wenet_fusion.config import ConfigError
from wenet_fusion.config.building import config_from_located
from wenet_fusion.config.located_yaml import Located, apply_override, locate
from wenet_fusion.migration.data_rules import DATA, DATA_DEFAULTS, DATA_SECTIONS_WITHOUT
from wenet_fusion.migration.encoder_rules import ENCODER, ENCODER_DEFAULTS
from wenet_fusion.migration.model_rules import DECODER, MODEL, MODEL_DEFAULTS, SECTIONS_WITHOUT
from wenet_fusion.migration.rules import Context, Finding, MigrationOptions, Outcome, Rules
from wenet_fusion.migration.training_rules import TRAINING, TRAINING_DEFAULTS
from wenet_fusion.migration.wenet_file import WenetFile, WenetSetting, plain
from wenet_fusion.recipe import RecipeConfig

RULES: Rules = {**ENCODER, **DECODER, **MODEL, **DATA, **TRAINING}
DEFAULTS = {**ENCODER_DEFAULTS, **MODEL_DEFAULTS, **DATA_DEFAULTS, **TRAINING_DEFAULTS}
_WITHOUT = {**SECTIONS_WITHOUT, **DATA_SECTIONS_WITHOUT}
_OUTCOMES: dict[Outcome, str] = {"same": "same", "differs": "differs", "none": "no counterpart", "unknown": "unknown"}
_CELL = 34  # widest value in the table, characters


class Row(NamedTuple):
    """A setting of WeNet and its finding."""

    setting: WenetSetting
    finding: Finding


class Translation(NamedTuple):
    """All findings, and our configuration: `recipe` is complete and checked, `settings` are the keys to write."""

    rows: list[Row]
    recipe: RecipeConfig
    settings: dict[str, Any]  # nested sections

    def summary(self) -> str:
        """Return the number of settings in the file, in all and for each outcome."""
        counts = Counter(row.finding.outcome for row in self.rows if row.setting.where)
        parts = [f"{counts[outcome]} {name}" for outcome, name in _OUTCOMES.items()]
        return f"{sum(counts.values())} settings: {', '.join(parts)}"

    def yaml(self, origin: str) -> str:
        """Return our configuration as YAML, with a first line that names the original file."""
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True, width=120)
        return f"# Translated from {origin} by wenet-fusion check config.\n{text}"


def translate(file: WenetFile, options: MigrationOptions, overrides: Iterable[str] = ()) -> Translation:
    """Translate a file; a setting that the file omits has WeNet's default.

    Args:
        file: see `read_wenet`.
        options: choices and facts that the file does not contain.
        overrides: values of our configuration, each as "dotted.key=value"; they replace translated values.

    Raises:
        ConfigError: values are invalid; the message lists each with its line.
    """
    context = Context(file.with_defaults(DEFAULTS), options)
    problems: list[str] = []
    rows = []
    root = Located({}, "")
    for setting in context.file.settings:
        try:
            finding = _find(setting, context)
        except (ValueError, TypeError, OverflowError) as error:
            problems.append(f"{setting.where or 'WeNet default'}: {setting.written}: {error}")
            continue
        if setting.where or finding.settings:  # omit defaults that need no setting
            rows.append(Row(setting, finding))
        for key, value in finding.settings:
            _set(root, key, locate(value, f"{setting.where or 'WeNet default'}: {setting.written}"))
    for override in overrides:
        apply_override(root, override, problems)
    if problems:
        raise ConfigError(problems)
    recipe, settings = config_from_located(RecipeConfig, root), plain(root)
    order = [field.name for field in fields(RecipeConfig)]
    return Translation(rows, recipe, {name: settings[name] for name in sorted(settings, key=order.index)})


def _find(setting: WenetSetting, context: Context) -> Finding:
    if setting.name in RULES:
        if setting.value is None and setting.name not in _MAY_BE_NULL:
            return Finding("same", (), "empty")
        return RULES[setting.name](setting.value, context)
    for section, reason in _WITHOUT.items():
        if setting.name == section or setting.name.startswith(f"{section}."):
            return Finding("none", (), reason)
    if setting.value in (None, {}) and any(name.startswith(f"{setting.name}.") for name in RULES):
        return Finding("same", (), "empty section")
    close = difflib.get_close_matches(setting.name, RULES, n=1, cutoff=0.8)
    remark = f"did you mean {close[0]}?" if close else "not a setting of WeNet that we know; ignored"
    return Finding("unknown", (), remark)


_MAY_BE_NULL = frozenset(
    ("cmvn", "cmvn_conf.cmvn_file", "cmvn_conf.is_json_cmvn", "tokenizer_conf.bpe_path")
    + ("tokenizer_conf.symbol_table_path", "tokenizer_conf.non_lang_syms_path")
)


def _set(root: Located, key: str, value: Located) -> None:
    *sections, last = key.split(".")
    place = root.value
    for name in sections:
        place = place.setdefault(name, Located({}, value.where)).value
    place[last] = value


def table_of(rows: Iterable[Row]) -> str:
    """Return the findings as a table for a terminal, in the order of the file; WeNet's defaults come last."""
    cells = [("line", "WeNet", "value", "", "ours", "remark")]
    for setting, finding in rows:
        line = setting.where.rpartition(":")[2] or "default"
        ours = [f"{key}: {_shown(value)}" for key, value in finding.settings] or [""]
        outcome = _OUTCOMES[finding.outcome]
        cells.append((line, setting.written, _shown(setting.value), outcome, ours[0], finding.remark))
        cells += [("", "", "", "", more, "") for more in ours[1:]]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[5]]).rstrip() for row in cells
    )


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).splitlines()[0]
    return text if len(text) <= _CELL else f"{text[: _CELL - 3]}..."
