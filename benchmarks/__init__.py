"""What this project costs beside its peer, diffusers' I2VGenXLUNet and AutoencoderKL, on the same weights."""
