"""Templates of the networks beside the cascade's. None of their files comes with the pack: the notes say which they wait
for. tests/host runs them on made-up networks."""

from __future__ import annotations

from collections.abc import Callable

from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.config import Kind
from i2vgen_core.releases import RELEASES

from .graph import Graph, Group, Node, Output
from .settings import released
from .stages import save_frames

_TERMS = """**Terms.** {licence}. The files were not at hand when this template was made: its graph was run on made-up \
networks of a small size."""

_ENCODERS = """Beside it, in *ComfyUI/models*, as for I2VGen-XL itself; `python -m i2vgen_core download {names}` fetches \
them:

{files}"""


def waiting_note(title: str, words: str, file: str, more: str = "", encoders: tuple[str, ...] = ("text", "vae")) -> str:
    """What stands beside a graph whose network does not come with the pack."""
    network = FILES[file]
    own = f"- *{network.folder}*: {network.name}, {network.gigabytes:g} GB, from [its page]({network.page})"
    beside = "\n".join(
        f"- *{each.folder}*: [{each.name}]({each.page}/resolve/main/{each.file}), {each.gigabytes:g} GB"
        for each in (FILES[key] for key in encoders)
    )
    parts = [
        f"# {title}",
        words,
        f"**It waits for this file**, in its folder under *ComfyUI/models*; press R when it is there:\n\n{own}",
        _ENCODERS.format(names=" ".join(encoders), files=beside),
        more,
        _TERMS.format(licence=network.licence[:1].upper() + network.licence[1:]),
    ]
    return "\n\n".join(part for part in parts if part)


class NetworkStart:
    """The network and its encoders."""

    def __init__(self, graph: Graph, kind: Kind, file: str, **loaded: str):
        """loaded: settings of the loader, beside the file."""
        self.graph, self.release = graph, RELEASES[kind]
        models = graph.group("1. Models")
        said = kind if kind in ("tft2v_composer", "videolcm_composer", "text2video") else "auto"
        self.model: Node = models.add("I2VGenXLBaseLoader", model_name=FILES[file].name, kind=said, **loaded)
        self.clip = models.add("CLIPLoader", clip_name=FILES["text"].name, models=released("text"))
        self.vae = models.add("VAELoader", vae_name=FILES["vae"].name, models=released("vae"))
        self._vision: Node | None = None
        self._models = models

    @property
    def vision(self) -> Node:
        if self._vision is None:
            self._vision = self._models.add(
                "CLIPVisionLoader", clip_name=FILES["vision"].name, models=released("vision")
            )
        return self._vision

    def prompts(self, prompt: str, number: int) -> tuple[Node, Node]:
        group = self.graph.group(f"{number}. Prompts")
        positive = group.add("CLIPTextEncode", title="Prompt", clip=self.clip, text=prompt + self.release.prompt_suffix)
        words = self.release.negative_prompt
        return positive, group.add("CLIPTextEncode", title="Negative prompt", clip=self.clip, text=words)

    def sampled(self, group: Group, source: Node, model: Node | None = None) -> None:
        sides = {name: source[name] for name in ("positive", "negative")}
        self.finish(group, model, latent=source["LATENT"], **sides)

    def finish(self, group: Group, model: Node | None = None, **wires: Node | Output) -> None:
        chosen = model or self.model
        latent = group.add("I2VGenXLBaseSampler", model=chosen, control_after_generate="randomize", **wires)
        frames = group.add("I2VGenXLVAEDecode", vae=self.vae, latent=latent)
        save_frames(self.graph.group("Video"), frames, self.graph.name)


def _compose(start: NetworkStart, group: Group, prompt: str, **guides: Node | Output) -> None:
    positive, negative = start.prompts(prompt, 3)
    size = {"width": start.release.width, "height": start.release.height, "frames": start.release.frames}
    composed = start.graph.group("4. Guides").add(
        "I2VGenXLCompose", positive=positive, negative=negative, **size, **guides
    )
    start.sampled(start.graph.group("5. Sampling"), composed)


def video_in(graph: Graph, title: str, file: str = "video.mp4") -> tuple[Group, Node]:
    group = graph.group(title)
    return group, group.add("GetVideoComponents", video=group.add("LoadVideo", file=file))


_MOGE, _SDPOSE = "moge_2_vitl_normal_fp16.safetensors", "sdpose_wholebody_fp16.safetensors"


def _hosted(repository: str, folder: str, file: str) -> list[dict[str, str]]:
    """Of what ComfyUI's own templates take."""
    url = f"https://huggingface.co/Comfy-Org/{repository}/resolve/main/{folder}/{file}"
    return [{"name": file, "url": url, "directory": folder}]


_FOX = "A fox runs through a forest, morning light"
_AFTER = "What comes out is refined as the base's video is: *03 Refine a video*."


def sketch_to_video() -> Graph:
    words = f"""The lines of a video, and a sentence for what they are of. *Canny* draws them here; PiDiNet's lines, of other \
packs, are nearer to what the network was trained on. Dark lines on white are turned round. {_AFTER}"""
    note = waiting_note("Sketch to video", words, "tft2v_composer")
    graph = Graph("sketch_to_video", note, "I2VGen-XL 16 Sketch to video")
    start = NetworkStart(graph, "tft2v_composer", "tft2v_composer")
    group, frames = video_in(graph, "2. Lines of a video")
    lines = group.add("Canny", image=frames)
    group.add("PreviewImage", images=lines)
    _compose(start, group, _FOX, sketch=lines)
    return graph


def depth_to_video() -> Graph:
    words = f"""The depth of a video, and a sentence. *MoGe* estimates it here, with its file in *models/geometry_estimation*; \
any block does that draws near places bright. Blocks that scale each frame by itself make the depth flicker. {_AFTER}"""
    note = waiting_note("Depth to video", words, "tft2v_composer")
    graph = Graph("depth_to_video", note, "I2VGen-XL 17 Depth to video")
    start = NetworkStart(graph, "tft2v_composer", "tft2v_composer")
    _, frames = video_in(graph, "2. A video")
    group = graph.group("Its depth")
    moge = group.add("LoadMoGeModel", model_name=_MOGE, models=_hosted("MoGe", "geometry_estimation", _MOGE))
    depth = group.add("MoGeRender", moge_geometry=group.add("MoGeInference", moge_model=moge, image=frames))
    group.add("PreviewImage", images=depth)
    _compose(start, group, _FOX, depth=depth)
    return graph


def masked_to_video() -> Graph:
    words = f"""A video of which a part is made anew: white in the mask is to be made, in all frames. A mask video goes \
through *Convert Image to Mask*, and has one mask a frame. Frames that the video lacks are made whole. {_AFTER}"""
    note = waiting_note("Fill in a mask over time", words, "tft2v_composer")
    graph = Graph("masked_to_video", note, "I2VGen-XL 18 Masked video to video, filled in")
    start = NetworkStart(graph, "tft2v_composer", "tft2v_composer")
    group, frames = video_in(graph, "2. Video and mask")
    mask = group.add("LoadImageMask", image="mask.png", channel="red")
    _compose(start, group, _FOX, masked_video=frames, mask=mask)
    return graph


def four_steps() -> Graph:
    words = f"""A picture and a sentence to a video in four steps, without guidance: VideoLCM's composer. Steps and cfg of 0 are \
its own. It reads no negative prompt. {_AFTER}"""
    note = waiting_note("Image to video in four steps", words, "videolcm_composer")
    graph = Graph("four_steps", note, "I2VGen-XL 19 Image to video in four steps")
    start = NetworkStart(graph, "videolcm_composer", "videolcm_composer")
    group = graph.group("2. First picture")
    _compose(start, group, _FOX, image=group.add("LoadImage", image="photo.png"))
    return graph


def person_to_video() -> Graph:
    words = """A person's picture follows the poses of a video. *SDPose* finds the keypoints of both, with its file in \
*models/checkpoints*; *DWPose* of other packs does too. Align Pose brings them to the person's build and place, and draws \
them as the network was trained. Shoulders and hips have to be seen in the picture and in the first frame."""
    more = """For Animate-X: its file in the loader, *mode* first frame, *align* off, and the driving video and its keypoints wired \
into Poses to Video."""
    note = waiting_note("A person follows poses", words, "unianimate", more, ("text", "vision", "vae"))
    graph = Graph("person_to_video", note, "I2VGen-XL 20 Poses to video, a person follows")
    start = NetworkStart(graph, "unianimate", "unianimate")
    vision = start.vision
    group, frames = video_in(graph, "2. Who, and how")
    person = group.add("LoadImage", image="person.png")
    poses = graph.group("3. Poses")
    sdpose = poses.add(
        "CheckpointLoaderSimple", ckpt_name=_SDPOSE, models=_hosted("SDPose", "checkpoints", _SDPOSE), room=170
    )
    found = [
        poses.add("SDPoseKeypointExtractor", title=title, model=sdpose, vae=sdpose["VAE"], image=image)
        for title, image in (("Of the video", frames), ("Of the person", person))
    ]
    aligned = poses.add("I2VGenXLAlignPose", keypoints=found[0], reference=found[1])
    poses.add("PreviewImage", images=aligned)
    encoders = {"clip": start.clip, "clip_vision": vision, "vae": start.vae}
    animated = graph.group("4. Person and poses").add("I2VGenXLAnimate", image=person, poses=aligned, **encoders)
    start.sampled(graph.group("5. Sampling"), animated)
    return graph


def text_to_video() -> Graph:
    words = f"""A sentence to a video, with stock text encoding and a stock empty latent whose batch is the frames. TF-T2V's \
network. VideoLCM's (videolcm_t2v_non_ema_544000.pth) makes one in four steps; of VGen's (model_scope_0267000.pth) say \
*text2video* in the loader. {_AFTER}"""
    note = waiting_note("Text to video", words, "tft2v_t2v")
    graph = Graph("text_to_video", note, "I2VGen-XL 21 Text to video")
    start = NetworkStart(graph, "tft2v_t2v", "tft2v_t2v")
    positive, negative = start.prompts(_FOX, 2)
    stage = graph.group("3. Sampling")
    size = {"width": start.release.width, "height": start.release.height, "batch_size": start.release.frames}
    latent = stage.add("EmptyLatentImage", **size)
    start.finish(stage, positive=positive, negative=negative, latent=latent)
    return graph


FAMILY: list[Callable[[], Graph]] = [
    sketch_to_video,
    depth_to_video,
    masked_to_video,
    four_steps,
    person_to_video,
    text_to_video,
]
"""In the order in which the front end lists them, after the cascade's."""
