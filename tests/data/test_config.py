"""Configurations: values and overrides are applied, problems are named with their place, YAML round trips exactly."""

import pickle
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenet_fusion.config import ConfigError, config_from_mapping, config_from_yaml, load_config, to_yaml
from wenet_fusion.model.asr_model import ModelConfig


@dataclass(frozen=True)
class Encoder:
    size: int
    heads: int = 4
    dropout: float = 0.1

    def problems(self):
        if self.size % self.heads:
            return [f"heads ({self.heads}) must divide size ({self.size})"]
        return []


@dataclass(frozen=True)
class Recipe:
    encoder: Encoder
    name: str = "digits"
    kind: Literal["char", "bpe"] = "char"
    lr: float = 1e-3
    steps: int | None = None
    factors: tuple[float, ...] = (1.0,)
    gain_db: tuple[float, float] = (0.0, 0.0)
    shuffle: bool = True
    small: Encoder = field(default_factory=lambda: Encoder(size=8, heads=2))

    def problems(self):
        return ["the recipe is cursed"] if self.name == "cursed" else []


def problems_of(text, overrides=()):
    with pytest.raises(ConfigError) as caught:
        config_from_yaml(Recipe, text, "c.yaml", overrides)
    return caught.value.problems


def test_values_defaults_and_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("encoder:\n  size: 16\nlr: 1e-4\nfactors: [0.9, 1, 1.1]\nsteps: 5\n")
    overrides = ["encoder.heads=8", "kind=bpe", "steps=null", "gain_db=[-3, 3e0]", "small.size=6"]
    config = load_config(Recipe, path, overrides)
    assert config.encoder == Encoder(16, 8, 0.1)
    assert (config.kind, config.steps, config.lr) == ("bpe", None, 1e-4)
    assert config.factors == (0.9, 1.0, 1.1) and isinstance(config.factors[1], float)
    assert config.gain_db == (-3.0, 3.0)
    assert config.small == Encoder(6, 2), "fields that are not given keep the enclosing default's values"


def test_all_problems_at_once_with_path_and_line():
    text = "encoder:\n  sizes: 16\n  heads: four\nkind: word\nshuffle: 1\n"
    text += "factors: [1, x]\nname: 2024-01-01\nlr: 2\nlr: 1\n"
    found = problems_of(text, ["stpes=3", "gain_db=[1]", "oops", "name.first=x"])
    expected = [
        "c.yaml:9: lr: given twice, first in line 8",
        "override 'oops': write it as key=value",
        "override 'name.first=x': name is not a section with keys",
        "c.yaml:1: encoder.size: required",
        "c.yaml:2: encoder.sizes: unknown key; did you mean size?",
        "c.yaml:3: encoder.heads: expected a whole number, found 'four'",
        "c.yaml:4: kind: expected one of char, bpe, found 'word'",
        "c.yaml:5: shuffle: expected true or false, found 1",
        "c.yaml:6: factors[1]: expected a number, found 'x'",
        "c.yaml:7: name: expected text",
        "override 'stpes=3': stpes: unknown key; did you mean steps?",
        "override 'gain_db=[1]': gain_db: expected a list [a number, a number], found a list of 1",
    ]
    for start in expected:
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert len(found) == len(expected)


def test_problems_that_a_configuration_class_finds_get_path_and_line():
    assert problems_of("name: cursed\nencoder:\n  size: 6\n") == (
        "c.yaml:2: encoder.heads (4) must divide size (6)",
    ), "a section is checked only if its parts are valid"
    assert problems_of("name: cursed\nencoder: {size: 8}\n") == ("c.yaml:1: the recipe is cursed",)
    (line,) = problems_of("encoder:\n  size: 8\n  heads: 3\n")
    assert line.startswith("c.yaml:3: encoder.heads (3)")


@pytest.mark.parametrize(
    "text, start",
    [
        ("encoder: [1\nname: x", "c.yaml:2: not valid YAML"),
        ("encoder: {size: 8}\nname: 2020-13-45\n", "c.yaml:2: cannot read '2020-13-45'"),
        ("- 1\n", "c.yaml:1: the file: expected a section"),
        ("a: &a [*a]\n", "c.yaml: the YAML is nested too deeply"),
        ("name: !!python/name:os.system x\n", "c.yaml:1: not valid YAML"),
        ("encoder: {size: 8}\nlr: .nan\n", "c.yaml:2: lr: expected a number"),
        ("encoder: {size: 8}\nname: no\n", "c.yaml:2: name: expected text, found False; put it in quotes"),
        ("", "c.yaml: encoder.size: required"),
    ],
)
def test_broken_yaml(text, start):
    assert problems_of(text)[0].startswith(start)


def test_unreadable_files_are_named(tmp_path):
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "none.yaml", tmp_path, binary):
        with pytest.raises(ConfigError, match=str(path)):
            load_config(Recipe, path)


def test_overrides_with_braces_and_bad_yaml():
    assert config_from_yaml(Recipe, "", "c", ["encoder={size: 8}"]).encoder.size == 8
    assert problems_of("encoder: {size: 8}", ["lr=[1"])[0].startswith("override 'lr=[1': not valid YAML")


def test_merge_keys_and_anchors():
    text = "encoder: &e {size: 8, heads: 2}\nsmall: {<<: *e, heads: 4}\n"
    assert config_from_yaml(Recipe, text, "c").small == Encoder(8, 4)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefghi", "bcdefghij")
)
MERGES = "a: &a {x0: 1, y0: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [*{'a' if n == 0 else f'm{n - 1}'}, *{'a' if n == 0 else f'm{n - 1}'}], x: {n}}}\n"
    for n in range(40)
)


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "encoder: &e {size: 8, heads: *e}", "[" * 5000 + "]" * 5000])
def test_text_that_explodes_is_one_problem(text):
    with pytest.raises(ConfigError) as caught:
        config_from_yaml(Recipe, text, "c")
    assert len(str(caught.value).splitlines()) == 1
    assert any(part in str(caught.value) for part in ("more than 100000 values once its aliases", "nested too deeply"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("lr: .inf", "lr: expected a number, found inf; it must be finite"),
        ("lr: .nan", "lr: expected a number, found nan; it must be finite"),
        ("lr: 1e999", "lr: expected a number, found '1e999'"),
        ("factors: [1, -.inf]", "factors[1]: expected a number, found -inf"),
        (f"lr: 1{'0' * 400}", "lr: expected a number, found 1000000000"),
        (f"steps: 1{'0' * 30}", f"steps: expected a whole number, found 1{'0' * 30}; at most 9223372036854775807"),
        ("name: a\0b", "not valid YAML: unacceptable character #x0000"),
        ('name: "a\\0b"', "name: expected text, found 'a\\x00b'; take the NUL character out"),
    ],
)
def test_values_that_nothing_can_hold_are_named(text, message):
    with pytest.raises(ConfigError) as caught:
        config_from_yaml(Recipe, f"encoder: {{size: 8}}\n{text}", "c")
    assert f"c:2: {message}" in str(caught.value) or str(caught.value).startswith(f"c: {message}")
    assert len(str(caught.value)) < 300


def test_error_survives_pickling_and_prints_every_problem():
    error = pickle.loads(pickle.dumps(ConfigError(["a: b", "c: d"])))
    assert error.problems == ("a: b", "c: d") and str(error) == "2 problems in the configuration:\n  a: b\n  c: d"


recipes = st.builds(
    Recipe,
    encoder=st.builds(Encoder, size=st.integers(1, 99).map(lambda n: 4 * n), dropout=st.floats(0, 1)),
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(
        lambda name: name != "cursed"
    ),
    lr=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    factors=st.lists(st.floats(0.1, 10)).map(tuple),
    shuffle=st.booleans(),
)


@given(recipes)
@settings(max_examples=60, deadline=None)
def test_round_trip(config):
    assert config_from_yaml(Recipe, to_yaml(config), "c") == config


@pytest.mark.parametrize("name", ["\x85", "a\u2028b", "\u2029", "\\x85", "ä\n\r "])
def test_line_breaks_of_any_kind_come_back(name):
    config = Recipe(encoder=Encoder(size=4), name=name)
    assert config_from_yaml(Recipe, to_yaml(config), "c") == config


def test_from_mapping():
    assert config_from_mapping(Recipe, {"encoder": {"size": 8}, "factors": (1,)}, "m").factors == (1.0,)
    with pytest.raises(ConfigError, match="m: encoder.size: required"):
        config_from_mapping(Recipe, {}, "m")


def test_a_renamed_key_names_its_new_name():
    with pytest.raises(ConfigError, match=r"a:4: frontend\.tail_frames: this key was renamed; write right_padd"):
        config_from_yaml(ModelConfig, "encoder:\n  gated: true\nfrontend:\n  tail_frames: 4\n", "a")
