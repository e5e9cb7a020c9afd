"""A live view where no kernel runs: on a code host, in a page that nbconvert wrote, in an e-mail.

What a notebook stores of a widget is a bundle of the same thing in several formats. A page with a
kernel takes the widget; every other page takes the pictures and sentences of the moment at which it
was shown, as HTML, as one PNG, or as text.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from specsim.checks.extras import needed

with needed("the explorer", "notebooks"):
    from PIL import Image

VIEW = "application/vnd.jupyter.widget-view+json"  # the MIME type of a widget
COLOURS = 64  # of a stored picture: a third of the bytes, and no difference to the eye
LIMIT_PX = 480  # the width of a picture in HTML


@dataclass(frozen=True, slots=True)
class StaticView:
    """What is shown: a sentence, pictures as PNGs by their titles, and further HTML below them."""

    words: str
    pictures: Sequence[tuple[str, bytes]]
    below: str = ""

    def bundle(self) -> dict[str, str | bytes]:
        """The formats that a page without a kernel can show, by MIME type."""
        found: dict[str, str | bytes] = {"text/plain": self.words, "text/html": self.as_html()}
        if self.pictures:
            found["image/png"] = base64.b64encode(beside([p for _, p in self.pictures])).decode()
        return found

    def as_html(self) -> str:
        """The sentence, the pictures (each with its title and the sentence as its alternative
        text) and what is below them; no style sheet and no script, which code hosts remove."""
        images = "".join(
            f'<img alt="{html.escape(f"{title}. {self.words}")}" width="{LIMIT_PX}" '
            f'style="max-width: 100%" src="{data_uri(smaller(picture), "image/png")}">'
            for title, picture in self.pictures
        )
        return f"<p>{html.escape(self.words)}</p>{images}{self.below}"


def data_uri(content: bytes, kind: str) -> str:
    """The content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def smaller(picture: bytes) -> bytes:
    """The same picture with few colours, for a file that is stored."""
    return _encoded(Image.open(BytesIO(picture)))


def beside(pictures: Sequence[bytes], columns: int = 2, few_colours: bool = True) -> bytes:
    """Pictures of one size as one picture, `columns` in a row; smaller with `few_colours`, and
    sooner done without."""
    opened = [Image.open(BytesIO(picture)) for picture in pictures]
    width, height = opened[0].size
    columns = min(columns, len(opened))
    rows = -(-len(opened) // columns)
    whole = Image.new("RGB", (columns * width, rows * height), "white")
    for place, picture in enumerate(opened):
        whole.paste(picture, (place % columns * width, place // columns * height))
    if few_colours:
        return _encoded(whole)
    out = BytesIO()
    whole.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _encoded(picture: Image.Image) -> bytes:
    out = BytesIO()
    few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return out.getvalue()
