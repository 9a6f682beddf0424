"""CLIP and the VAE: their sizes, their networks through transformers and diffusers, the tokenizer."""
