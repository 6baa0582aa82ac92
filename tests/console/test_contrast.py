"""Contrast of the colours that meet, in both themes: WCAG 2.2, 1.4.3 (texts) and 1.4.11 (what is drawn)."""

import re
from pathlib import Path

import pytest

from otagate.admin import console

TOKENS = (Path(console.__file__).parent / "static" / "style" / "tokens.css").read_text()
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", TOKENS)
}
GROUNDS = ("page", "surface", "raised")
# Not "open": the ground of a plot, that which has not ended, is told by what is drawn on it.
STATES = (
    *("to_be_pushed", "pushed", "to_be_upgraded", "upgrading"),
    *("to_be_retried", "succeeded", "failed"),
)
TEXTS = [
    *((text, ground) for text in ("text", "quiet", "accent", "danger", "warning") for ground in GROUNDS),
    *((text, "selected") for text in ("text", "quiet", "accent")),
    ("action-text", "action"),
    ("action-text", "danger-action"),
    ("succeeded", "surface"),
]
DRAWN = [
    *((state, ground) for state in STATES for ground in ("page", "surface")),
    *((edge, ground) for edge in ("edge", "accent", "danger") for ground in ("page", "surface")),
]


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_itself() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_colour_is_read() -> None:
    assert len(COLOURS) == TOKENS.count("light-dark(#") > 20


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("needed", "pairs"), [(4.5, TEXTS), (3.0, DRAWN)], ids=["texts", "drawn"])
def test_contrast(theme: int, needed: float, pairs: list[tuple[str, str]]) -> None:
    found = {
        f"{front} on {ground}": round(contrast(COLOURS[front][theme], COLOURS[ground][theme]), 2)
        for front, ground in pairs
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < needed} == {}
