"""I2VGen-XL for ComfyUI: the image-to-video cascade as blocks of the graph."""

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """What the host calls; nothing of the host is imported before it does."""
    from .nodes import I2VGenXLExtension

    return I2VGenXLExtension()
