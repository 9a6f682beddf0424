"""Loader blocks: a whole bundle, a base, a refiner."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.config import REFINERS
from .host import folders
from .host.loaders import SAID, found, load_base, load_bundle, load_refiner
from .host.models import WEIGHT_DTYPES
from .host.schema import CATEGORY, GlobalEncoderType, schema

_GLOBAL_ENCODER = "The learnt global encoder of this base; to Global Encode. Empty for MS-Image2Video, which has none."

_WEIGHT_DTYPE = io.Combo.Input(
    "weight_dtype",
    options=list(WEIGHT_DTYPES),
    default="default",
    tooltip="Type that the network's weights are kept in. default: what the graphics card is best at. A released network "
    "needs 2.8 GB in fp16 or bf16, 5.7 GB in fp32, and half of fp16's in fp8, at some loss of quality.",
)


class CascadeLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLCascadeLoader",
            display_name="I2VGen-XL Cascade Loader",
            category=CATEGORY,
            description="Loads the base stage and its encoders: built in, the released files, or one folder in diffusers' layout.",
            inputs=[
                io.Combo.Input(
                    "bundle",
                    options=folders.bundles(),
                    tooltip="tiny (built in) was trained on moving shapes and runs anywhere, at 128x64. released files: those of "
                    "download cascade, in diffusion_models, text_encoders, clip_vision and vae; what is missing is named with "
                    "its link. Else a folder under models/diffusers with unet, vae, text_encoder, image_encoder and tokenizer.",
                    extra_dict={"released": folders.offered("i2vgen_xl", "text", "vision", "vae")},
                ),
                _WEIGHT_DTYPE,
            ],
            outputs=[
                io.Model.Output(tooltip="The base network; to Base Sampler or a stock sampler, LoRA loaders between."),
                GlobalEncoderType.Output(display_name="global_encoder", tooltip=_GLOBAL_ENCODER),
                io.Clip.Output(tooltip="To CLIP Encode; also to stock CLIP Text Encode, for the refiner's prompts."),
                io.ClipVision.Output(tooltip="To CLIP Encode."),
                io.Vae.Output(tooltip="To Global Encode and VAE Decode; to stock VAE Encode before the refiner."),
            ],
            search_aliases=[
                "image to video",
                "i2vgen",
                "for img2vid",
                "to animate a photo",
                "with clip vision",
                "cascade",
            ],
        )

    @classmethod
    def validate_inputs(cls, bundle: str | None) -> bool | str:
        return bundle is None or found(partial(folders.bundle, bundle))

    @classmethod
    def execute(cls, bundle: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(*load_bundle(bundle, weight_dtype))


class BaseLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLBaseLoader",
            display_name="I2VGen-XL Base Loader",
            category=CATEGORY,
            description="Loads a base network from one file: I2VGen-XL, MS-Image2Video, or one of their family.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folders.bases(),
                    tooltip="A file under models/diffusion_models: i2vgen_xl_00854500.pth, diffusers' "
                    "unet/diffusion_pytorch_model.safetensors, an MS-Image2Video checkpoint, or a GGUF file of one of them. "
                    "Or the built-in base.",
                ),
                _WEIGHT_DTYPE,
                io.Combo.Input(
                    "detail_gain",
                    options=["official", "once"],
                    default="official",
                    tooltip="official adds the image's detail features twice, as the released weights were trained. "
                    "once is for weights trained against the diffusers port, such as Ctrl-Adapter's. Costs nothing.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["auto", *SAID],
                    default="auto",
                    optional=True,  # workflows saved before it was there have none
                    tooltip="What the file is, where its tensors cannot say: the composers of TF-T2V and VideoLCM have the same, "
                    "and so have text2video and the refiners. auto takes the file's word, and asks where there is none.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The base network; to Base Sampler or a stock sampler, LoRA loaders between."),
                GlobalEncoderType.Output(display_name="global_encoder", tooltip=_GLOBAL_ENCODER),
            ],
            search_aliases=["image to video", "i2vgen", "for img2vid", "image2video"],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return model_name is None or found(partial(folders.base, model_name))

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str, detail_gain: str, kind: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(*load_base(model_name, weight_dtype, detail_gain, kind))


class RefinerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLRefinerLoader",
            display_name="I2VGen-XL Refiner Loader",
            category=CATEGORY,
            description="Loads the second stage: MS-Vid2Vid-XL, VGen's SR600, STAR or VEnhancer.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folders.refiners(),
                    tooltip="A file under models/diffusion_models (non_ema_0035000.pth, sr_step_110000_ema.pth, or a GGUF "
                    "file of one of them), the refiner of a bundle under models/diffusers, or the built-in one, for 288x144. "
                    "goes with the base: that of the base's bundle, or MS-Vid2Vid-XL.",
                    extra_dict={"released": folders.offered("vid2vid_xl")},
                ),
                io.Combo.Input(
                    "variant",
                    options=["auto", *REFINERS],
                    default="auto",
                    tooltip="The two refiners have the same tensors. auto takes what the file's metadata or config.json "
                    "says, else vid2vid_xl. sr600 inverts the video instead of adding noise, and filters two skips.",
                ),
                _WEIGHT_DTYPE,
                io.Model.Input(
                    "base", optional=True, tooltip="The base that it goes with: the Cascade Loader's MODEL."
                ),
            ],
            outputs=[io.Model.Output(tooltip="The refiner; to Refine Sampler, LoRA loaders between.")],
            search_aliases=[
                "video to video",
                "for vid2vid",
                "to upscale video",
                "to enhance video",
                "i2vgen",
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        if model_name is None or model_name == folders.WITH_BASE:  # what goes with a base is known when that is loaded
            return True
        return found(partial(folders.refiner, model_name))

    @classmethod
    async def execute(cls, model_name: str, variant: str, weight_dtype: str, base: Any = None) -> io.NodeOutput:
        """Asynchronous, so that the host runs it first: a wrong file is told before the base is sampled."""
        return io.NodeOutput(load_refiner(model_name, variant, weight_dtype, base))
