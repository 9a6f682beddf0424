"""What the blocks declare themselves with: their schema, the menu's folders and the pack's own socket."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

CATEGORY = "I2VGen-XL"
"""The menu's folder of the blocks."""

INSPECT = "I2VGen-XL/inspect"
"""The menu's folder of the blocks that show what goes on in a graph."""

GlobalEncoderType = io.Custom("I2VGENXL_GLOBAL_ENCODER")
"""Socket of a base's learnt global encoder."""

CtrlAdapterType = io.Custom("I2VGENXL_CTRL_ADAPTER")
"""Socket of a Ctrl-Adapter."""

PoseKeypointType = io.Custom("POSE_KEYPOINT")
"""Socket of body points, as pose detectors give them: OpenPose's JSON."""

FlowType = io.Custom("IMAGE,OPTICAL_FLOW")
"""Socket of optical flow, as tensors of other packs or as pictures."""

BoxType = io.Custom("BOUNDING_BOX")
"""Socket of boxes in pixels, as ComfyUI's detectors and its Bounding Box give them."""

TracksType = io.Custom("TRACKS")
"""Socket of points that move, as ComfyUI's Generate Video Tracks gives them."""

_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """A block's schema without the fields that this host does not know (before 0.33: search_aliases)."""
    return io.Schema(**{name: value for name, value in fields.items() if name in _FIELDS})
