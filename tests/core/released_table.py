"""Every kind of file that people have: what writes it at toy size, what reads it, and how near its forward is to the official
code's.

    python tests/core/released_table.py docs/checkpoints.md

writes the table of docs/checkpoints.md anew.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)] if __name__ == "__main__" else []

import torch  # noqa: E402
import toy  # noqa: E402
from released import (  # noqa: E402
    ANIMATORS_CASES,
    CASE,
    CASES,
    CLIP,
    CLIP_SETTINGS,
    HEADS,
    NAMES,
    NETWORK,
    UNET_SETTINGS,
    VAE_SETTINGS,
    animator_golden,
    as_dtype,
    check,
    composer_golden,
    family,
    family_file,
    folder,
    hf_text,
    hf_vision,
    hinted,
    hinted_golden,
    i2vgen_diffusers,
    ldm_vae,
    lightning,
    module_state,
    open_clip,
    own_family,
    own_part,
    own_unet,
    quantised,
    save,
    stable_diffusion,
    unet,
    vgen,
    weights,
    write_hf_clip,
)
from safetensors.torch import load_file, save_file  # noqa: E402

from i2vgen_core.checkpoints import clip_keys, encoders, vae_keys  # noqa: E402
from i2vgen_core.checkpoints.gguf import read_gguf_header  # noqa: E402
from i2vgen_core.checkpoints.load import open_base, open_refiner, open_unet, parse_unet  # noqa: E402
from i2vgen_core.checkpoints.read import read_state_dict  # noqa: E402
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, from_official  # noqa: E402
from i2vgen_core.config import ANIMATORS, COMPOSER_STEMS, HINTED  # noqa: E402


@dataclass(frozen=True)
class Result:
    """Of one file: what it was taken for, the weights' type, how many tensors matched, and the forward's error."""

    kind: str
    stored: str
    tensors: int
    error: float


_errors: dict = {}


def forward_error(checkpoint, dtype):
    """Of a network's forward against what the official code computed; of the same tensors and sizes, once."""
    key = checkpoint.config, dtype
    if key not in _errors:
        name, found = forward(checkpoint)
        _errors[key] = toy.error(found, load_file(toy.GOLDEN / "unet.safetensors")[f"single.{name}"])
    return _errors[key]


@torch.no_grad()
def forward(checkpoint):
    """The golden value's name, and ours."""
    kind, case = checkpoint.config.kind, CASE
    batch, frames, height, width = (case[key] for key in ("batch", "frames", "height", "width"))
    network = checkpoint.build_network(torch.float32)
    t, fps = torch.tensor(case["t"]), torch.tensor(case["fps"])
    text = weights.noise("y", (batch, 77, case["context_dim"]))
    image = weights.noise("image", (batch, 1, case["context_dim"]))
    x = check.flat(weights.noise("x", (batch, 4, frames, height, width)))
    if kind == "i2vgen_xl":
        local = weights.noise("local", (batch, 4, 1, height, width))[:, :, 0]
        tokens = checkpoint.build_global_encoder(torch.float32)(local)
        context = torch.cat([text, tokens, network.context_embedding(image)], dim=1)
        details = network.detail_encoder(local, frames)
        return "i2vgen.cond", check.video(network(x, t, context, frames, fps, details), batch)
    if kind == "image2video":
        return kind, check.video(network(x, t, network.context_embedding(image), frames, fps), batch)
    x = check.flat(weights.noise("x2", (batch, 4, frames, height + 2, width)))
    return kind.removesuffix("_xl"), check.video(network(x, t, text, frames), batch)


def base(path):
    """A base from a file. A pickled one says nothing of heads, which are not the releases' 64 here."""
    checkpoint = open_base(path) if says_heads(path) else parse_unet(read_state_dict(path)[0], HEADS)
    assert not checkpoint.config.is_refiner
    return of_unet(checkpoint)


def refiner(kind=None):
    def open_(path):
        return of_unet(
            open_refiner(path, kind) if says_heads(path) else parse_unet(read_state_dict(path)[0], HEADS, kind=kind)
        )

    return open_


def says_heads(path):
    if path.is_dir():
        return True
    return path.suffix == ".safetensors" and "head_dim" in read_state_dict(path)[1]


def of_unet(checkpoint):
    """Of a network whose every tensor is the one that was written, rounded to the type that is stored."""
    kind, dtype = checkpoint.config.kind, checkpoint.network["out.2.weight"].dtype
    found = checkpoint.network | {GLOBAL_ENCODER + key: value for key, value in checkpoint.global_encoder.items()}
    expected = as_dtype(from_official(unet(kind)), dtype)
    assert found.keys() == expected.keys()
    assert all(torch.equal(bits(value), bits(expected[key])) for key, value in found.items())
    return Result(kind, NAMES[dtype], len(found), forward_error(checkpoint, dtype))


def of_family(said=None):
    """A network that is no stage, by what its user says of it, if anything."""

    def open_(path):
        checkpoint = open_unet(path) if says_heads(path) else parse_unet(read_state_dict(path)[0], HEADS, kind=said)
        kind, expected = checkpoint.config.kind, from_official(family(checkpoint.config.kind))
        assert toy.same(checkpoint.network, expected) and not checkpoint.global_encoder
        stored = NAMES[checkpoint.network["out.2.weight"].dtype]
        return Result(kind, stored, len(expected), family_error(kind, checkpoint))

    return open_


@torch.no_grad()
def family_error(kind, checkpoint):
    unet = checkpoint.build_network(torch.float32)
    if kind in HINTED:
        found, _ = hinted_golden.network_values(hinted(kind), hinted(kind).cases["unet"]["tiny"], unet)["controlled"]
        return toy.error(found, load_file(toy.GOLDEN / kind / "unet.safetensors")["tiny.controlled"])
    if kind in ANIMATORS:
        file, name = ("unet", "single") if kind == "unianimate" else ("animate_x", "tiny")
        made = animator_golden.Inputs(weights, ANIMATORS_CASES[file][name])
        parts, poses, value = animator_golden.MODES["random_ref"], None, "random_ref"
        if kind == "animate_x":
            frames = made.frames + 1
            points = made.noise("keypoints", (1, frames, 2, 18), 0.25, 0.5)
            poses = unet.prepare_poses(points, made.noise("driving", (frames, 1, 1024)))
        found = made.run(unet, *parts, poses=poses)
        return toy.error(found, load_file(toy.GOLDEN / "unianimate" / f"{file}.safetensors")[f"{name}.{value}"])
    cases = json.loads((toy.GOLDEN / "composer" / "cases.json").read_text(encoding="utf-8"))
    name, value, mix = FAMILY_VALUES[kind]
    case = cases["cases"][name]
    made = composer_golden.Inputs(weights, cases["pictures"], case, NETWORK["context_dim"])
    pictures, image = made.mix(mix)
    context = composer_golden.context_of(unet, made.text, image)
    velocity = unet(made.x, torch.tensor(case["t"]), context, made.frames, details=made.beside_noise(unet, pictures))
    golden = load_file(toy.GOLDEN / "composer" / "unet.safetensors")[f"{name}.{value}"]
    return toy.error(check.video(velocity, made.batch), golden)


FAMILY_VALUES = {
    "tft2v_composer": ("single", "velocity.all", [*COMPOSER_STEMS, "image"]),
    "videolcm_composer": ("single", "velocity.all", [*COMPOSER_STEMS, "image"]),
    "tft2v_t2v": ("tiny", "tft2v_t2v.image", ["image"]),
    "videolcm_t2v": ("tiny", "videolcm_t2v", []),
    "text2video": ("tiny", "vgen_t2v", []),
}
"""By kind: the case, the golden value's name there, and what the network reads beside text."""


def bits(value):
    """A tensor's bytes: values of 8 bits cannot be compared on the CPU by every torch."""
    return value.contiguous().reshape(-1).view(torch.uint8)


def from_gguf(path):
    """Of a base whose every tensor is there in its shape; how near the weights are, test_gguf.py shows."""
    checkpoint = open_base(path)
    found = checkpoint.network | {GLOBAL_ENCODER + key: value for key, value in checkpoint.global_encoder.items()}
    expected = from_official(unet("i2vgen_xl"))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in expected.items()}
    kinds = Counter(tensor.type_name for tensor in read_gguf_header(path)[0].values())
    stored = next(name for name, _ in kinds.most_common() if name != "F32")
    _, values = forward(checkpoint)
    error = toy.error(values, load_file(toy.GOLDEN / "unet.safetensors")["single.i2vgen.cond"])
    return Result(checkpoint.config.kind, stored, len(found), error)


@torch.no_grad()
def text(path, **heads):
    tower = clip_keys.text_tower(read_state_dict(path)[0])
    encoded = encoders.load_text_encoder(path, **heads).encode(CASES["encoders"]["prompts"])
    error = toy.error(encoded, load_file(toy.GOLDEN / "encoders.safetensors")["text_penultimate"])
    return Result("CLIP text", NAMES[next(iter(tower.values())).dtype], len(tower), error)


@torch.no_grad()
def vision(path, **heads):
    tower = clip_keys.vision_tower(read_state_dict(path)[0])
    size = CLIP["vision"]["image_size"]
    pixels = weights.noise(CASES["encoders"]["pixels"], (2, 3, size, size))
    encoded = encoders.load_image_encoder(path, **heads).encode(pixels)
    error = toy.error(encoded, load_file(toy.GOLDEN / "encoders.safetensors")["image_embeds"])
    return Result("CLIP vision", NAMES[next(iter(tower.values())).dtype], len(tower), error)


def clip(path):
    """Both towers, from a file or from a Hugging Face folder."""
    heads = {} if path.is_dir() else {"head_dim": 16}
    one, other = text(path, **heads), vision(path, **heads)
    kind = f"{one.kind}, {other.kind}"
    return Result(kind, one.stored, one.tensors + other.tensors, max(one.error, other.error))


@torch.no_grad()
def vae(path):
    loaded, golden = encoders.load_vae(path), load_file(toy.GOLDEN / "encoders.safetensors")
    errors = (
        toy.error(loaded.moments(weights.noise(*CASES["encoders"]["vae_pixels"])), golden["vae_moments"]),
        toy.error(loaded.decode_pixels(weights.noise(*CASES["encoders"]["vae_latent"])), golden["vae_decoded"]),
    )
    tensors = vae_keys.vae_tensors(read_state_dict(path)[0])
    return Result("vae", NAMES[tensors["decoder.conv_in.weight"].dtype], len(tensors), max(errors))


@dataclass(frozen=True)
class Row:
    """One kind of file that people have.

    Args:
        file: the released name; the suffix is that of the toy file too.
        source: where it comes from.
        stored: type of the weights.
        kind: what it has to be taken for.
        write: writes the toy file.
        open: reads it.
        limit: of the forward's relative error. Rounded weights give another forward, by about their own rounding.
    """

    file: str
    source: str
    stored: str
    kind: str
    write: Callable
    open: Callable
    limit: float = 1e-5

    def result(self, place, number):
        """Writes and reads it in a folder of its own."""
        place = place / str(number)
        place.mkdir()
        path = place / self.file.removesuffix("/").split("/")[-1].replace(" alone", "")
        self.write(path)
        return self.open(path)


def _ema(path):
    save_file({f"ema.{key}": value.contiguous() for key, value in unet("vid2vid_xl").items()}, path)


def _tuned(dtype):
    return lambda path: save_file(as_dtype(unet("i2vgen_xl"), dtype), path)


SAFE = "diffusion_pytorch_model.safetensors"
FP16 = "diffusion_pytorch_model.fp16.safetensors"
VGEN, DIFFUSERS, OWN = "ali-vilab/i2vgen-xl, models/", "ali-vilab/i2vgen-xl", "`convert` of this project"
TF_T2V = "iic/tf-t2v"
FOLDERS = {"CLIP text": "text_encoder/", "CLIP vision": "image_encoder/"}
ROWS = (
    Row("i2vgen_xl_00854500.pth", VGEN, "fp32", "i2vgen_xl", vgen("i2vgen_xl"), base),
    Row("unet/", DIFFUSERS, "fp32", "i2vgen_xl", folder(UNET_SETTINGS, SAFE, i2vgen_diffusers), base),
    Row(
        "unet/, sharded", DIFFUSERS, "fp32", "i2vgen_xl", folder(UNET_SETTINGS, SAFE, i2vgen_diffusers, shards=3), base
    ),
    Row(
        "unet/, .fp16. variant",
        DIFFUSERS,
        "fp16",
        "i2vgen_xl",
        folder(UNET_SETTINGS, FP16, i2vgen_diffusers, torch.float16),
        base,
        1e-2,
    ),
    Row(
        "unet/" + SAFE + " alone",
        DIFFUSERS,
        "fp32",
        "i2vgen_xl",
        lambda path: save_file(as_dtype(i2vgen_diffusers(), torch.float32), path),
        base,
    ),
    Row(
        "unet/" + FP16 + " alone",
        DIFFUSERS,
        "fp16",
        "i2vgen_xl",
        lambda path: save_file(as_dtype(i2vgen_diffusers(), torch.float16), path),
        base,
        1e-2,
    ),
    Row(
        "base_03_alldata_fps_v_80g_0789000.pth, img2video_ldm_0779000.pth",
        "MS-Image2Video",
        "fp32",
        "image2video",
        vgen("image2video", 789000),
        base,
    ),
    Row("non_ema_0035000.pth", "MS-Vid2Vid-XL", "fp32", "vid2vid_xl", vgen("vid2vid_xl", 35000), refiner()),
    Row("sr_step_110000_ema.pth", "VGen", "fp32", "sr600", vgen("sr600", 110000), refiner("sr600")),
    Row(
        "open_clip_pytorch_model.bin",
        "open_clip, ViT-H/14",
        "fp32",
        "CLIP text, CLIP vision",
        lambda path: torch.save(module_state(open_clip()), path),
        clip,
    ),
    Row("CLIP-ViT-H-14-laion2B-s32B-b79K/", "laion", "fp32", "CLIP text, CLIP vision", write_hf_clip, clip),
    Row(
        "v2-1_512-ema-pruned.ckpt",
        "Stable Diffusion 2.1",
        "fp32",
        "vae",
        lambda path: save(lightning(stable_diffusion()), path),
        vae,
    ),
    Row(
        "v2-1_512-ema-pruned.safetensors",
        "Stable Diffusion 2.1",
        "fp32",
        "vae",
        lambda path: save_file(dict(stable_diffusion()), path),
        vae,
    ),
    Row(
        "vae/",
        DIFFUSERS,
        "fp32",
        "vae",
        folder(VAE_SETTINGS, SAFE, lambda: vae_keys.vae_to_diffusers(ldm_vae())),
        vae,
    ),
    Row(
        "vae/, .fp16. variant",
        DIFFUSERS,
        "fp16",
        "vae",
        folder(VAE_SETTINGS, FP16, lambda: vae_keys.vae_to_diffusers(ldm_vae()), torch.float16),
        vae,
        1e-2,
    ),
    *(
        Row(name, DIFFUSERS, NAMES[dtype], kind, folder(settings, file, state, dtype), open_, limit)
        for kind, settings, state, open_ in (
            ("CLIP text", CLIP_SETTINGS["text_config"], hf_text, text),
            ("CLIP vision", CLIP_SETTINGS["vision_config"], hf_vision, vision),
        )
        for name, file, dtype, limit in (
            (FOLDERS[kind], "model.safetensors", torch.float32, 1e-5),
            (f"{FOLDERS[kind]}, .fp16. variant", "model.fp16.safetensors", torch.float16, 1e-2),
        )
    ),
    Row("a fine-tune.safetensors", "anyone", "fp16", "i2vgen_xl", _tuned(torch.float16), base, 1e-2),
    Row("a fine-tune.safetensors", "anyone", "bf16", "i2vgen_xl", _tuned(torch.bfloat16), base, 1e-1),
    Row("a fine-tune.safetensors", "anyone", "fp8_e4m3fn", "i2vgen_xl", _tuned(torch.float8_e4m3fn), base, 0.5),
    Row("a fine-tune, prefixed ema.safetensors", "anyone", "fp32", "vid2vid_xl", _ema, refiner()),
    Row("a quantised one.gguf", "anyone", "Q8_0", "i2vgen_xl", quantised("Q8_0"), from_gguf, 0.1),
    Row("a quantised one.gguf", "anyone", "Q5_0", "i2vgen_xl", quantised("Q5_0"), from_gguf, 0.5),
    Row("a quantised one.gguf", "anyone", "Q4_0", "i2vgen_xl", quantised("Q4_0"), from_gguf, 1),
    Row("converted.safetensors", OWN, "fp32", "i2vgen_xl", own_unet("i2vgen_xl"), base),
    Row("converted.safetensors", OWN, "fp32", "image2video", own_unet("image2video"), base),
    Row("converted.safetensors", OWN, "fp32", "vid2vid_xl", own_unet("vid2vid_xl"), refiner()),
    Row("converted.safetensors", OWN, "fp32", "sr600", own_unet("sr600"), refiner()),
    Row(
        "tft2v_vcomposer_non_ema_254000.pth, tft2v_vcomposer_non_ema_270000_896x512.pth",
        f"{TF_T2V}, by your word",
        "fp32",
        "tft2v_composer",
        family_file("tft2v_composer"),
        of_family("tft2v_composer"),
    ),
    Row(
        "videolcm_vcomposer_non_ema_914000.pth",
        f"{TF_T2V}, by your word",
        "fp32",
        "videolcm_composer",
        family_file("videolcm_composer"),
        of_family("videolcm_composer"),
    ),
    Row("tft2v_t2v_non_ema_512000.pth", TF_T2V, "fp32", "tft2v_t2v", family_file("tft2v_t2v"), of_family()),
    Row("videolcm_t2v_non_ema_544000.pth", TF_T2V, "fp32", "videolcm_t2v", family_file("videolcm_t2v"), of_family()),
    Row(
        "model_scope_0267000.pth",
        "VGen, by your word",
        "fp32",
        "text2video",
        family_file("text2video"),
        of_family("text2video"),
    ),
    Row(
        "unianimate_16f_32f_non_ema_223000.pth",
        "iic/unianimate",
        "fp32",
        "unianimate",
        family_file("unianimate"),
        of_family(),
        3e-5,
    ),
    Row("animate-x_ckpt.pth", "Animate-X", "fp32", "animate_x", family_file("animate_x"), of_family(), 3e-5),
    *(
        Row(name, source, "fp32", kind, family_file(kind), of_family(), 2e-5)
        for name, source, kind in (
            ("light_deg.pt, heavy_deg.pt", "SherryX/STAR, I2VGen-XL-based/", "star"),
            ("venhancer_paper.pt, venhancer_v2.pt", "jwhejwhe/VEnhancer", "venhancer"),
        )
    ),
    *(Row("converted.safetensors", OWN, "fp32", kind, own_family(kind), of_family(), 2e-5) for kind in HINTED),
    Row("converted.safetensors", OWN, "fp32", "videolcm_composer", own_family("videolcm_composer"), of_family()),
    Row("converted.safetensors", OWN, "fp32", "animate_x", own_family("animate_x"), of_family(), 3e-5),
    Row("converted.safetensors", OWN, "fp32", "vae", own_part("vae"), vae),
    Row("converted.safetensors", OWN, "fp32", "CLIP text", own_part("text"), text),
    Row("converted.safetensors", OWN, "fp32", "CLIP vision", own_part("vision"), vision),
)


def table(results):
    """The table as Markdown, of a Result for each of ROWS."""
    lines = ["| File | From | Stored | Detected | Strict match | Official forward |", "|---|---|---|---|---|---|"]
    for row, result in zip(ROWS, results, strict=True):
        limit = f"{row.limit:g}, weights rounded" if row.limit > 1e-4 else f"{row.limit:.0e}".replace("e-0", "e-")
        parity = f"within {limit}" if result.error <= row.limit else f"OFF BY {result.error:.1g}"
        cells = (row.file, row.source, result.stored, result.kind, f"all {result.tensors} tensors", parity)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- table: python tests/core/released_table.py docs/checkpoints.md -->\n", "<!-- end of the table -->\n"


def main():
    document = Path(sys.argv[1])
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    with TemporaryDirectory() as place:
        made = table([row.result(Path(place), number) for number, row in enumerate(ROWS)])
    document.write_text(before + BEGIN + made + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
