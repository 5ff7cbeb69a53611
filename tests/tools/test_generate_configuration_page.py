"""docs/configuration.md is generated from the configuration classes and is up to date."""

from dataclasses import dataclass, field

import pytest
from support.recipes.scripts import load_script

from wenet_fusion.model.layers.activation import ACTIVATIONS
from wenet_fusion.model.layers.layer_types import LAYER_TYPES

page = load_script("generate_configuration_page")


def test_the_committed_page_is_up_to_date() -> None:
    committed = page.PAGE.read_text(encoding="utf-8")
    assert committed == page.configuration_page(), "run python tools/generate_configuration_page.py"


@dataclass(frozen=True)
class Inner:
    """Inner settings. More about them."""

    rates: tuple[float, ...] = (0.9, 1.0)  # a | b


@dataclass(frozen=True)
class Outer:
    """Outer settings."""

    units: str  # a file
    # A comment above,
    # of two lines.
    steps: int | None = None
    name: str = (
        "x"  # on the last line
    )  # fmt: skip
    inner: Inner = field(default_factory=Inner)


def test_names_of_a_table_are_listed() -> None:
    text = page.configuration_page()
    for key, table in (("activation", ACTIVATIONS), ("layer", LAYER_TYPES)):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
        assert line.split(" | ")[1] == ", ".join(f"`{name}`" for name in table)


def test_a_section_is_a_table_of_its_keys() -> None:
    text = "\n".join(page.sections(Outer, ""))
    for line in (
        "| `units` | text | required | a file |",
        "| `steps` | whole number or null | `null` | A comment above, of two lines. |",
        "## `inner`\n\nInner settings. More about them.",
        "| `rates` | list of numbers | `[0.9, 1.0]` | a \\| b |",
    ):
        assert line in text
    assert "`inner` |" not in text


def test_a_key_without_a_comment_is_refused() -> None:
    @dataclass(frozen=True)
    class Silent:
        """Settings."""

        rate: float = 1.0

    with pytest.raises(ValueError, match=r"Silent\.rate has no comment"):
        list(page.sections(Silent, ""))
