"""LoRA files from our training in the host's own LoRA loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.checkpoints.lora import merge_lora
from i2vgen_core.media.images import read_image
from i2vgen_core.training.lora import add_lora, save_lora

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host

pytest.importorskip("peft")


def _file(host: Host, part: Path) -> Path:
    """A LoRA of a bundle's part as training saves it, its values made up."""
    network = open_unet(part).build_network()
    torch.manual_seed(0)
    add_lora(network, rank=4, alpha=6.0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    file = host.base_directory / "models" / "loras" / f"trained_{part.name}.safetensors"
    save_lora(network, file)
    return file


def _with_lora(graph: graphs.Graph, model: str, sampler: str, file: Path, strength: float) -> graphs.Graph:
    lora = node("LoraLoaderModelOnly", model=[model, 0], lora_name=file.name, strength_model=strength)
    return changed(graph | {"lora": lora}, **{f"{sampler}__model": ["lora", 0]})


def test_on_the_base(host: Host, bundles: Path, photo: Path, caplog: Any) -> None:
    """The stock loader takes every tensor, and the video is that of the core with the file merged."""
    file = _file(host, bundles / "tiny" / "unet")
    graph = changed(graphs.base_latent(), loader__weight_dtype="fp32")
    plain = host.value(graph, "base")
    with caplog.at_level("WARNING"):
        latent = host.value(_with_lora(graph, "loader", "base", file, 0.8), "base")
    assert not [text for text in caplog.messages if "not loaded" in text.lower()]
    assert relative_error(latent, plain) > 1e-2
    assert relative_error(host.value(_with_lora(graph, "loader", "base", file, 0.0), "base"), plain) == 0

    cascade = Cascade(bundles / "tiny")
    merge_lora(cascade.base.unet, file, strength=0.8)
    conditions = cascade.condition(read_image(photo), graphs.PROMPT, graphs.BASE_OPTIONS)
    assert relative_error(latent, cascade.sample_base(conditions, graphs.BASE_OPTIONS)) < 1e-4


def test_on_the_refiner(host: Host, bundles: Path, caplog: Any) -> None:
    """A file for the other kind of network is taken as whole."""
    file = _file(host, bundles / "tiny" / "refiner")
    graph = changed(graphs.refined_latent(), refiner__weight_dtype="fp32")
    plain = host.value(graph, "refine")
    with caplog.at_level("WARNING"):
        latent = host.value(_with_lora(graph, "refiner", "refine", file, 1.0), "refine")
    assert not [text for text in caplog.messages if "not loaded" in text.lower()]
    assert relative_error(latent, plain) > 1e-2


def test_an_alpha_that_the_metadata_alone_has(host: Host, bundles: Path) -> None:
    """As diffusers writes it: the video is that of the file with the alphas as tensors."""
    file = _file(host, bundles / "tiny" / "unet")
    graph = changed(graphs.base_latent(), loader__weight_dtype="fp32")
    expected = host.value(_with_lora(graph, "loader", "base", file, 1.0), "base")
    tensors = {key: value for key, value in load_file(file).items() if not key.endswith(".alpha")}
    said = json.dumps({"diffusion_model.r": 4, "diffusion_model.lora_alpha": 6.0})
    other = file.with_name("said_" + file.name)
    save_file(tensors, other, metadata={"lora_adapter_metadata": said})
    found = host.value(_with_lora(graph, "loader", "base", other, 1.0), "base")
    assert relative_error(found, expected) < 1e-6
    without = file.with_name("unsaid_" + file.name)
    save_file(tensors, without)
    assert relative_error(host.value(_with_lora(graph, "loader", "base", without, 1.0), "base"), expected) > 1e-3
