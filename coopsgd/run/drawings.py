"""Pictures of W and of what workers hold, drawn in milliseconds: a run ends with them; matplotlib takes a second."""

from __future__ import annotations

import functools
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from coopsgd.mixing import spectra
from coopsgd.mixing.matrix import Matrix

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Picture = tuple[bytes, int, int]  # a PNG, its width and height in pixels

WITH_VALUES = 16  # rows of a heat map that has its values written into it
CELLS = 256  # rows of a heat map at most; of more members several share a cell
NODES = 64  # members of a graph that are drawn with their names, on a circle
EDGES = 4000  # that are drawn; of more the heaviest
GROUPED = 512  # members whose edges are followed to see who hangs together
SPECTRUM = 1024  # eigenvalues that are looked for, where no closed form knows them
SIDE = 460  # pixels of what is drawn, without names and titles
INK, PALE, PAPER = (30, 30, 30), (160, 160, 160), (255, 255, 255)
# colour-blind safe (Okabe and Ito), in turn for groups
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


def members(m: int, v: int) -> list[str]:
    """What rows are called."""
    return [*(f"worker {i}" for i in range(m)), *(f"aux {a}" for a in range(v))]


def get_ready() -> None:
    """Import what draws, once for all runs of a sweep."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: F401

    Image.preinit()


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _canvas(width: int, height: int, title: str) -> tuple[Any, ImageDraw]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), title, fill=INK, font=_font(13))
    return image, draw


def _png(image: Any) -> Picture:
    file = io.BytesIO()
    image.save(file, format="png", optimize=False)
    return file.getvalue(), *image.size


def shades(values: np.ndarray, largest: float) -> np.ndarray:
    """(..., 3) bytes: white for 0, blue for what is positive, red for what is negative, by the root of the modulus."""
    share = np.sqrt(np.minimum(np.abs(values) / (largest or 1.0), 1.0))[..., None]
    ends = np.where(values[..., None] < 0, np.array([178, 24, 43]), np.array([8, 48, 107]))
    return np.asarray(np.round(255 + share * (ends - 255)), dtype=np.uint8)


def binned(W: Matrix, cells: int) -> np.ndarray:
    """(cells, cells) sums of the weights of W, of which nothing of size n x n is made."""
    place = np.arange(len(W)) * cells // len(W)
    found = np.zeros((cells, cells))
    for factor in W.factors:  # one, unless somebody asks for a product
        e = factor.edges
        np.add.at(found, (place[e.rows], place[e.columns]), e.weights)
        for rows, u, v in factor.outers:
            one, other = (np.bincount(place[rows], np.broadcast_to(x, len(rows)), cells) for x in (u, v))
            found += np.outer(one, other)
    return found


def heat_map(W: Matrix, names: list[str]) -> Picture:
    """W, a row a member; with its values where they can be read, and several members a cell where there are many."""
    from PIL import Image

    n = len(W)
    cells = min(n, CELLS)
    values = binned(W, cells)
    left, below = 70, 24
    side = max(1, SIDE // cells) * cells if cells <= SIDE else SIDE
    what = f"W, {n} x {n}" + (f", sums over {math.ceil(n / cells)} rows and columns" if cells < n else "")
    image, draw = _canvas(left + side + 10, 30 + side + below, what)
    pixels = Image.fromarray(shades(values, float(np.abs(values).max(initial=0.0)))).resize(
        (side, side), Image.Resampling.NEAREST
    )
    image.paste(pixels, (left, 30))
    draw.rectangle((left, 30, left + side - 1, 30 + side - 1), outline=PALE)
    size, font = side / cells, _font(11)
    step = max(1, math.ceil(cells * 14 / side))
    for i in range(0, cells, step):
        member = -(-i * n // cells)
        y = 30 + (i + 0.5) * size
        draw.text((left - 6, y), names[member], fill=INK, font=font, anchor="rm")
        if i % (step * (1 if size > 30 else 3)) == 0:
            draw.text((left + (i + 0.5) * size, 34 + side), str(member), fill=INK, font=font, anchor="mt")
    if n <= WITH_VALUES:
        small, most = _font(11 if size > 40 else 9), np.abs(values).max(initial=0.0)
        for i, j in zip(*np.nonzero(values), strict=True):
            dark = abs(values[i, j]) > 0.3 * most
            at = left + (j + 0.5) * size, 30 + (i + 0.5) * size
            draw.text(at, f"{values[i, j]:.3g}", fill=PAPER if dark else INK, font=small, anchor="mm")
    return _png(image)


def _groups(W: Matrix) -> np.ndarray:
    """(n,) which group each member is in: those that take part in one average, else those that the edges join; -1 for none."""
    found, seen = np.full(len(W), -1), 0
    for rows, _, _ in W.outers:
        if 1 < len(rows) < len(W):
            found[rows] = seen
            seen += 1
    if not seen and not W.outers and len(W) <= GROUPED:
        labels, before, e = np.arange(len(W)), np.zeros(0, dtype=int), W.edges
        while not np.array_equal(labels, before):  # the least of its neighbours', until nothing moves
            before = labels.copy()
            np.minimum.at(labels, e.rows, before[e.columns])
            np.minimum.at(labels, e.columns, before[e.rows])
        many, labels = np.unique(labels, return_inverse=True)
        found = labels if 1 < len(many) < len(W) else found
    return np.asarray(found)


def _links(W: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i < j of members, and the larger of their two weights; none where everyone hears everyone through averages."""
    n = len(W)
    if n <= NODES:
        rows, columns = np.nonzero(dense := W.dense())
        weights = dense[rows, columns]
    else:
        rows, columns, weights = W.edges.entries
    apart = rows != columns
    low, high = np.minimum(rows, columns)[apart], np.maximum(rows, columns)[apart]
    pairs, at = np.unique(low * n + high, return_inverse=True)
    largest = np.zeros(len(pairs))
    np.maximum.at(largest, at.reshape(-1), np.abs(weights[apart]))
    if len(pairs) > EDGES:
        kept = np.argsort(-largest, kind="stable")[:EDGES]
        pairs, largest = pairs[kept], largest[kept]
    return pairs // n, pairs % n, largest


def graph(W: Matrix, names: list[str]) -> Picture:
    """Members on a circle, auxiliary ones inside it; a line for who hears whom, the thicker the weight; a colour a group."""
    from PIL import Image

    n, twice = len(W), 2  # drawn larger and made small: lines are smooth then
    side = SIDE * twice
    image, draw = _canvas(side, side, "")
    aux = np.array([name.startswith("aux") for name in names])
    at = np.zeros((n, 2))
    for inside, radius in ((False, 0.42), (True, 0.0 if aux.sum() == 1 else 0.17)):
        which = np.flatnonzero(aux == inside)
        angle = 2 * np.pi * np.arange(len(which)) / max(len(which), 1) - np.pi / 2
        at[which] = side * (0.5 + radius * np.stack([np.cos(angle), np.sin(angle)], 1))
    one, other, weights = _links(W)
    most = weights.max(initial=0.0) or 1.0
    for i, j, weight in zip(one, other, weights / most, strict=True):
        grey = int(200 - 120 * weight)
        draw.line((*at[i], *at[j]), fill=(grey,) * 3, width=max(1, round(twice * 5 * weight / (1 + n / 40))))
    if n <= 12:
        font = _font(10 * twice)
        for i, j, weight in zip(one, other, weights, strict=True):
            draw.text(tuple(0.62 * at[i] + 0.38 * at[j]), f"{weight:.2g}", fill=INK, font=font, anchor="mm")
    groups, radius = _groups(W), twice * (13 if n <= 16 else 9 if n <= NODES else 3)
    for i, (x, y) in enumerate(at):
        colour = COLOURS[5] if aux[i] else COLOURS[groups[i] % 5] if groups[i] >= 0 else COLOURS[0]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        if n <= NODES:
            name = names[i].replace("worker ", "").replace("aux ", "a")
            draw.text((x, y), name, fill=PAPER, font=_font(round(radius * 0.95)), anchor="mm")
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    whole, draw = _canvas(SIDE, SIDE + 26, _said(W, groups, len(one)))
    whole.paste(small, (0, 26))
    return _png(whole)


def _said(W: Matrix, groups: np.ndarray, links: int) -> str:
    averages = sum(len(rows) > 2 for rows, _, _ in W.outers)
    shown = f"{links} links" + (" (the heaviest)" if links == EDGES else "")
    hidden = f", {averages} averages not drawn as links" if averages and len(W) > NODES else ""
    return f"{len(W)} members, {shown}{hidden}" + (f", {groups.max() + 1} groups" if groups.max() >= 0 else "")


def spectrum(W: Matrix) -> Picture | None:
    """Moduli of the eigenvalues, by size; None where they are not known and would take too long."""
    if len(W) > SPECTRUM and W.modes is None:
        return None
    values = spectra.eigenvalues(W)
    if not len(values):
        return None
    zeta = spectra.zeta(W)
    return _bars(np.abs(values), f"|eigenvalues| of W, zeta {zeta:.4g}", zeta, max(1.0, float(np.abs(values).max())))


def bars(values: Any) -> Picture:
    """The accuracy of each worker."""
    values = np.nan_to_num(np.asarray(values, dtype=float))  # of one that has no sample to be right about
    mean = float(values.mean())
    return _bars(values, f"accuracy of each worker, mean {mean:.4f}, {values.min():.4f} to {values.max():.4f}", mean, 1.0)


def samples(dealt: dict[str, Any]) -> Picture:
    """Who holds how many samples of which class: a worker a row and a class a column, the darker the more, by its root."""
    from PIL import Image

    counts = np.asarray(dealt["counts"])
    (m, classes), (rows, columns) = counts.shape, (min(n, CELLS) for n in counts.shape)
    values = _summed(_summed(counts, rows).T, columns).T
    left, below, high, wide = 44, 40, max(1, min(24, SIDE // rows)), max(1, min(46, SIDE // columns))
    width, height = wide * columns, high * rows
    kept = f", {dealt['left_over']} left over" if dealt["left_over"] else ""
    shared = ", several a row" * (rows < m) + ", several a column" * (columns < classes)
    title = f"partition {dealt['partition']}: samples, at most {values.max(initial=0)} a cell{shared}{kept}"
    image, draw = _canvas(max(left + width + 10, 420), 30 + height + below, title)
    cells = Image.fromarray(shades(values.astype(float), float(values.max(initial=0))))
    image.paste(cells.resize((width, height), Image.Resampling.NEAREST), (left, 30))
    draw.rectangle((left, 30, left + width - 1, 30 + height - 1), outline=PALE)
    font = _font(11)
    for i in range(0, rows, max(1, math.ceil(14 / high))):
        draw.text((left - 6, 30 + (i + 0.5) * high), str(-(-i * m // rows)), fill=INK, font=font, anchor="rm")
    for j in range(0, columns, max(1, math.ceil(28 / wide))):
        draw.text((left + (j + 0.5) * wide, 34 + height), str(-(-j * classes // columns)), fill=INK, font=font, anchor="mt")
    by = dealt.get("by", "class")
    draw.text((left + width / 2, 50 + height), f"{by}; rows are workers", fill=INK, font=font, anchor="mt")
    if columns == classes and rows == m and wide >= 28 and high >= 14:
        for (i, j), n in np.ndenumerate(values):
            if n:
                dark = n > 0.3 * values.max()
                at = left + (j + 0.5) * wide, 30 + (i + 0.5) * high
                draw.text(at, str(n), fill=PAPER if dark else INK, font=_font(9), anchor="mm")
    return _png(image)


def _summed(counts: np.ndarray, cells: int) -> np.ndarray:
    """Rows put together into so many."""
    place = np.arange(len(counts)) * cells // len(counts)
    found = np.zeros((cells, counts.shape[1]), dtype=counts.dtype)
    np.add.at(found, place, counts)
    return found


def _bars(values: np.ndarray, title: str, line: float, top: float) -> Picture:
    """A bar each, numbered from 0, and a line across. Of more than there are pixels the least of each column."""
    left, width, height = 44, SIDE, 220
    image, draw = _canvas(left + width + 12, height + 60, title)
    font, count = _font(11), len(values)
    columns = min(count, width // 2)
    edges = np.linspace(0, count, columns + 1).astype(int)
    heights = np.minimum.reduceat(np.where(np.isfinite(values), values, 0.0), edges[:-1])

    def y(value: float) -> float:
        return 30 + height * (1 - max(0.0, min(value / top, 1.0)))

    for share in (0, 0.25, 0.5, 0.75, 1):
        draw.line((left, y(share * top), left + width, y(share * top)), fill=(225, 225, 225))
        draw.text((left - 6, y(share * top)), f"{share * top:.3g}", fill=INK, font=font, anchor="rm")
    each = width / columns
    for i, value in enumerate(heights):
        x = left + i * each
        draw.rectangle((x + 0.1 * each, y(float(value)), x + max(0.9 * each, 0.1 * each + 1), 30 + height), fill=COLOURS[0])
    draw.line((left, y(line), left + width, y(line)), fill=COLOURS[5], width=2)
    step = max(1, math.ceil(columns * 34 / width))
    for i in range(0, columns, step):
        draw.text((left + (i + 0.5) * each, 34 + height), str(edges[i]), fill=INK, font=font, anchor="mt")
    return _png(image)
