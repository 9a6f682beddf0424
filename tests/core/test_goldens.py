"""Golden values of the official code, and that the check which compares them can fail."""

import json
import shutil
import sys

import pytest
import torch
import toy
from safetensors import safe_open
from safetensors.torch import load_file, save_file

check = toy.load_module(toy.GOLDEN / "check.py")
FILES = ("unet", "schedules", "encoders", "images")


def golden_names():
    for name in FILES:
        with safe_open(toy.GOLDEN / f"{name}.safetensors", "pt") as file:
            yield from (f"{name}: {key}" for key in file.keys())  # noqa: SIM118


@pytest.fixture(scope="module")
def results():
    return {result.name: result for result in check.check(toy.GOLDEN)}


@pytest.mark.parametrize("name", list(golden_names()))
def test_golden_value(results, name):
    assert results[name].error <= results[name].limit


def test_every_golden_value_is_compared_at_the_stated_limits(results):
    assert set(results) == set(golden_names())
    for name, result in results.items():
        loops = ("ddim", "inversion30", "_eta")  # values that a whole sampling loop made
        looped = name.startswith("schedules: ") and any(part in name for part in loops)
        assert result.limit <= (2 if name.startswith("images: ") else 1e-4 if looped else 1e-5), name


# ---------------------------------------------------------------- the check can fail


@pytest.fixture
def folder(tmp_path):
    """A folder of golden values that takes a second: no networks, no photos, three values."""
    cases = json.loads((toy.GOLDEN / "cases.json").read_text(encoding="utf-8"))
    cases |= {"unet": {}, "images": []}
    cases["schedules"] |= {"refine": [["heun", 50]], "refine_stochastic": []}
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    shutil.copy(toy.GOLDEN / "weights.py", tmp_path)
    kept = {"schedules": ["base.ddim20", "base.alphas_cumprod"], "encoders": ["tokens"]}
    for name in FILES:
        values = load_file(toy.GOLDEN / f"{name}.safetensors")
        save_file({key: values[key] for key in kept.get(name, [])}, tmp_path / f"{name}.safetensors")
    return tmp_path


def run(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check.py", str(folder)])
    code = check.main()
    return code, capsys.readouterr().out


def change(file, edit):
    values = load_file(file)
    edit(values)
    save_file(values, file)


def test_right_values_pass(folder, monkeypatch, capsys):
    code, printed = run(folder, monkeypatch, capsys)
    assert code == 0
    assert "3 values, 0 over their limit" in printed


def test_one_wrong_number_fails(folder, monkeypatch, capsys):
    def edit(values):
        looped = values["base.ddim20"]
        looped.view(-1)[7] += 2e-4 * looped.abs().max()

    change(folder / "schedules.safetensors", edit)
    code, printed = run(folder, monkeypatch, capsys)
    assert code == 1
    assert "OVER schedules: base.ddim20 " in printed
    assert "3 values, 1 over their limit" in printed


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda values: values.update(nonsense=torch.ones(3)), id="a value that nothing computes"),
        pytest.param(lambda values: values.update(tokens=values["tokens"][:, :-1].contiguous()), id="another shape"),
    ],
)
def test_a_value_without_its_like_fails(folder, monkeypatch, capsys, edit):
    change(folder / "encoders.safetensors", edit)
    code, printed = run(folder, monkeypatch, capsys)
    assert code == 1
    assert "1 over their limit" in printed


def test_a_value_that_is_not_finite_fails(folder, monkeypatch, capsys):
    monkeypatch.setattr(check, "ddim", lambda denoise, x, schedule, steps: x * float("nan"))
    code, printed = run(folder, monkeypatch, capsys)
    assert code == 1
    assert "OVER schedules: base.ddim20 " in printed


def test_a_folder_without_cases_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check.py", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        check.main()
    assert "usage" in str(stopped.value.code)
