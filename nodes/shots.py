"""Shots block: a story of prompts with lengths becomes one video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.releases import RELEASES
from ..i2vgen_core.shots import MOST_FRAMES, OVERLAP, clips_of, read_shots
from .host.schema import CATEGORY, GlobalEncoderType, schema
from .host.shots import chain

_STORY = "16: a fox wakes up\n16: it stretches and looks around\n16: it runs away through the snow"


class Shots(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLShots",
            display_name="I2VGen-XL Shots",
            category=CATEGORY,
            description="Makes one video of a list of prompts: each shot goes on where the last one ended.",
            inputs=[
                io.Model.Input("model", raw_link=True, tooltip="A base, from the Cascade Loader or the Base Loader."),
                io.Clip.Input(
                    "clip",
                    raw_link=True,
                    tooltip="OpenCLIP ViT-H/14's text encoder, of the Cascade Loader or stock Load CLIP. Another one is "
                    "refused later.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    raw_link=True,
                    tooltip="OpenCLIP ViT-H/14's image encoder, of the Cascade Loader or stock Load CLIP Vision. Runs "
                    "once a video.",
                ),
                GlobalEncoderType.Input(
                    "global_encoder", raw_link=True, tooltip="From the loader of the base that will sample."
                ),
                io.Vae.Input(
                    "vae",
                    raw_link=True,
                    tooltip="Stable Diffusion 2.1's VAE, of the Cascade Loader or stock Load VAE.",
                ),
                io.Image.Input(
                    "image",
                    raw_link=True,
                    tooltip="The photo. Scaled to cover the video's size and cropped to its centre. Of a batch, the first "
                    "image.",
                ),
                io.String.Input(
                    "shots",
                    multiline=True,
                    default=_STORY,
                    tooltip="One shot a line: its frames, a colon, and what happens. A line without a length has 'frames'. "
                    "Lines that begin with # are left out. A shot that is changed runs again, and those after it.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default=RELEASES["i2vgen_xl"].negative_prompt,
                    tooltip="What to keep away from. The official code never leaves it empty; this is its text. 75 tokens.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Width of the video, in steps of 8. Released for 1280x704, MS-Image2Video for 448x256; the "
                    "block I2VGen-XL Size has more that the networks like. Time and memory grow with the pixels. "
                    "0: the model's own.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Height of the video, in steps of 8: see width. 0: the model's own.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="Length of a shot whose line says none. Memory grows with the longest shot, time with all.",
                ),
                io.Int.Input(
                    "fps",
                    default=0,
                    min=0,
                    max=120,
                    tooltip="A condition on motion: 16 calmer, 8 livelier from frame to frame; training saw these two. 0: "
                    "the model's own. Not the saved file's rate. Costs nothing.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Seed of the noise: one seed, one video.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="0: the model's own, 50 for the releases. Useful: 20 to 50; time grows with them. Numbers "
                    "that divide 1000 are the official steps exactly.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale. 0: the model's own, 9 for I2VGen-XL and 3 for MS-Image2Video. Useful: 3 to "
                    "12. Higher follows the prompts more and saturates; 1 reads no negative prompt and takes half "
                    "the time.",
                ),
                io.Int.Input(
                    "overlap",
                    default=OVERLAP,
                    min=1,
                    max=16,
                    tooltip="Frames of the shot before that a shot begins with, held and not shown twice. 1 says where things "
                    "are, 2 and more how they move. Each costs one more frame in every shot.",
                ),
                io.Float.Input(
                    "color_match",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much a shot's colours are brought back to those of the frame that it began with.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="All shots behind each other; to Create Video, or on to the second stage.")
            ],
            search_aliases=[
                "i2vgen",
                "storyboard",
                "story",
                "prompt schedule",
                "prompt travel",
                "long video",
                "scenes",
            ],
            enable_expand=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        clip_vision: Any,
        global_encoder: Any,
        vae: Any,
        image: Any,
        shots: str,
        negative_prompt: str,
        width: int,
        height: int,
        frames: int,
        fps: int,
        seed: int,
        steps: int,
        cfg: float,
        overlap: int,
        color_match: float,
    ) -> io.NodeOutput:
        loaded = {
            "model": model,
            "clip": clip,
            "clip_vision": clip_vision,
            "global_encoder": global_encoder,
            "vae": vae,
        }
        asked = {"width": width, "height": height, "fps": fps, "negative_prompt": negative_prompt}
        sampled = {"steps": steps, "cfg": cfg, "eta": 0.0}
        clips = clips_of(read_shots(shots), frames, seed, overlap)
        graph, video = chain(clips, loaded, image, asked, sampled, color_match)
        return io.NodeOutput(video, expand=graph)
