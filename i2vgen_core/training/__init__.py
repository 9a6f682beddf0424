"""The paper's recipe, small: a synthetic world, and the training of every network on it. Inference needs none of this."""
