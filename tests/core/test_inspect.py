"""`python -m i2vgen_core inspect`: what it says of every sort of file, and that it runs nothing."""

import os
import pickle
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.clip_keys import text_to_open_clip, vision_to_open_clip
from i2vgen_core.checkpoints.inspect import inspect_file
from i2vgen_core.checkpoints.unet_keys import to_diffusers, to_official
from i2vgen_core.checkpoints.vae_keys import vae_to_ldm

WIDE = replace(toy.CONFIG, model_channels=64, head_dim=64)


@pytest.fixture
def said(capsys):
    """said(path): the exit code and what was written to standard output."""

    def run(path):
        code = main(["inspect", str(path)])
        return code, capsys.readouterr().out

    return run


LOADER = {
    "i2vgen_xl": "I2VGen-XL Base Loader",
    "image2video": "I2VGen-XL Base Loader",
    "vid2vid_xl": "I2VGen-XL Refiner Loader",
    "sr600": "I2VGen-XL Refiner Loader",
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", toy.KINDS)
def test_every_network_is_told_with_its_loader(tmp_path, said, kind, suffix):
    config = replace(WIDE, kind=kind)
    state = to_official(toy.whole_state(config))
    path = tmp_path / f"any name{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state, "step": 1}, path)
    else:
        save_file(state, path, {"kind": kind})
    code, text = said(path)
    assert code == 0
    known = kind if suffix == ".safetensors" or kind != "sr600" else "vid2vid_xl"
    assert f"({known})" in text
    assert f"loader: {LOADER[kind]}, from models/diffusion_models" in text
    assert f"all of its {len(state)} tensors have the right names and shapes" in text
    unsure = kind in ("vid2vid_xl", "sr600") and suffix == ".pth"
    assert ("shapes cannot tell which one it is" in text) == unsure
    assert ("text-to-video networks of VGen and ModelScope" in text) == unsure and ("--refiner" in text) == unsure
    assert ("with its global encoder" in text) == (kind == "i2vgen_xl")
    parameters = sum(value.numel() for value in state.values())
    assert f"parameters: {parameters / 1e6:,.1f} million" in text
    assert f"tensors: {len(state)}, F32 100.0%" in text
    assert f"{path.stat().st_size / 1e6:.1f} MB" in text


def test_types_are_shares_of_the_numbers(tmp_path):
    state = {key: value.contiguous() for key, value in to_diffusers(toy.whole_state(WIDE)).items()}
    mixed = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    save_file(mixed, tmp_path / "mixed.safetensors")
    found = inspect_file(tmp_path / "mixed.safetensors")
    assert [finding.part for finding in found.findings] == ["unet"] and found.findings[0].whole
    for name, dtype in (("F16", torch.float16), ("F32", torch.float32)):
        assert found.types[name] == sum(value.numel() for value in mixed.values() if value.dtype == dtype)


def towers(bundles):
    text = text_to_open_clip(load_file(bundles() / "text_encoder" / "model.safetensors"))
    return text | vision_to_open_clip(load_file(bundles() / "image_encoder" / "model.safetensors"))


def test_both_towers_of_a_file(bundles, tmp_path, said):
    path = tmp_path / "open_clip_pytorch_model.safetensors"
    save_file(towers(bundles), path, {"text_head_dim": "16", "vision_head_dim": "16"})
    code, text = said(path)
    assert code == 0
    assert "is: CLIP text encoder of width 64, 2 blocks" in text and "ComfyUI's CLIPLoader" in text
    assert "is: CLIP vision encoder of width 32, 1 blocks, 28 pixels" in text and "ComfyUI's CLIPVisionLoader" in text


def test_a_folder_of_one_network(bundles, said):
    code, text = said(bundles() / "vae")
    assert code == 0
    assert "file: vae, a folder" in text
    assert "is: Stable Diffusion's VAE, 4 latent channels" in text
    assert "loader: ComfyUI's VAELoader, from models/vae\n" in text


def test_a_vae_among_others_has_to_be_taken_out_first(bundles, tmp_path, said):
    vae = vae_to_ldm(load_file(next((bundles() / "vae").glob("*.safetensors"))))
    whole = {f"first_stage_model.{key}": value for key, value in vae.items()}
    torch.save({"state_dict": whole | {"model.diffusion_model.out.2.weight": torch.ones(4, 3)}}, tmp_path / "sd.ckpt")
    code, text = said(tmp_path / "sd.ckpt")
    assert code == 0
    assert "ComfyUI's VAELoader, from models/vae, once `convert --part vae` took it out" in text


def test_what_convert_wrote_says_where_it_is_from(tmp_path, said):
    torch.save(to_official(toy.whole_state(WIDE)), tmp_path / "released.pth")
    assert main(["convert", str(tmp_path / "released.pth"), str(tmp_path / "out.safetensors")]) == 0
    code, text = said(tmp_path / "out.safetensors")
    assert code == 0
    assert "says source: 'released.pth'" in text and "says kind: 'i2vgen_xl'" in text


def test_a_damaged_network_is_none_and_says_why(tmp_path, said):
    state = to_official(toy.whole_state(WIDE))
    del state["out.0.bias"]
    save_file(state, tmp_path / "damaged.safetensors")
    code, text = said(tmp_path / "damaged.safetensors")
    assert code == 1
    assert "is: no usable unet" in text and "1 missing (out.0.bias)" in text and "loader:" not in text


def test_a_file_of_another_family(tmp_path, said):
    save_file({"transformer.a.weight": torch.ones(2, 2, dtype=torch.bfloat16)}, tmp_path / "other.safetensors")
    code, text = said(tmp_path / "other.safetensors")
    assert code == 1
    assert "tensors: 1, BF16 100.0%" in text and "is: nothing that this project reads" in text


def test_what_a_file_says_cannot_write_on_the_terminal(tmp_path, said):
    """Escape sequences in metadata come out as text."""
    save_file(to_official(toy.whole_state(WIDE)), tmp_path / "a.safetensors", {"source": "\x1b[2Jmine\nis: all yours"})
    _, text = said(tmp_path / "a.safetensors")
    assert "\x1b" not in text and r"says source: '\x1b[2Jmine\nis: all yours'" in text


def test_a_gguf_file_is_told_without_its_weights(tmp_path, said, monkeypatch):
    gguf = pytest.importorskip("gguf")
    state = to_official(toy.whole_state(WIDE))
    writer = gguf.GGUFWriter(tmp_path / "base.gguf", "i2vgen")
    for key, value in state.items():
        data, kind = value.contiguous().numpy(), gguf.GGMLQuantizationType.F16
        if value.ndim == 2 and data.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(key, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr("i2vgen_core.checkpoints.gguf._dequantised", lambda *_: pytest.fail("weights were read"))
    code, text = said(tmp_path / "base.gguf")
    assert code == 0
    assert "(i2vgen_xl)" in text and "Q8_0" in text and "F16" in text


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "torch before 1.6", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path, said, caplog, form):
    path, proof = tmp_path / "hostile.pth", tmp_path / "was run"
    content = {"state_dict": to_official(toy.whole_state(WIDE)), "more": Hostile(proof)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content["more"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    code, text = said(path)
    assert code == 2 and text == ""
    assert "error: file hostile.pth: expected a PyTorch file of tensors alone" in caplog.text
    assert not proof.exists()


@pytest.mark.parametrize("name", ["nowhere.pth", "empty"])
def test_no_file_ends_with_2(tmp_path, said, name):
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / name)[0] == 2


# ---------------------------------------------------------------- LoRA


def lora_file(path, layer, sides, metadata):
    outputs, inputs = sides
    pair = {f"{layer}.lora_up.weight": torch.ones(outputs, 2), f"{layer}.lora_down.weight": torch.ones(2, inputs)}
    save_file(pair, path, metadata)
    return path


TO_K = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    "layer, sides, metadata, title, sure",
    [
        (
            f"diffusion_model.{TO_K}",
            (320, 1024),
            {"kind": "vid2vid_xl"},
            "MS-Vid2Vid-XL refiner (vid2vid_xl)",
            "the released",
        ),
        (f"lora_unet_{TO_K.replace('.', '_')}", (320, 1024), {}, "a network of this family", "does not say which"),
        (f"diffusion_model.{TO_K}", (32, 64), {"kind": "i2vgen_xl"}, "I2VGen-XL base (i2vgen_xl)", "other sizes"),
    ],
    ids=["a refiner's", "kohya's", "of a toy"],
)
def test_a_lora_file(tmp_path, layer, sides, metadata, title, sure):
    (found,) = inspect_file(lora_file(tmp_path / "a.safetensors", layer, sides, metadata)).findings
    assert found.whole and found.part == "LoRA" and title in found.title and sure in found.sure
    assert "names 1 of the network's layers" in found.sure and found.parameters == 2 * sum(sides)
    assert "--lora" in found.loader


def test_a_lora_file_of_another_family(tmp_path):
    (found,) = inspect_file(lora_file(tmp_path / "a.safetensors", "lora_te_text_model_q_proj", (8, 8), {})).findings
    assert not found.whole and "none of which names a layer of our networks" in found.sure
