"""Editing by the first frame: what it says before any work, when features are taken over, and the library's way to it."""

from dataclasses import replace
from threading import Event

import pytest
import torch
import toy

from i2vgen_core import Cancelled
from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.editing import edit_clip, edit_video, invert_clip
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import write_image
from i2vgen_core.media.video import read_video, write_video
from i2vgen_core.network import blocks
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.injection import Injection, injected_blocks, injecting
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling import editing
from i2vgen_core.sampling.editing import EditStage, guided_by_source
from i2vgen_core.sampling.options import EditOptions
from i2vgen_core.sampling.schedules import schedule_for

OPTIONS = EditOptions(width=72, height=64, frames=3, steps=4, guidance=5.0)


def stage(**options):
    return EditStage(EditOptions(**options), RELEASES["i2vgen_xl"], schedule_for("i2vgen_xl"))


def test_fractions_count_the_whole_list_and_cut_what_is_less_than_a_step():
    whole, later = stage(convolution=0.58, start=0), stage(convolution=0.2, start=1)
    assert sum(whole.injection_at(t).convolution for t in whole.timesteps) == 28
    assert sum(later.injection_at(t).convolution for t in later.timesteps) == 9
    assert whole.timesteps == list(range(981, 0, -20)) and len(later.timesteps) == 49


def test_the_inversion_goes_no_further_than_the_edit_reads():
    own, official = stage(), stage(inversion_steps=500)
    assert own.inversion_timesteps == list(range(1, 982, 20)) and own.steps == 100
    assert official.inversion_timesteps == list(range(1, 982, 2))
    assert stage(steps=6, inversion_steps=12).inversion_timesteps[-1] == 831


@pytest.mark.parametrize(
    "options, words",
    [
        ({"inversion_steps": 40}, "steps of the inversion: expected"),
        ({"steps": 8, "inversion_steps": 16}, "steps of the inversion: expected"),
        ({"guidance": 1}, "guidance: expected another scale than 1"),
        ({"steps": 6, "start": 6}, "start: expected one of the edit's steps, 0 to 5"),
        ({"spatial": 1.1}, "spatial: expected 0 to 1"),
        ({"inversion_steps": 0}, "steps: expected 1 to 999"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(options, words):
    with pytest.raises(InputError, match=words):
        stage(**options)


def test_guidance_of_1_without_taking_anything_over():
    assert stage(guidance=1, convolution=0, spatial=0, temporal=0).steps == 100
    assert stage(guidance=1, steps=4, convolution=0.2, spatial=0.2, temporal=0.2).steps == 8, "fractions below a step"


# ---------------------------------------------------------------- injection


@pytest.fixture(scope="module")
def unet():
    return toy.network(toy.DEEP)


def test_the_first_block_with_attention_takes_nothing(unet):
    taken = [number for _, number in injected_blocks(unet)]
    assert taken == [3, 4, 5, 6, 7], "of two blocks at each level, three of four with attention"


@pytest.mark.parametrize("kind", ["convolution", "spatial", "temporal"])
def test_parts_of_a_block_see_the_source(unet, kind, monkeypatch):
    """Frames and places go through in parts, and the source's row is as without its edit."""
    made = toy.inputs(toy.DEEP, frames=3, batch=2)
    hooks = injecting(unet, Injection(**{kind: True}), 2)
    whole, alone = unet(**made, hooks=hooks), unet(**made)
    monkeypatch.setitem(blocks._PART_BYTES, "cpu", 1)
    assert toy.error(unet(**made, hooks=hooks), whole) <= 1e-5
    assert toy.error(whole[:3], alone[:3]) <= 1e-6
    assert toy.error(whole[3:], alone[3:]) > 1e-4


def test_rows_one_by_one_are_those_of_a_batch(unet, monkeypatch):
    """Where memory does not hold all rows: the source is computed beside each."""
    config, details = toy.DEEP, toy.inputs(toy.DEEP)["details"]
    prepared = [unet.prepare(toy.inputs(config, seed=seed)["context"], torch.tensor([8])) for seed in range(3)]
    source, x = toy.inputs(config, seed=9)["x"], toy.inputs(config)["x"]

    def denoised():
        row = replace(Prepared.together(prepared[:1]), details=details)
        schedule, injection = schedule_for("i2vgen_xl"), Injection(spatial=True, temporal=True)
        given = (prepared[1:], details, {501: source}, lambda t: injection, 3.0)
        return guided_by_source(unet, schedule, row, *given)(x, 501)

    together = denoised()
    monkeypatch.setattr(editing, "fit_together", lambda *_: False)
    assert toy.error(denoised(), together) <= 1e-5


# ---------------------------------------------------------------- the library and the command


@pytest.fixture(scope="module")
def cascade(bundles):
    return Cascade(bundles())


@pytest.fixture(scope="module")
def clip():
    return torch.rand(4, 64, 72, 3, generator=torch.Generator().manual_seed(5))


def test_a_clip_is_inverted_once_for_all_its_edits(cascade, clip):
    steps = []
    frames = edit_video(cascade, clip, 1 - clip[:1], "a fox", OPTIONS, callback=lambda step, *_: steps.append(step))
    assert frames.shape == (3, 64, 72, 3) and steps == list(range(8))
    inverted = invert_clip(cascade, clip, OPTIONS)
    assert torch.equal(edit_clip(cascade, inverted, 1 - clip[:1], "a fox", OPTIONS), frames)
    other = edit_clip(cascade, inverted, 1 - clip[:1], "a fox", replace(OPTIONS, temporal=0.0))
    assert toy.error(other, frames) > 1e-4
    with pytest.raises(InputError, match="the inverted clip: expected"):
        edit_clip(cascade, inverted, 1 - clip[:1], "a fox", replace(OPTIONS, steps=5))
    with pytest.raises(InputError, match="frames, channels, height and width"):
        edit_clip(cascade, inverted, 1 - clip[:1], "a fox", replace(OPTIONS, width=80))


def test_pictures_of_other_shapes_are_refused_before_any_work(cascade, clip):
    with pytest.raises(InputError, match="the edited first frame: expected a picture of the video's shape, 72x64"):
        edit_video(cascade, clip, clip[:1, :, :60], "a fox", OPTIONS)
    with pytest.raises(InputError, match="the video: expected 5 frames or more"):
        edit_video(cascade, clip, clip[:1], "a fox", replace(OPTIONS, frames=5))


def test_an_event_ends_it(cascade, clip):
    cancel = Event()
    cancel.set()
    with pytest.raises(Cancelled):
        edit_video(cascade, clip, clip[:1], "a fox", OPTIONS, cancel=cancel)


def test_the_command(bundles, clip, tmp_path):
    source, picture, out = (tmp_path / name for name in ("clip.mp4", "edited.png", "out.mp4"))
    write_video(source, clip, fps=12)
    write_image(picture, 1 - clip[0])
    small = ["--width", "72", "--height", "64", "--frames", "3", "--steps", "2", "--prompt", "fox"]
    files = ["--model", bundles(), "--video", source, "--first-frame", picture, "--out", out]
    assert main(["edit", *map(str, files), *small]) == 0
    frames, fps = read_video(out)
    assert frames.shape == (3, 64, 72, 3) and fps == 12
    assert main(["edit", *map(str, files), *small, "--inversion-steps", "3"]) == 2
