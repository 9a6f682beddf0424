"""The pack loads in ComfyUI, in process and in the server, and offers its nodes."""

from .in_process import Host
from .server import Server

NODES = {
    "I2VGenXLCascadeLoader",
    "I2VGenXLBaseLoader",
    "I2VGenXLRefinerLoader",
    "I2VGenXLCLIPEncode",
    "I2VGenXLGlobalEncode",
    "I2VGenXLBaseSampler",
    "I2VGenXLRefineSampler",
    "I2VGenXLVAEDecode",
    "I2VGenXLTinyScene",
    "I2VGenXLSize",
    "I2VGenXLColorMatch",
    "I2VGenXLInspectConditioning",
    "I2VGenXLSpectrum",
    "I2VGenXLCompareVideos",
}


def test_in_process(host: Host) -> None:
    assert {name for name in host.nodes if name.startswith("I2VGenXL")} >= NODES


def test_over_the_server(server: Server) -> None:
    assert "IMPORT FAILED" not in server.log
    offered = server.get("/object_info")
    assert set(offered) >= NODES
    assert all(offered[name]["python_module"] == "custom_nodes.i2vgen_xl" for name in NODES)
