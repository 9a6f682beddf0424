"""The smallest recipes of the stages, which tests of training share."""

SMALL_UNET = {
    "model_channels": 32,
    "channel_mult": [1, 1],
    "attention_levels": [True, False],
    "num_res_blocks": 1,
    "head_dim": 16,
    "first_temporal_heads": 2,
    "context_dim": 32,
    "image_dim": 32,
}
SMALL = {
    "vae": {"channels": [32, 32, 32, 32], "widths": [128], "crop": [64, 64], "batch": 2},
    "clip": {"width": 32, "text_layers": 2, "vision_width": 32, "vision_layers": 1, "projection": 32, "batch": 4},
    "base": {"unet": SMALL_UNET, "width": 64, "height": 64, "shapes": [{"frames": 2, "clips": 2}], "repeats": 2},
    "refiner": {
        "unet": SMALL_UNET | {"kind": "vid2vid_xl"},
        "width": 64,
        "height": 80,
        "shapes": [{"frames": 2, "clips": 1}],
    },
}
