"""What the templates say of themselves, in Markdown. The releases' settings in them are compared by test_workflows."""

from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.releases import RELEASES

_XL, _VID, _SR600 = (RELEASES[kind] for kind in ("i2vgen_xl", "vid2vid_xl", "sr600"))

_TINY = """It runs as it opens, on the tiny cascade that comes with this pack. That knows moving shapes and nothing else. \
*Tiny Scene* draws a picture and says how it moves; take its wire off *prompt* to write another motion: left, right, up, \
down, turning or still, slowly or quickly."""


def _files(*keys: str) -> str:
    """A line for each released file: where it goes, its link and size."""
    lines = []
    for file in (FILES[key] for key in keys):
        address = f"{file.page}/resolve/main/{file.file}"
        lines.append(f"- *{file.folder}*: [{file.name}]({address}), {file.gigabytes:g} GB")
    return "\n".join(lines)


_BASE_FILES = f"""Save these in *ComfyUI/models*, each in its folder and under its name here, and press R. `python -m i2vgen_core \
download cascade` does it too.

{_files("i2vgen_xl", "text", "vision", "vae")}"""

_OTHER_FOLDERS = """The published folder [ali-vilab/i2vgen-xl](https://huggingface.co/ali-vilab/i2vgen-xl), put whole into \
*models/diffusers*, is in the loader's list by its name."""

_RELEASED_BASE = f"""**With the released model** (the note of the template *02* has the files): choose *released files* in \
the loader, put *Load Image* with your photo in the place of *Tiny Scene*, and write the prompt. Size \
({_XL.width}x{_XL.height}) and rate ({_XL.fps:g}) follow."""

_RELEASED_STEPS = f"""**With the released models** (the note of the template *01* has the files): choose *released files* in the \
loader, put *Load Image* with your photo in the place of *Tiny Scene*, and write the prompts. The refiner, both sizes \
({_XL.width}x{_XL.height}, {_VID.width}x{_VID.height}), rate and steps follow."""

_RELEASED = f"""**With the released models** (the note of the template *01* has the files): choose *released files* as the \
first stage's *bundle*, put *Load Image* with your photo in the place of *Tiny Scene*, and write the prompts. The refiner, \
both sizes ({_XL.width}x{_XL.height}, {_VID.width}x{_VID.height}), rate and steps follow."""

IMAGE_TO_VIDEO = f"""# Image to Video

The base stage, with its settings outside. Values of 0 are the model's own: {_XL.steps} steps for the released one. *rate* is \
the file's: 8, as the official code saves it.

**With the released model**

{_BASE_FILES}

Then choose *released files* as the *bundle*.

{_OTHER_FOLDERS}
"""

VIDEO_REFINE = f"""# Refine a Video

The second stage, with its settings outside. Wire CLIP, VAE and MODEL (into *base*) from *Image to Video*: the refiner that \
goes with it is taken. Values of 0 are the model's own: {_VID.steps} steps, noise level {_VID.noise_level} for the released \
one. The release's quality suffix is set behind the prompt.

**With the released refiner**

{_files("vid2vid_xl")}
"""

BASE = f"""# I2VGen-XL, base stage

A picture and a sentence in, a video out: the first stage of the cascade ([arXiv 2311.04145](https://arxiv.org/abs/2311.04145)), \
block by block. *Image to Video* holds them in one.

{_TINY}

**With the released model**

{_BASE_FILES}

1. Choose *released files* in the loader. Size ({_XL.width}x{_XL.height}), rate ({_XL.fps:g}) and steps follow.
2. Put *Load Image* with your photo in the place of *Tiny Scene*. It is scaled to cover the video and cropped to its \
centre. Write in one English sentence what happens.
3. Run. Steps and cfg of 0 are the model's own: {_XL.steps} and {_XL.guidance:g}. No memory for the size? Choose *base \
448x256* in Size; for another multiple of 8, take the wires off and type it.

{_OTHER_FOLDERS}

*fps* in Global Encode is a condition on motion. The file's rate is in *Create Video*: 8, as the official code saves it.
"""

CHAIN = f"""# A longer story: the last frame goes on

The last frame of the first clip is the picture of the second, which has a prompt of its own. The two are joined to 31 \
frames: the second clip's first frame is the first clip's last one, and is left out.

The second clip may come out a little lighter or darker. *Color Match* gives it the colours of the frame that it began \
with, so that the joint does not jump. Bypass it to see the difference.

{_TINY}

{_RELEASED_BASE}

For a third clip, copy groups 3, 4 and 5 and wire them behind each other. Each clip is a copy of a copy: after three or \
four, details are lost.
"""

LONG = f"""# A long video in windows

64 frames, made 16 at a time: *Context Windows* slides over them, 8 frames of each window shared with the next, and \
*freenoise* gives the windows noise that belongs together. Every window begins with your picture's details, so that a \
motion comes back to where it began. Memory stays that of 16 frames; time grows with the windows, seven here.

{_TINY}

{_RELEASED_BASE}

Longer: set *frames* in Global Encode. Faster, with rougher joints: context_overlap 4. For a motion that goes on, chain clips \
(template *05*). For prompts that follow each other, see the \
template *08*. Keep *dim* at 0, the frames, and *causal_window_fix* off: it is for other models.
"""

LOOP = f"""# A loop

The first and the last frame are your picture itself, and stay so while the 14 between are made: the latent holds the \
picture in every frame, and the mask is black where it stays. The video begins where it ends. Its last frame is left out \
of the file, so that none is shown twice.

Our Base Sampler reads latent and mask as well.

{_TINY} Motions that come back do best: still, or turning.

{_RELEASED_BASE} In KSampler: steps {_XL.steps}, cfg {_XL.guidance:g}.

Other lengths: *frames*, the amount in Repeat Latent Batch, and white's batch_size (two less) go together.
"""

LORA = f"""# The base with a LoRA

*Load LoRA* stands between the loader and the sampler. It is bypassed as it opens, since there is no LoRA file to come \
with it. To use one: put the file into *ComfyUI/models/loras*, press R, choose it, and press Ctrl+B on the block.

Files whose tensors are named *lora_unet_...* or *diffusion_model....* work. `python -m i2vgen_core train lora` makes \
one, of the tiny base too. A LoRA of another model has no layer in common with this one, and changes nothing.

{_TINY}

{_RELEASED_BASE}
"""

STOCK = f"""# The base with stock samplers

The base stage, sampled by ComfyUI's own *KSampler* and again by *SamplerCustomAdvanced*, and decoded by its own *VAE \
Decode*. MODEL, CONDITIONING and LATENT are native, so other stock samplers, LoRA loaders and model patches fit in as \
well. With the same seed, here 0, the two give the same video.

{_TINY}

{_RELEASED_BASE}

The release's settings in KSampler, and in the single blocks likewise:

- steps {_XL.steps}, cfg {_XL.guidance:g}, denoise 1
- sampler *ddim*, scheduler *ddim_uniform*: timesteps 981, 961, ... 1

**Compared with the Base Sampler block** the same seed gives the same video but for two differences: the first latent is \
scaled by 0.9996, and the last step goes to no noise at all, where the release goes to its lowest noise level.

MS-Image2Video (cfg 3) starts from offset noise, which the stock sampler does not draw: use the Base Sampler for it.
"""

SWAP = f"""# Swap an encoder

The picture reaches the network on two ways: as global tokens and details from *Global Encode*, and as CLIP tokens from \
*CLIP Encode*. Here the two blocks see different pictures. Above, both see the first one; below, CLIP sees the other one.

Global tokens and details carry what is seen, CLIP tokens what is meant. The tiny cascade's world has no meaning that its \
details do not show, so the two videos differ little. Swap the wires into Global Encode instead, and the picture itself \
changes.

{_TINY}

{_RELEASED_BASE}
"""

TWO_PROMPTS = f"""# Two prompts, one after the other

The first prompt holds for the first window of 16 frames, the second for the last, and the eight frames that they share go \
over from one to the other: *Conditioning (Combine)* joins the prompts, and *split_conds_to_windows* in *Context Windows* \
deals them out.

{_TINY}

{_RELEASED_BASE}

Three prompts: combine a third, and 32 frames (8 more a window).

**Over the sampling's time instead**: put *ConditioningSetTimestepRange* behind each of the two, 0 to 0.4 and 0.4 to 1, \
and connect the loader's MODEL to the sampler. Then the first prompt lays out all frames and the second finishes them: one \
blended motion, no change on the way.
"""

CASCADE = f"""# I2VGen-XL, the whole cascade

A picture and a sentence in, a refined video out ([arXiv 2311.04145](https://arxiv.org/abs/2311.04145)). The first stage makes \
16 frames. The second takes them up to noise level {_VID.noise_level} of 1000 and denoises them again, larger.

{_TINY} A new seed in the second stage runs that alone.

**With the released models**

{_BASE_FILES}
{_files("vid2vid_xl")}

1. Choose *released files* as the first stage's *bundle*. The refiner, both sizes ({_XL.width}x{_XL.height}, \
{_VID.width}x{_VID.height}), rate ({_XL.fps:g}) and steps follow.
2. Put *Load Image* with your photo in the place of *Tiny Scene*. Write in one English sentence what happens, and in the \
second stage what is seen; the release's quality suffix is added.
3. Run. Values of 0 are the model's own: base {_XL.steps} steps, cfg {_XL.guidance:g}; refiner {_VID.steps} steps, cfg \
{_VID.guidance:g}, rescale {_VID.rescale:g}, level {_VID.noise_level}.

{_OTHER_FOLDERS}

The stages are blocks of blocks: the sign in their corner opens them. For VGen's SR600 choose its file, and inside *sr600* as \
the variant: {_SR600.steps} steps, cfg {_SR600.guidance:g}, rescale {_SR600.rescale:g}, level {_SR600.noise_level}, entered \
by inversion.
"""

BEYOND = f"""# Refining beyond 720p

The refiner works at any size of multiples of 8; what grows is memory. As it opens the tiny cascade refines to 416x208, \
more than its own 288x144, and *VAE Decode (Tiled)* decodes in tiles of 256.

{_TINY}

{_RELEASED} Type 1920 and 1104 into *Upscale Image*, and 512 as the tile's size. 1104 is 138 rows of the latent, a height \
that goes through the network's levels without a remainder, as 720 does; 1080 would be padded inside.

If the refiner runs out of memory, press Ctrl+B on *Context Windows*: 8 frames at a time, 4 of them shared with the next. \
The windows cost time, about half as much again, and a little steadiness.
"""

INTERPOLATE = f"""# Frame interpolation after the cascade

The cascade's frames, then *Run Frame Interpolation Model* for the frames between them. The two blocks of group 4 are \
bypassed as they open, since their model does not come with ComfyUI: the video is the cascade's.

To use them: select both, press Ctrl+B, and ComfyUI offers the download of FILM's file. Then set fps in *Create Video* to \
16, twice as many, for the same speed of motion.

The pack [ComfyUI-Frame-Interpolation](https://github.com/Fannovel16/ComfyUI-Frame-Interpolation) has RIFE and FILM as \
nodes of its own; they take the same IMAGE and fit into the same place.

{_TINY}

{_RELEASED}
"""

STEPS = f"""# The cascade, step by step

What goes into the stages and what comes out.

- *Inspect Conditioning* draws what the network reads: 77 text tokens, 64 global tokens (8 by 8 places of the picture), 4 \
CLIP tokens and the details of frame 0; positive beside negative. Bright is large.
- *Spectrum* is the paper's analysis: power by spatial and by temporal frequency, before and after the refiner. A refiner \
that works lifts the right end of the spatial curve, sharpness, and lowers the right end of the temporal one, flicker.
- *Compare Videos* puts the frames after below those before. PSNR says how much was changed, not how good it is.

The inspecting blocks change nothing. Take them out, and the video is the same. The second stage is one block; the template \
*15* has it in single ones.

{_TINY}

{_RELEASED_STEPS}
"""

TEXT_TO_IMAGE = """# From text alone

The paper joins image synthesis with video synthesis: a stock text-to-image model makes the picture, the cascade the video.

As it opens, *Tiny Scene* stands in for the picture, and the groups of *Text to image* are bypassed: its model, SDXL, does \
not come with ComfyUI, and the tiny cascade would make nothing of its pictures.

**With the released models**

1. Choose *released files* as the first stage's *bundle* (the note of the template *01* has the files). The refiner, both \
sizes, rate and steps follow.
2. Select the blocks of *Text to image* and of its sampling, and press Ctrl+B. ComfyUI offers the download of SDXL's file.
3. Drag the last one's IMAGE to *The picture*, in the place of Tiny Scene's.
4. Say in the picture's prompt what is seen, in the first stage's what happens (take *Tiny Scene*'s wire off), and in the \
second stage's once more what is seen.
"""

UPSCALE = f"""# An upscale model between the stages

The refiner adds detail, and it adds the more the sharper its input is. Officially the base's frames are scaled \
bilinearly; an upscale model can take that place.

The two blocks of group 3 are bypassed as they open, since upscale models do not come with ComfyUI: what runs is the \
bilinear way. To use them: select both, press Ctrl+B, and ComfyUI offers the download of RealESRGAN's file. The second stage \
brings its result to its own size. With a sharp input a lower *noise_level* in the refiner keeps more of it: \
try 300 to 500 with the release.

{_TINY}

{_RELEASED}
"""

REFINE = f"""# Refine a video that you have

The second stage alone, as an upscaler of any video. It opens on the video that the template *01* saves when it first runs; \
choose or upload another one in *Load Video*. The file keeps its rate.

**With the released refiner**

1. Choose *released files* in the Cascade Loader, for its CLIP and VAE (the note of the template *01* has the files). The \
refiner and its size, {_VID.width}x{_VID.height}, follow.
2. Say in the prompt in a few words what is seen. The release's quality suffix is added.
3. Run. For another shape choose another *size*. Lower *noise_level* changes less.

All frames are refined at once: 16 to 32 fit into a large card. For more, open the block (the sign in its corner) and put \
*Context Windows* between the refiner and the sampler.
"""

REFINE_LONG = f"""# A long video refined

A video of any length, refined 8 frames at a time: *Context Windows* slides over it at every step, 4 frames of each window \
shared with the next. Memory stays that of 8 frames; time grows with the windows. It opens on the video that the template *01* \
saves when it first runs, which is short; choose or upload a long one in *Load Video*.

**With the released refiner**

1. Choose *released files* in the Cascade Loader, for its CLIP and VAE (the note of the template *01* has the files). The \
refiner and its size, {_VID.width}x{_VID.height}, follow. Set *context_length* to 32 and *context_overlap* to 16 where the memory is there.
2. Say in the prompt in a few words what is seen; the release's quality suffix stays behind it.
3. Run. A lower *amount* in the Refine Sampler keeps more of the video.

*i2vgen-xl batch* does the same for a table of videos, and goes on at the window where it was ended.
"""

VIDEO_EDIT = f"""# Edit a Video Clip

A video follows the change of its first frame (AnyV2V, [arXiv 2403.14468](https://arxiv.org/abs/2403.14468)), with no weights \
beside the base. Wire all frames of the video into *images*, the first one, changed by any tool, into *first_frame*, and say in the \
prompt what happens in the edited video. *fresh_noise* above 0 lets go of the video's colours. How much of its shapes and motion \
stays, the three fractions of *Video Edit* say, inside.

**With the released model**

{_BASE_FILES}

Then choose *released files* as the *bundle*.

{_OTHER_FOLDERS}
"""

_EDITING = f"""The whole clip follows its first frame: *Edit a Video Clip* brings the video to noise, and samples its edit beside it. The \
second edit of a clip takes half the time. It opens on the video that the template *01* saves when it first runs; choose or upload \
another one in *Load Video*. The tiny cascade that comes with this pack knows moving shapes alone, and edits them roughly.

**With the released model** (the note of the template *02* has the files): choose *released files* as the *bundle*, and write in the \
prompt what happens in the edited video. Size ({_XL.width}x{_XL.height}) and rate ({_XL.fps:g}) follow. As many frames are edited as \
the video has; *Image From Batch* behind *Load Video* takes some of more."""

RECOLOUR = f"""# Recolour a thing in a video

The first frame is painted with ComfyUI's own mask blocks: where the picture has little red, a mask, and a colour in it. For another \
video, save its first frame, open that in *Load Image*, paint the thing in the *Mask Editor*, and wire its MASK in the place of *The thing*. Name the new \
colour in the prompt.

{_EDITING}
"""

IMAGE_EDIT = f"""# Edit a video by an image-edit model

Any model that edits pictures changes the first frame, by a sentence. Group 2 has InstructPix2Pix and is bypassed as it opens, since \
its file (7.7 GB, MIT) does not come with ComfyUI: what runs is the video once more. To use it: select the blocks of both groups, press \
Ctrl+B, and ComfyUI offers the download. Then say in the prompt of *Edit a Video Clip* what happens in the edited video. Other edit models, of \
ComfyUI's own templates, fit into the same place.

{_EDITING}
"""

STYLE = f"""# Another style for a video

*Transfer Color* gives the first frame the colours of another picture. Whatever changes a picture's looks and leaves its things where they \
are fits into the same place. *fresh_noise* lets go of the video's own colours: more of it changes more. Say in the prompt what is seen in the new style.

{_EDITING}
"""

_DIRECTED = """It runs as it opens, on the tiny cascade that comes with this pack. That knows moving shapes and nothing else, \
and draws them roughly."""

FIRST_LAST = f"""# First and last frame

The video begins with one picture and ends in another: *First and Last Frame* holds the last frame while the noise goes. Here \
the last picture is the first one, mirrored. Put *Load Image* in the place of both *Tiny Scene* and *Flip Image* for two of your own: the same \
things in the same light, where they are to be. Say in the prompt what happens between.

*until* 1 gives the last picture itself, with a small jump before it; 0.9 fits it to the frames before. Costs nothing.

{_DIRECTED}

{_RELEASED_BASE}
"""

PART_MOVES = f"""# A part moves

White of the mask moves, black stays as in the picture, in every frame. The prompt tells of a triangle that goes up and of a \
ring that goes down. The ring is held, since the mask is white on the triangle's side alone.

The latent has the picture in every frame, and *Set Latent Noise Mask* puts the mask on it. The Base Sampler reads both, and so \
does the stock KSampler. The amount in *Repeat Latent Batch* and *frames* in Global Encode go together.

{_DIRECTED}

{_RELEASED_BASE} Paint what moves in its *Mask Editor*, and wire its MASK in the place of group 3. A batch of masks has one for each frame.
"""

DRAG = f"""# Drag a thing

*Drag* takes what is in the box along the path: a rough animation, cut out, moved, and the old place filled. *Follow Animation* makes a \
video of it. The path's points are x,y in pixels of the picture, a line for each part; a spline editor's STRING fits too. A \
mask in the place of the box cuts out closer. Say in the prompt what moves, and roughly where to.

*strong* is how long the animation is followed, 0 as the model needs it: lower leaves more to the network.

{_DIRECTED}

{_RELEASED_BASE} Its *Mask Editor* marks the part; wire its MASK into *Drag* instead of the box.
"""

CAMERA = f"""# Move the camera

*Camera* pans, tilts, zooms and rolls before the picture: a rough animation. *Follow Animation* makes a video of it, and the network draws what \
comes into sight. *pan* and *tilt* are in widths and heights of the picture up to the last frame, *zoom* says how large its middle \
gets, *roll* is in degrees. Name the camera's way in the prompt too.

*Drag*'s animation fits into *Camera*'s image: things move, and the camera before them.

{_DIRECTED}

{_RELEASED_BASE}
"""

SHOTS = f"""# A story of four shots

One shot a line: how many frames it adds, a colon, and what happens. A line without a number has as many as *frames*. Each shot \
begins with the last frames of the one before, so that things are where they were and go on as they moved. A shot that you change runs again, and \
those after it; the others are kept.

Memory is that of the longest shot, time that of all. *overlap* is how many frames two shots share.

{_DIRECTED}

{_RELEASED_BASE} In the story say in each line what is seen, too.
"""

PROMPT_HELP = f"""# Help with the prompt

*Prompt* says what a prompt lacks: what is too long for CLIP, names no motion, is not English, or does nothing here. Square brackets, as \
in these words, change no weight. The hints are below; what goes on to *CLIP Encode* is the prompt.

**A text model writes it.** Group 3 is bypassed as it opens, since its file does not come with ComfyUI. Select it, press Ctrl+B, and ComfyUI \
offers the download of Gemma 4 (text_encoders). It sees the picture, and makes a caption of a few words in any language that it knows. Qwen's does too.

{_DIRECTED}

{_RELEASED_BASE}
"""
