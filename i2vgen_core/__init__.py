"""I2VGen-XL (arXiv 2311.04145) as a library: one image in, a video out, in two diffusion stages. Imports no host."""
