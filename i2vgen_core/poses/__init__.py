"""A person's poses: keypoints of detectors, aligned to a picture, drawn as the animators were trained on them."""
