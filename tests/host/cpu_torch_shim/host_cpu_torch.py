"""Lets torchvision and torchaudio be imported where their compiled parts do not load.

ComfyUI imports both. On a machine without a GPU they may come only as CUDA builds, whose compiled parts do not load
beside a CPU build of torch. The Python parts are all that the tests need. Copied into site-packages by
`install_host.py`; where the compiled parts load, it changes nothing. An operator that was left out raises when called.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

# Operators that torchvision gives shape functions to while it is imported; they must exist by then.
_ROI_OPERATORS = ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
_VISION_OPERATORS = ("nms", "qnms", "qroi_align", *_ROI_OPERATORS, *(f"_{name}_backward" for name in _ROI_OPERATORS))
_libraries = []  # a torch Library takes its operators away when it is collected


class _VisionLoader(SourceFileLoader):
    """Loads torchvision with its operators declared, when the library that defines them does not load."""

    def exec_module(self, module: ModuleType) -> None:
        import torch

        compiled = [*Path(self.path).parent.glob("_C*.so"), *Path(self.path).parent.glob("_C*.pyd")]
        try:
            for library in compiled:
                torch.ops.load_library(library)
        except OSError:
            declared = torch.library.Library("torchvision", "FRAGMENT")
            for name in _VISION_OPERATORS:
                if not hasattr(torch.ops.torchvision, name):
                    declared.define(f"{name}(Tensor input) -> Tensor")
            _libraries.append(declared)
        super().exec_module(module)


class _AudioLoader(SourceFileLoader):
    """Loads torchaudio's loader of compiled parts so that one that does not load counts as absent."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        load = module._load_lib

        def load_if_possible(name: str) -> bool:
            try:
                return load(name)
            except OSError:
                return False

        module._load_lib = load_if_possible


_LOADERS = {"torchvision": _VisionLoader, "torchaudio._extension.utils": _AudioLoader}


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _LOADERS:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin:
            spec.loader = _LOADERS[name](name, spec.origin)
        return spec


sys.meta_path.insert(0, _Finder)
