"""GGUF files in the loader blocks: in their lists, which the host's own leaves out, and through the samplers."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.checkpoints.unet_keys import to_official

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host

gguf = pytest.importorskip("gguf")

SMALL = {"clip_encode__width": 64, "global_encode__width": 64, "global_encode__frames": 2}
FEW_STEPS = {"base__steps": 2, "base__cfg": 1.0}


@pytest.fixture(scope="module")
def folder(host: Host) -> Path:
    path = host.base_directory / "models" / "diffusion_models" / "quantised"
    path.mkdir()
    return path


def _write(path: Path, state: dict[str, Tensor]) -> None:
    """Matrices whose rows are whole blocks in Q8_0, the others in F16, vectors in F32."""
    writer = gguf.GGUFWriter(path, "i2vgen")
    for key, value in to_official(state).items():
        kinds = gguf.GGMLQuantizationType
        kind = kinds.F32 if value.ndim < 2 else kinds.F16 if value.shape[-1] % 32 else kinds.Q8_0
        writer.add_tensor(key, gguf.quants.quantize(value.float().contiguous().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _options(host: Host, class_type: str) -> list[str]:
    kind, settings = host.nodes[class_type].INPUT_TYPES()["required"]["model_name"]
    return list(settings["options"] if kind == "COMBO" else kind)


def test_base(host: Host, folder: Path, bundles: Path) -> None:
    checkpoint = open_unet(bundles / "short" / "unet")
    encoder = {f"local_image_embedding.{key}": value for key, value in checkpoint.global_encoder.items()}
    _write(folder / "base.gguf", checkpoint.network | encoder)
    for loader in ("I2VGenXLBaseLoader", "I2VGenXLRefinerLoader"):
        assert _options(host, loader).count("quantised/base.gguf") == 1
    graph = changed(graphs.base_latent("short"), **SMALL, **FEW_STEPS)
    file = node("I2VGenXLBaseLoader", model_name="quantised/base.gguf", weight_dtype="default", detail_gain="official")
    quantised = changed(graph | {"file": file}, base__model=["file", 0], global_encode__global_encoder=["file", 1])
    error = relative_error(host.value(quantised, "base"), host.value(graph, "base"))
    assert 1e-5 < error < 0.1


def test_refiner(host: Host, folder: Path, bundles: Path) -> None:
    _write(folder / "refiner.gguf", open_unet(bundles / "short" / "refiner").network)
    graph = changed(graphs.refined_latent("short"), refine__steps=1, refine__cfg=1.0, refine__rescale=0.0)
    quantised = changed(graph, refiner__model_name="quantised/refiner.gguf")
    error = relative_error(host.value(quantised, "refine"), host.value(graph, "refine"))
    assert 1e-5 < error < 0.1


def test_a_name_that_is_not_in_the_list_is_refused(host: Host, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.gguf").write_bytes(b"GGUF")
    for name in (str(tmp_path / "outside.gguf"), "../outside.gguf", "quantised/nowhere.gguf"):
        graph = {
            "file": node("I2VGenXLBaseLoader", model_name=name, weight_dtype="default", detail_gain="official"),
        }
        assert host.run(graph, {"model": ("file", 0)}).error is not None
