"""The templates of networks whose files do not come with the pack."""

from .family import FAMILY
from .restoring import RESTORING
from .steering import STEERING

WAITING = FAMILY + RESTORING + STEERING
"""In the order in which the front end lists them."""
