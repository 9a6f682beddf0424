"""Golden values of the official code, and that the check which compares them can fail."""

import json
import shutil
import sys
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
import torchsde
import toy
from safetensors import safe_open
from safetensors.torch import load_file, save_file

check = toy.load_module(toy.GOLDEN / "check.py")
FILES = ("unet", "schedules", "encoders", "images")
FOLDERS = {
    ".": FILES,
    "composer": ("unet", "sampling", "pictures"),
    "unianimate": ("unet", "schedules", "animate_x", "pipeline", "pose"),
    "star": ("unet", "schedules", "pictures", "pipeline"),
    "venhancer": ("unet", "schedules", "pictures", "pipeline"),
    "anyv2v": ("anyv2v",),
    "ctrl_adapter": ("ctrl_adapter",),
}


def golden_names(folder="."):
    for name in FOLDERS[folder]:
        with safe_open(toy.GOLDEN / folder / f"{name}.safetensors", "pt") as file:
            yield from (f"{name}: {key}" for key in file.keys())  # noqa: SIM118
    yield from (file.name for file in sorted((toy.GOLDEN / folder).glob("*.png")))


@pytest.fixture(scope="module")
def results():
    """results(folder): what its check finds, by name."""
    return lru_cache(lambda folder: {result.name: result for result in check.check(toy.GOLDEN / folder)})


def golden_values():
    """Folder and name of each; those of the family beside the cascade take seconds."""
    for folder in FOLDERS:
        marks = [] if folder == "." else [pytest.mark.slow]
        yield from (pytest.param(folder, name, marks=marks) for name in golden_names(folder))


@pytest.mark.parametrize("folder, name", list(golden_values()))
def test_golden_value(results, folder, name):
    assert results(folder)[name].error <= results(folder)[name].limit


def test_every_golden_value_is_compared_at_the_stated_limits(results):
    assert set(results(".")) == set(golden_names())
    for name, result in results(".").items():
        loops = ("ddim", "inversion30", "_eta")  # values that a whole sampling loop made
        looped = name.startswith("schedules: ") and any(part in name for part in loops)
        assert result.limit <= (2 if name.startswith("images: ") else 1e-4 if looped else 1e-5), name


@pytest.mark.slow
def test_every_value_of_the_composers_is_compared_at_the_stated_limits(results):
    found = results("composer")
    assert set(found) == set(golden_names("composer"))
    for name, result in found.items():
        assert result.limit <= (1 if "every8" in name else 1e-4 if "network_" in name else 1e-5), name


@pytest.mark.slow
def test_every_value_of_the_animators_is_compared_at_the_stated_limits(results):
    """3e-5 for a whole network: the official run is itself up to 6e-6 away from float64."""
    found = results("unianimate")
    assert set(found) == set(golden_names("unianimate"))
    networks = ("both", "first_frame", "official", "random_ref", "unconditional")
    for name, result in found.items():
        file, _, value = name.partition(": ")
        picture = value.endswith(("clip_image", "reference_image", ".pose")) and file == "pipeline"
        picture = picture or file.endswith(".png")
        loop = file == "pipeline" and any(part in value for part in ("random_ref", "first_frame"))
        network = file in ("unet", "animate_x") and value.endswith(networks)
        assert result.limit <= (1 if picture else 1e-4 if loop else 3e-5 if network else 1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["star", "venhancer"])
def test_every_value_of_the_refiners_with_a_hint_is_compared_at_the_stated_limits(results, folder):
    """2e-5 for a whole network and 3e-5 for a run: the official run is itself up to 4e-6 and 5e-6 away from float64."""
    found = results(folder)
    assert set(found) == set(golden_names(folder))
    exact = ("sigmas", "sigmas_vp", "start", "latent", "first_input")
    for name, result in found.items():
        file, _, value = name.partition(": ")
        part = value.startswith("part.") or value.endswith("_embedding") or value.split(".")[-1] in exact
        limit = 1e-5 if part or file == "pictures" else 2e-5 if file == "unet" else 3e-5
        assert result.limit <= limit, name


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["anyv2v", "ctrl_adapter"])
def test_every_value_of_editing_and_control_is_compared_at_the_stated_limits(results, folder):
    found = results(folder)
    assert set(found) == set(golden_names(folder))
    for name, result in found.items():
        latent = ".run." in name and not name.endswith("first_prediction")
        loop = ".edited" in name or latent or name.endswith("adapter.zero.mid")
        assert result.limit <= (1e-4 if loop else 1e-5), name


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


# ---------------------------------------------------------------- a batch of two videos


def reference_sde(inputs, cases, seed, steps, path):
    """SDE-DPM-Solver++(2M) as the release has it, eta 1 (ModelScope, solvers_sdedit.py), over a batch [B, C, F, H, W]: the
    statistics of guidance over all axes but the first, the noise from `path(low, high)` for the whole batch."""
    x, cond, uncond, eps = inputs
    refine = check.schedules.schedule_for("vid2vid_xl")
    plan = check.schedules.refine_steps(refine, steps, 600, "dpmpp_2m_sde")
    axes = tuple(range(1, x.ndim))

    def velocity(x, t, y):
        return torch.tanh(0.7 * x * (1 - t / 1000) + 0.3 * y + 0.2 * t / 1000)

    def denoised(x, t):
        positive, negative = velocity(x, t, cond), velocity(x, t, uncond)
        guided = negative + cases["refine_guidance"] * (positive - negative)
        ratio = positive.std(axes, keepdim=True) / (guided.std(axes, keepdim=True) + 1e-12)
        guided = guided * (cases["refine_rescale"] * ratio + 1 - cases["refine_rescale"])
        return refine.denoised(x, guided, t)

    sigmas = plan.sigmas
    x, last = refine.add_noise(x, eps, 599) * sigmas[0], None
    for i, t in enumerate(plan.timesteps):
        clean = denoised(x / (sigmas[i] ** 2 + 1).sqrt(), t)
        if sigmas[i + 1] == 0:
            return clean
        h = (sigmas[i] / sigmas[i + 1]).log()
        x = sigmas[i + 1] / sigmas[i] * (-h).exp() * x + (1 - (-2 * h).exp()) * clean
        if last is not None:
            x = x + 0.5 * (1 - (-2 * h).exp()) * h / last[1] * (clean - last[0])
        drawn = path(sigmas[i + 1], sigmas[i]) / (sigmas[i] - sigmas[i + 1]).sqrt()
        x = x + drawn * sigmas[i + 1] * (1 - (-2 * h).exp()).sqrt()
        last = clean, h
    raise AssertionError("the last sigma is 0")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder of golden values with two videos, with no official code at hand. `weights.noise` counts on through a
    batch, so the first video is that of the single case: its values are the official ones. Those of the second are made
    by itself where nothing couples the two, and by `reference_sde`, over both at once, where the noise does."""
    folder = tmp_path_factory.mktemp("pair")
    weights = check.load_module(toy.GOLDEN / "weights.py")
    cases = json.loads((toy.GOLDEN / "cases.json").read_text(encoding="utf-8"))
    single = load_file(toy.GOLDEN / "schedules.safetensors")
    shape = tuple(cases["schedules"]["shape"])
    both = (2, *shape[1:])

    def second(name, asked):
        return weights.noise(name, both)[1:] if tuple(asked) == shape else weights.noise(name, asked)

    alone = check.schedule_values(cases["schedules"], SimpleNamespace(noise=second))
    values = {key: value if value.ndim < 5 else torch.cat([value, alone[key][0]]) for key, value in single.items()}
    ((solver, steps, eta, seed),) = cases["schedules"]["refine_stochastic"]
    assert (solver, eta) == ("dpmpp_2m_sde", 1)
    inputs = [weights.noise(cases["schedules"][key], both) for key in ("x", "cond", "uncond", "noise")]
    sigmas = check.schedules.refine_steps(check.schedules.schedule_for("vid2vid_xl"), steps, 600, solver).sigmas
    tree = torchsde.BrownianTree(sigmas[sigmas > 0].min(), torch.zeros(both), sigmas.max(), entropy=seed)

    def path(low, high):
        return -tree(round(float(low), 6), round(float(high), 6))

    key = f"refine.{solver}_eta1_{steps}_seed{seed}"
    whole = reference_sde(inputs, cases["schedules"], seed, steps, path)
    assert check._error(whole[:1], single[key], absolute=False) < check.LOOP, "the reference gives the official value"
    values[key] = torch.cat([single[key], whole[1:]])
    cases |= {"unet": {}, "images": []}
    cases["schedules"]["shape"] = list(both)
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    shutil.copy(toy.GOLDEN / "weights.py", folder)
    for name in FILES:
        save_file({"schedules": values, "encoders": {}}.get(name, {}), folder / f"{name}.safetensors")
    return folder


def test_a_batch_of_two_follows_from_its_cases_alone(pair):
    found = {result.name: result for result in check.check(pair)}
    assert set(found) == {name for name in golden_names() if name.startswith("schedules: ")}
    assert [str(result) for result in found.values() if not result.passed] == []


def test_a_path_of_each_videos_own_fails(pair, monkeypatch):
    def own(batch, sigmas, seed, index):
        return check.BrownianNoise(check.flat(batch[:1]), sigmas, seed)

    monkeypatch.setattr(check, "batch_noise", own)
    over = [result.name for result in check.check(pair) if not result.passed]
    assert over == ["schedules: refine.dpmpp_2m_sde_eta1_30_seed1234"]


def test_a_folder_without_cases_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check.py", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        check.main()
    assert "usage" in str(stopped.value.code)
