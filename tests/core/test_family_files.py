"""Files of networks beside the cascade's: what inspect, convert and download say of them and make of them."""

import hashlib
from dataclasses import replace

import pytest
import toy
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints import download
from i2vgen_core.checkpoints.convert import convert
from i2vgen_core.checkpoints.download import FILES, released_kind
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.config import COMPOSERS, HINTED
from i2vgen_core.errors import InputError
from i2vgen_core.releases import RELEASES


@pytest.fixture
def write(tmp_path):
    """write(kind, said): a toy file of a kind, and what it says that it is."""

    def written(kind, said=None):
        path = tmp_path / f"{kind}.safetensors"
        save_file(toy.stored(toy.config_of(kind)), path, {"head_dim": "8"} | ({"kind": said} if said else {}))
        return path

    return written


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("kind", [kind for kind in toy.FAMILY if kind not in (*COMPOSERS, "text2video", *HINTED)])
def test_inspect_knows_them_by_their_tensors(write, capsys, kind):
    assert main(["inspect", str(write(kind))]) == 0
    text = capsys.readouterr().out
    assert f"is: {RELEASES[kind].title} ({kind})\n" in text and "no block takes it yet" in text
    assert "shapes cannot tell" not in text and "no word" not in text


@pytest.mark.parametrize("kind", HINTED)
def test_inspect_knows_the_refiners_by_their_tensors(write, capsys, kind):
    assert main(["inspect", str(write(kind))]) == 0
    text = capsys.readouterr().out
    assert f"is: {RELEASES[kind].title} ({kind})\n" in text and "I2VGen-XL Refiner Loader" in text
    assert "shapes cannot tell" not in text and "no word" not in text


@pytest.mark.parametrize("kind", [*COMPOSERS, "text2video"])
def test_inspect_takes_the_files_word(write, capsys, kind):
    assert main(["inspect", str(write(kind, kind))]) == 0
    text = capsys.readouterr().out
    assert f"is: {RELEASES[kind].title} ({kind})\n" in text and "no word" not in text and "shapes cannot" not in text


def test_inspect_names_both_composers_where_nobody_says(write, capsys):
    assert main(["inspect", str(write("videolcm_composer"))]) == 0
    text = capsys.readouterr().out
    assert "is: TF-T2V composer (tft2v_composer) or VideoLCM composer (videolcm_composer)\n" in text
    assert "have the right names and shapes. the model file: expected one that says what it is" in text


@pytest.mark.parametrize("option", ["--kind", "--refiner"])
def test_convert_writes_the_users_word_into_the_file(write, tmp_path, caplog, option):
    source, out = write("videolcm_composer"), tmp_path / "out.safetensors"
    assert main(["convert", str(source), str(out)]) == 2 and not out.exists()
    assert "no word whether it is tft2v_composer or videolcm_composer" in caplog.text
    assert main(["convert", str(source), str(out), option, "videolcm_composer"]) == 0
    assert open_unet(out).config == toy.config_of("videolcm_composer")
    assert metadata_of(out)["kind"] == "videolcm_composer"
    assert toy.same(load_file(out), load_file(source))


def test_convert_refuses_a_word_that_is_not_so(write, tmp_path):
    with pytest.raises(InputError, match="expected a network of kind sr600, found one of kind unianimate"):
        convert(write("unianimate"), tmp_path / "out.safetensors", kind="sr600")


def test_animate_x_keeps_its_official_names(write, tmp_path):
    convert(write("animate_x"), tmp_path / "out.safetensors")
    names = load_file(tmp_path / "out.safetensors").keys()
    assert "pose_embedding_before.encoder.layers.0.self_attn.in_proj_weight" in names
    assert "input_blocks.1.1.pose_attention.transformer_blocks_p.0.attn2.to_q.weight" in names
    assert open_unet(tmp_path / "out.safetensors").config == toy.config_of("animate_x")


# ---------------------------------------------------------------- told by the release's hash


@pytest.fixture
def released(write, monkeypatch):
    """A toy file that is what the list of releases calls SR600, by its size and hash."""
    path = write("sr600")
    known = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
    monkeypatch.setitem(FILES, "sr600", replace(FILES["sr600"], **known))
    return path


def test_a_released_file_is_known_by_its_hash(released, tmp_path, capsys, caplog):
    assert released_kind(released) == {"kind": "sr600"}
    assert main(["inspect", str(released)]) == 0
    text = capsys.readouterr().out
    assert f"{RELEASES['sr600'].title} (sr600)" in text and "shapes cannot tell" not in text
    convert(released, tmp_path / "out.safetensors")
    assert metadata_of(tmp_path / "out.safetensors")["kind"] == "sr600" and not caplog.records


def test_a_file_of_the_same_size_is_not(released, capsys):
    content = bytearray(released.read_bytes())
    content[-1] ^= 1
    released.write_bytes(content)
    assert released_kind(released) == {}
    assert main(["inspect", str(released)]) == 0
    assert "shapes cannot tell" in capsys.readouterr().out


def test_a_file_of_another_size_is_not_read(released, monkeypatch):
    monkeypatch.setattr(download, "sha256", lambda file: pytest.fail("read"))
    released.write_bytes(released.read_bytes() + b"x")
    assert released_kind(released) == {} == released_kind(released.parent)


# ---------------------------------------------------------------- terms


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name].elsewhere])
def test_what_is_not_on_the_hub_is_never_asked_for_there(name, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(download, "_asked", lambda *_: pytest.fail("asked"))
    assert main(["download", name, "--to", str(tmp_path)]) == 2
    told, error = capsys.readouterr().out, caplog.text
    assert FILES[name].licence in told and "research" in told, "said before anything is fetched"
    assert FILES[name].elsewhere in error and FILES[name].file in error and list(tmp_path.iterdir()) == []


def test_what_is_not_stated_is_said_to_be_so():
    assert "Apache-2.0 for the code; not stated for the weights" in download.listing("animate_x", None)
    assert "no licence file" in download.listing("unianimate", None)
