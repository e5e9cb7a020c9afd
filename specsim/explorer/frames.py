"""The widget of a panel's picture, with the values that lie over it."""

from specsim.catalog import slug
from specsim.checks.extras import needed
from specsim.explorer.figure_canvas import HEIGHT, WIDTH
from specsim.explorer.panels import Panel, SpeedupMapPanel

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets


def picture(panel: Panel) -> widgets.Image:
    """The widget of a panel's picture."""
    made = widgets.Image(format="png", width=WIDTH, height=HEIGHT)
    made.add_class("specsim-picture")
    made.add_class("specsim-panel-" + slug(panel.title))
    return made


def overlay() -> widgets.HTML:
    """What lies over a picture."""
    made = widgets.HTML()
    made.add_class("specsim-over")
    return made


def framed(picture: widgets.Image, over: widgets.HTML) -> widgets.Box:
    """A picture and what lies over it."""
    made = widgets.Box([picture, over])
    made.add_class("specsim-frame")
    return made


def detail(panel: Panel, cells: int) -> bool:
    """Set the number of cells of a map; False for another panel, and where nothing changes."""
    if not isinstance(panel, SpeedupMapPanel) or panel.detail == cells:
        return False
    panel.detail = cells
    return True
