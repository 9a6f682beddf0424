"""The only room that touches the host: comfy.* and folder_paths."""
