"""Small pictures of a trial, drawn with Pillow: a hundred of them take a second."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from autotl.report.axis import Axis

SCALE = 2
"""It is drawn so many times as large and made smaller, as Pillow's lines have no soft edges."""

LARGEST = 60
"""Up to so many classes a confusion matrix is drawn; each cell would be too small above."""

INK, SOFT, LINE, PAPER = "#1d2127", "#5f6772", "#e3e5e8", "#ffffff"
ACCENT = (11, 110, 110)


def curve(points: Sequence[tuple[int, float]], metric: str, number: int) -> Image.Image:
    """The score by epoch."""
    width, height, left, top, right, bottom = 520, 300, 56, 40, 20, 44
    paper = _Paper(width, height)
    paper.text((left, 14), f"{metric} on validation, trial {number}", 13, INK)
    across = Axis.over([epoch for epoch, _ in points])
    upright = Axis.over([score for _, score in points])

    def x(epoch: float) -> float:
        return left + across.at(epoch) / 100 * (width - left - right)

    def y(score: float) -> float:
        return height - bottom - upright.at(score) / 100 * (height - top - bottom)

    for place, label in upright.ticks:
        at = height - bottom - place / 100 * (height - top - bottom)
        paper.line([(left, at), (width - right, at)], LINE, 1)
        paper.text((left - 8, at), label, 11, SOFT, "rm")
    epochs = [epoch for epoch, _ in points]
    step = max(1, len(epochs) // 10)
    for epoch in epochs[::step]:
        paper.text((x(epoch), height - bottom + 8), f"{epoch}", 11, SOFT, "ma")
    paper.text(((left + width - right) / 2, height - 16), "epoch", 11, SOFT, "ma")
    drawn = [(x(epoch), y(score)) for epoch, score in points]
    paper.line(drawn, ACCENT, 2)
    for spot in drawn:
        paper.dot(spot, 3, ACCENT)
    return paper.done()


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], of: str) -> Image.Image:
    """A confusion matrix, rows the truth and columns the answer, shaded by the share of the row."""
    size = len(counts)
    cell = 34 if size <= 20 else 12
    labels = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    margin = 130 if len(labels) == size else 30
    paper = _Paper(margin + size * cell + 24, margin + size * cell + 50)
    paper.text((16, 14), f"confusion matrix, {of}: rows are the truth", 13, INK)
    top = margin + 30
    for i, row in enumerate(counts):
        whole = sum(row) or 1
        for j, n in enumerate(row):
            corner = (margin + j * cell, top + i * cell)
            paper.square(corner, cell - 1, _shade(n / whole))
            if n and cell > 20:
                middle = (corner[0] + cell / 2, corner[1] + cell / 2)
                paper.text(middle, f"{n}", 11, PAPER if n > 0.6 * whole else INK, "mm")
    for i, label in enumerate(labels if len(labels) == size else []):
        small = 11 if cell > 20 else 9
        paper.text((margin - 8, top + (i + 0.5) * cell), label, small, SOFT, "rm")
        paper.upright((margin + (i + 0.5) * cell, top - 8), label, small, SOFT)
    return paper.done()


def _shade(share: float) -> tuple[int, ...]:
    """White for none, the accent for all."""
    return tuple(round(255 + share * (part - 255)) for part in ACCENT)


Colour = str | tuple[int, ...]
Place = tuple[float, float]


class _Paper:
    """A white picture to draw on, ``width`` by ``height`` pixels when it is done."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def done(self) -> Image.Image:
        """The picture."""
        return self.image.reduce(SCALE)

    def line(self, places: Sequence[Place], colour: Colour, width: int) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in places]
        self.pen.line(scaled, colour, width * SCALE, joint="curve")

    def dot(self, place: Place, radius: float, colour: Colour) -> None:
        self.pen.circle((place[0] * SCALE, place[1] * SCALE), radius * SCALE, colour)

    def square(self, corner: Place, side: float, colour: Colour) -> None:
        x, y = (value * SCALE for value in corner)
        self.pen.rectangle((x, y, x + side * SCALE, y + side * SCALE), colour)

    def text(self, place: Place, text: str, size: int, colour: Colour, anchor: str = "la") -> None:
        font = ImageFont.load_default(size * SCALE)
        self.pen.text((place[0] * SCALE, place[1] * SCALE), text, colour, font, anchor)

    def upright(self, place: Place, text: str, size: int, colour: Colour) -> None:
        """Text that is read from below, and ends at ``place``."""
        font = ImageFont.load_default(size * SCALE)
        wide = round(font.getlength(text)) + SCALE
        high = round(1.5 * size * SCALE)
        strip = Image.new("RGB", (wide, high), PAPER)
        ImageDraw.Draw(strip).text((0, high / 2), text, colour, font, "lm")
        corner = (round(place[0] * SCALE - high / 2), round(place[1] * SCALE) - wide)
        self.image.paste(strip.rotate(90, expand=True), corner)
