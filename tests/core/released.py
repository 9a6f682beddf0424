"""The releases' files at toy size: their names, nesting, keys and types, with the golden values' weights."""

import importlib
import json
import pickle
from collections import OrderedDict
from functools import lru_cache
from types import SimpleNamespace

import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.checkpoints import clip_keys
from i2vgen_core.checkpoints.convert import convert
from i2vgen_core.checkpoints.unet_keys import SINE_TABLE, from_official, to_diffusers
from i2vgen_core.config import ANIMATORS, HINTED

check = toy.load_module(toy.GOLDEN / "check.py")  # which makes the modules beside it importable
golden_inputs, composer_golden, animator_golden, hinted_golden = (
    importlib.import_module(name) for name in ("golden_inputs", "composer_golden", "animator_golden", "hinted_golden")
)
weights = toy.load_module(toy.GOLDEN / "weights.py")
encoders_golden = toy.load_module(toy.GOLDEN / "encoders_golden.py")
CASES = json.loads((toy.GOLDEN / "cases.json").read_text(encoding="utf-8"))
CASE = CASES["unet"]["single"]
CLIP, DDCONFIG = CASES["encoders"]["clip"], CASES["encoders"]["vae"]
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8_e4m3fn"}
HEADS = {"head_dim": CASE["head_dim"]}

# ---------------------------------------------------------------- tensors


@lru_cache
def unet(kind):
    """A network's tensors in the official layout, float32. Not to be changed."""
    return golden_inputs.official_state(golden_inputs.unet_config(kind, CASE), weights)


@lru_cache
def open_clip():
    """Both towers as open_clip saves them."""
    shapes = encoders_golden.open_clip_shapes(CLIP["text"], CLIP["vision"], CLIP["embed_dim"])
    return {key: weights.weight(key, shape) for key, shape in shapes.items()} | {"logit_scale": torch.tensor(4.6052)}


@lru_cache
def ldm_vae():
    """The VAE in ldm's layout."""
    return {key: weights.weight(key, shape) for key, shape in encoders_golden.ldm_vae_shapes(DDCONFIG).items()}


def stable_diffusion():
    """The `state_dict` of a whole Stable Diffusion 2.1 checkpoint: its networks, its schedule, its moving averages."""
    network = {"time_embed.0.weight": (8, 4), "input_blocks.0.0.weight": (4, 4, 3, 3), "out.2.weight": (4, 4, 3, 3)}
    state = OrderedDict(betas=torch.rand(1000), alphas_cumprod=torch.rand(1000))
    state |= {f"model.diffusion_model.{key}": torch.randn(shape) for key, shape in network.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(875000, dtype=torch.int32)}
    state |= {f"model_ema.diffusion_model{key.replace('.', '')}": torch.randn(shape) for key, shape in network.items()}
    state |= {f"first_stage_model.{key}": value for key, value in ldm_vae().items()}
    return state | {f"cond_stage_model.model.{key}": value for key, value in open_clip().items()}


def module_state(state):
    """As torch's modules give their tensors: ordered, with each module's version beside them."""
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict({"": {"version": 1}})
    return ordered


# ---------------------------------------------------------------- pickles with names of packages that are not here


class Name:
    """A name that a pickle refers to, of a package that need not be installed."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("nothing calls it here")


class Call:
    """What a pickle makes by a call: of a name, with arguments, and with a state that is set afterwards."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012  # as in its base

    def save_name(self, name):
        self.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())
        self.memoize(name)

    dispatch[Name] = save_name


def save(content, path, **options):
    """torch.save, for content with Name and Call in it."""
    module = SimpleNamespace(Pickler=_Pickler, dumps=pickle.dumps, dump=_dump, __name__="pickle")
    torch.save(content, path, pickle_module=module, **options)


def _dump(content, file, protocol):
    _Pickler(file, protocol).dump(content)


def numpy_scalar(package):
    """A float64 as numpy pickles it."""
    kind = Call(Name("numpy", "dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    value = Call(Name("_codecs", "encode"), ("\x00\x00\x00\x00\x00\x00Y@", "latin1"))
    return Call(Name(package, "scalar"), (kind, value))


def lightning(state):
    """Around a state dict, what Lightning saves: the state of its callbacks under their classes."""
    callback = Name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    saved = {
        "monitor": "val/loss_simple_ema",
        "best_model_score": numpy_scalar("numpy.core.multiarray"),
        "best_model_path": "/somewhere/epoch=000010.ckpt",
        "current_score": numpy_scalar("numpy._core.multiarray"),
        "dirpath": "/somewhere",
    }
    return {
        "epoch": 57,
        "global_step": 875000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "callbacks": {callback: saved},
    }


# ---------------------------------------------------------------- files


def vgen(kind, step=854500):
    return lambda path: torch.save({"state_dict": module_state(unet(kind)), "step": step}, path)


def as_dtype(state, dtype):
    return {key: value.to(dtype).contiguous() for key, value in state.items()}


UNET_SETTINGS = {
    "_class_name": "I2VGenXLUNet",
    "_diffusers_version": "0.26.0.dev0",
    "attention_head_dim": CASE["head_dim"],
    "block_out_channels": [CASE["model_channels"] * multiplier for multiplier in CASE["multipliers"]],
    "cross_attention_dim": CASE["context_dim"],
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "out_channels": 4,
    "sample_size": 32,
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
}
VAE_SETTINGS = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [DDCONFIG["ch"] * multiplier for multiplier in DDCONFIG["ch_mult"]],
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18125,  # as published; the network was trained at 0.18215
}
CLIP_SETTINGS = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": CLIP["embed_dim"],
    "text_config": {"hidden_act": "gelu", "num_attention_heads": 4, "num_hidden_layers": 4, "hidden_size": 64},
    "vision_config": {"hidden_act": "gelu", "num_attention_heads": 4, "num_hidden_layers": 4, "hidden_size": 64},
}


def folder(settings, name, state, dtype=torch.float32, shards=0):
    """A part of a folder in diffusers' layout, in one file or in shards with an index."""

    def write(path):
        path.mkdir()
        (path / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        tensors = as_dtype(state(), dtype)
        if not shards:
            save_file(tensors, path / name, {"format": "pt"})
            return
        keys, weight_map = sorted(tensors), {}
        for number in range(shards):
            part = name.replace(".safetensors", f"-{number + 1:05}-of-{shards:05}.safetensors")
            weight_map |= dict.fromkeys(keys[number::shards], part)
            save_file({key: tensors[key] for key in keys[number::shards]}, path / part, {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (path / f"{name}.index.json").write_text(json.dumps(index), encoding="utf-8")

    return write


def i2vgen_diffusers():
    return to_diffusers(from_official(unet("i2vgen_xl")))


def hf_clip():
    positions = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    projection = {"text_projection.weight": open_clip()["text_projection"].T.contiguous()}
    towers = clip_keys.text_to_transformers(open_clip()) | clip_keys.vision_to_transformers(open_clip())
    return towers | projection | positions | {"logit_scale": torch.tensor(4.6052)}


def hf_text():
    """As transformers 4 saved it, whose names begin with `text_model.`."""
    return clip_keys.text_to_transformers(open_clip())


def hf_vision():
    return clip_keys.vision_to_transformers(open_clip())


def write_hf_clip(path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CLIP_SETTINGS), encoding="utf-8")
    torch.save(module_state(hf_clip()), path / "pytorch_model.bin")


def own_unet(kind):
    def write(path):
        source = path.with_name("source.safetensors")  # a .pth would say nothing of heads, which are not 64 here
        save_file(as_dtype(unet(kind), torch.float32), source, {key: str(value) for key, value in HEADS.items()})
        convert(source, path, kind=kind)

    return write


def own_part(part):
    """Of the VAE from Stable Diffusion's checkpoint, of a tower from the Hugging Face folder, which states the heads."""

    def write(path):
        source = path.with_name("v2-1_512-ema-pruned.ckpt" if part == "vae" else "source")
        save(lightning(stable_diffusion()), source) if part == "vae" else write_hf_clip(source)
        convert(source, path, part=part)

    return write


def write_gguf(path, state, name="Q8_0", metadata=None, rearranged=True):
    """As ComfyUI's converters do: vectors in F32, matrices quantised, those whose rows are no whole blocks stored in
    rows of 256 with their true shape beside them, or in F16 where that does not go either."""
    import gguf

    writer = gguf.GGUFWriter(path, "i2vgen")
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    for key, value in state.items():
        data, kind = value.contiguous().numpy(), gguf.GGMLQuantizationType[name]
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if value.ndim < 2:
            kind = gguf.GGMLQuantizationType.F32
        elif data.shape[-1] % block and data.size % 256 == 0 and rearranged:
            writer.add_array(f"comfy.gguf.orig_shape.{key}", [int(size) for size in data.shape])
            data = data.reshape(-1, 256)
        elif data.shape[-1] % block:
            kind = gguf.GGMLQuantizationType.F16
        writer.add_tensor(key, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantised(name):
    metadata = {key: str(value) for key, value in HEADS.items()}
    return lambda path: write_gguf(path, unet("i2vgen_xl"), name, metadata)


# ---------------------------------------------------------------- networks beside the cascade's

NETWORK = json.loads((toy.GOLDEN / "composer" / "cases.json").read_text(encoding="utf-8"))["network"]
ANIMATORS_CASES = json.loads((toy.GOLDEN / "unianimate" / "cases.json").read_text(encoding="utf-8"))


@lru_cache
def hinted(kind):
    cases = json.loads((toy.GOLDEN / kind / "cases.json").read_text(encoding="utf-8"))
    return hinted_golden.Folder(cases, weights)


@lru_cache
def family(kind):
    """The tensors of a network that is no stage of the cascade, in the official layout. Not to be changed."""
    if kind in ANIMATORS:
        case = ANIMATORS_CASES["unet"]["single"] if kind == "unianimate" else ANIMATORS_CASES["animate_x"]["tiny"]
        config = animator_golden.config_of(kind, case)
    elif kind in HINTED:
        return hinted(kind).state({})
    else:
        config = composer_golden.config_of(kind, NETWORK)
    state = golden_inputs.official_state(config, weights)
    return state | ({SINE_TABLE: torch.zeros(1, 33, 64)} if kind == "animate_x" else {})


def family_file(kind, step=1):
    return lambda path: torch.save({"state_dict": module_state(family(kind)), "step": step}, path)


def own_family(kind):
    def write(path):
        source = path.with_name("source.safetensors")
        save_file(as_dtype(family(kind), torch.float32), source, {key: str(value) for key, value in HEADS.items()})
        convert(source, path, kind=kind)

    return write
