"""The pack loads in ComfyUI, in process and in the server, and offers its nodes."""

import importlib

from .available import PACK
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
    "I2VGenXLAccelerate",
    "I2VGenXLVideoEdit",
    "I2VGenXLCtrlAdapterLoader",
    "I2VGenXLApplyCtrlAdapter",
    "I2VGenXLFirstLast",
    "I2VGenXLDrag",
    "I2VGenXLCamera",
    "I2VGenXLFollowAnimation",
    "I2VGenXLCompose",
    "I2VGenXLAlignPose",
    "I2VGenXLAnimate",
    "I2VGenXLRefinePrepare",
    "I2VGenXLShots",
    "I2VGenXLContinue",
    "I2VGenXLPrompt",
    "I2VGenXLScore",
}


def test_in_process(host: Host) -> None:
    assert {name for name in host.nodes if name.startswith("I2VGenXL")} >= NODES


def test_over_the_server(server: Server) -> None:
    assert "IMPORT FAILED" not in server.log
    offered = server.get("/object_info")
    assert set(offered) >= NODES
    assert all(offered[name]["python_module"] == "custom_nodes.i2vgen_xl" for name in NODES)


def test_the_registry_reads_the_projects_settings(host: Host) -> None:
    """With the host's own parser; a picture that it names is there."""
    parser = importlib.import_module("comfy_config.config_parser")
    found = parser.extract_node_configuration(str(PACK))
    assert (found.project.name, found.project.license.text) == ("comfyui-i2vgen-xl", "Apache-2.0")
    assert found.project.supported_os == ["OS Independent"]
    assert found.project.supported_comfyui_version == ">=0.3.64"
    assert found.tool_comfy.publisher_id and found.tool_comfy.display_name and found.project.description
    assert (PACK / found.tool_comfy.icon).is_file()
