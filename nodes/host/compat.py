"""What differs between the host's versions, 0.3.64 to 0.33."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import folder_paths
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ...i2vgen_core.errors import InputError
from ...i2vgen_core.network.attention import scaled_dot_product_attention


def patcher(model: Any, load_device: Any, offload_device: Any, disable_dynamic: bool = False) -> Any:
    """The host's owner of a model's memory; from 0.33 on, the one that streams weights where the host does."""
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return kind(model, load_device=load_device, offload_device=offload_device)


def load_weights(model: Any, patcher: Any, state: dict[str, Tensor]) -> None:
    """Puts the tensors into a MODEL's network; they have been checked. A streaming owner takes them over as they are."""
    streams = getattr(patcher, "is_dynamic", lambda: False)()
    if streams:
        model.load_model_weights(state, "", assign=True)
    else:
        model.load_model_weights(state, "")


def clip(target: Any, state: dict[str, Tensor], disable_dynamic: bool) -> comfy.sd.CLIP:
    """A CLIP with its tensors, which have been checked. Before 0.8 they come after its making."""
    known = inspect.signature(comfy.sd.CLIP).parameters
    options: dict[str, Any] = {
        "embedding_directory": folder_paths.get_folder_paths("embeddings"),
        "parameters": sum(tensor.numel() for tensor in state.values()),
    }
    if "disable_dynamic" in known:
        options["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:
        return comfy.sd.CLIP(target, state_dict=[state], **options)
    made = comfy.sd.CLIP(target, **options)
    made.load_sd(state)
    return made


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, transformer_options: dict[str, Any]) -> Tensor:
    """The host's attention, or what a node has put in its place. On the CPU torch's own, which is faster there, but for
    queries that a node has cut into more sequences than keys, as HyperTile does: the host's cuts the keys too."""
    if q.device.type == "cpu" and len(q) == len(k) and "optimized_attention_override" not in transformer_options:
        return scaled_dot_product_attention(q, k, v, heads)
    return comfy.ldm.modules.attention.optimized_attention(q, k, v, heads, transformer_options=transformer_options)


def in_windows(model: Any, frames: int, overlap: int) -> Any:
    """The MODEL with the host's context windows over the frames, all weighed alike; as it is where it has windows already.

    Raises:
        InputError: before 0.33, whose windows cut no conditions of one frame a row.
    """
    if "context_handler" in model.model_options:
        return model
    known = (
        importlib.import_module("comfy.context_windows") if importlib.util.find_spec("comfy.context_windows") else None
    )
    if known is None or not hasattr(known.IndexListCallbacks, "RESIZE_COND_ITEM"):
        found, remedy = "more, and a ComfyUI without windows for them", "Animate fewer frames, or update ComfyUI."
        raise InputError("latent", f"at most {frames} frames", found, remedy)
    model = model.clone()
    model.model_options["context_handler"] = known.IndexListContextHandler(
        context_schedule=known.get_matching_context_schedule(known.ContextSchedules.STATIC_STANDARD),
        fuse_method=known.get_matching_fuse_method(known.ContextFuseMethods.FLAT),
        context_length=frames,
        context_overlap=overlap,
        dim=0,
        causal_window_fix=False,
    )
    known.create_prepare_sampling_wrapper(model)
    return model


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device's memory has run out, as the host tells it."""
    management = comfy.model_management
    if hasattr(management, "is_oom"):  # from 0.33 on
        return management.is_oom(error)
    return isinstance(error, management.OOM_EXCEPTION)


def text_of(clip: Any, tokens: list[int]) -> str:
    """The words of CLIP tokens. Before 0.33 characters beyond ASCII are shown as their bytes."""
    if hasattr(clip, "decode"):
        return clip.decode(tokens)
    words = clip.tokenizer.untokenize([(token, 1.0) for token in tokens])
    return "".join(word for _, word in words).replace("</w>", " ").strip()


def name_errors_shortly() -> None:
    """Our errors without their module: the host writes it before the sentence, but for those of Python itself."""
    ours: list[type] = [InputError]
    for error in ours:
        error.__module__ = "builtins"
        ours += error.__subclasses__()


def progress_text(text: str) -> None:
    """Writes below the block that runs now, where the host has a front end."""
    running, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if running is not None and server is not None:
        server.send_progress_text(text, running.node_id, server.client_id)
