"""The code of docs/library.md runs, word for word, on a toy model: only the device is another, and diffusers' own example is left."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
SETTINGS = {"width": 64, "height": 64, "steps": 2}
BLOCKS = [
    block for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S) if "I2VGenXLPipeline" not in block
]


@pytest.fixture
def workplace(bundles, tmp_path, monkeypatch):
    """A folder with what the page's code names."""
    model = tmp_path / "models" / "i2vgen-xl"
    shutil.copytree(bundles(), model, copy_function=os.link)
    for part, own in (("unet", {"frames": 2}), ("refiner", {"noise_level": 300})):
        file = model / part / "config.json"
        settings = json.loads(file.read_text(encoding="utf-8")) | {"release": SETTINGS | own}
        file.unlink()  # a link
        file.write_text(json.dumps(settings), encoding="utf-8")
    picture = Image.fromarray((torch.rand(80, 90, 3) * 255).byte().numpy())
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        picture.save(tmp_path / name)
    shutil.copy(model / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "other_vae.safetensors")
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.lora_"
    save_file(
        {f"{layer}up.weight": torch.rand(64, 2), f"{layer}down.weight": torch.rand(2, 64)},
        tmp_path / "style.safetensors",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_code_runs(workplace, capsys):
    names: dict[str, object] = {}
    assert len(BLOCKS) >= 8
    for number, block in enumerate(BLOCKS):
        code = (
            block.replace('device="cuda"', 'device="cpu"')
            .replace("fp16", "fp32")
            .replace("torch.float16", "torch.float32")
        )
        exec(compile(code, f"block {number}", "exec"), names)
    assert {file.name for file in workplace.glob("*.mp4")} == {"fox.mp4", "a.mp4", "b.mp4"}
    assert capsys.readouterr().out == "stopped; the cascade can be used again\n"


def test_the_first_example_is_ten_lines_at_most():
    assert len(BLOCKS[0].splitlines()) <= 10
