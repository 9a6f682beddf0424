"""The blocks of the graph, and the one list of them."""

from comfy_api.latest import ComfyExtension, io

from .accelerate import Accelerate
from .animate import AlignPose, Animate
from .base_sample import BaseSampler
from .clip_encode import CLIPEncode
from .color_match import ColorMatch
from .compare_videos import CompareVideos
from .compose import Compose
from .continue_video import Continue
from .ctrl_adapter import ApplyCtrlAdapter, CtrlAdapterLoader
from .drag import Camera, Drag, FollowAnimation
from .first_last import FirstLast
from .global_encode import GlobalEncode
from .host import attention_scales, blueprints, compat, detection, lora
from .inspect_conditioning import InspectConditioning
from .load import BaseLoader, CascadeLoader, RefinerLoader
from .prompt import Prompt
from .refine_prepare import RefinePrepare
from .refine_sample import RefineSampler
from .score import Score
from .shots import Shots
from .size import Size
from .spectrum import Spectrum
from .tiny_scene import TinyScene
from .vae_decode import VAEDecode
from .video_edit import VideoEdit

NODES: list[type[io.ComfyNode]] = [
    CascadeLoader,
    BaseLoader,
    RefinerLoader,
    CLIPEncode,
    GlobalEncode,
    BaseSampler,
    RefineSampler,
    VAEDecode,
    TinyScene,
    Size,
    ColorMatch,
    InspectConditioning,
    Spectrum,
    CompareVideos,
    Accelerate,
    VideoEdit,
    Compose,
    AlignPose,
    Animate,
    CtrlAdapterLoader,
    ApplyCtrlAdapter,
    RefinePrepare,
    FirstLast,
    Drag,
    Camera,
    FollowAnimation,
    Shots,
    Continue,
    Prompt,
    Score,
]


class I2VGenXLExtension(ComfyExtension):
    async def on_load(self) -> None:
        compat.name_errors_shortly()
        detection.install()
        lora.install()
        attention_scales.install()
        await blueprints.add_search_words()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
