"""The video network of every stage: UNet, blocks, attention, what the image tells it, hooks, acceleration."""
