"""Tables of jobs: every form gives the same rows, one by one; what is wrong is said; names follow the content."""

import json
import math
import shutil
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file

from i2vgen_core.batch.jobs import cast, check_header, count_jobs, folder_of, read_rows, resolve, takes_of, title_of
from i2vgen_core.batch.stages import COLUMNS, Model, base_options, cascade_job, refine_options
from i2vgen_core.errors import InputError
from i2vgen_core.network.acceleration import Acceleration
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow not installed: pip install 'comfyui-i2vgen-xl[batch]'")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"image": "a.png", "prompt": 'A "fox", runs', "steps": 7, "guidance": 2.5},
    {"image": "b.png", "prompt": "Ein Fuchs läuft", "steps": None, "guidance": None},
]


def write(folder, kind):
    file = folder / f"jobs.{kind}"
    if kind == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    elif kind == "csv":
        file.write_text(
            'image,prompt,steps,guidance\na.png,"A ""fox"", runs",7,2.5\nb.png,Ein Fuchs läuft,,\n', encoding="utf-8"
        )
    else:
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return str(file)


def job(row, model="m", folder="/jobs"):
    return cascade_job(1, row, folder, model)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_form_gives_the_same_jobs(tmp_path, kind):
    table = write(tmp_path, kind)
    assert count_jobs(table) == 2
    found = [job(row) for row in read_rows(table)]
    assert found == [job(row) for row in ROWS]
    assert found[0].content["base"] == {"steps": 7, "guidance": 2.5, "seed": found[0].seed}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_urls_are_read_as_paths_are(tmp_path, kind):
    assert list(read_rows("file://" + write(tmp_path, kind))) == list(read_rows(write(tmp_path, kind)))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_are_read_a_few_at_a_time(tmp_path, kind):
    file = tmp_path / f"jobs.{kind}"
    many = 30_000
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"prompt": [f"{n:0100}" for n in range(many)]}), file)
    else:
        line = '{{"prompt": "{:0100}"}}\n' if kind == "jsonl" else "{:0100}\n"
        with file.open("w") as lines:
            lines.write("prompt\n" if kind == "csv" else "")
            lines.writelines(line.format(n) for n in range(many))
    next(read_rows(str(file)))  # imports
    tracemalloc.start()
    assert count_jobs(str(file)) == many
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000 < many * 100


def test_a_line_that_is_no_row_is_said_and_the_others_are_read(tmp_path):
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n[1]\n{"prompt": \n\xff\xfe\n{"prompt": "b"}')
    first, *wrong, last = read_rows(str(file))
    assert (first, last) == ({"prompt": "a"}, {"prompt": "b"})
    assert len(wrong) == 3
    assert all(str(error).startswith("the line: expected a JSON object, found") for error in wrong)
    file = tmp_path / "jobs.csv"
    file.write_text("image,prompt\na.png,one, two\nb.png,three\n")
    wrong, right = read_rows(str(file))
    assert "expected as many cells as the header" in str(wrong) and right == {"image": "b.png", "prompt": "three"}


@pytest.mark.parametrize(
    "name, content",
    [
        ("jobs.xlsx", b""),
        ("no.csv", None),
        ("empty.csv", b""),
        ("commas.csv", b",,\r\n,,"),
        ("a.csv", b"p\n\xff\n"),
        ("a.parquet", b"no"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, name, content):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="JOBS: expected a"):
        count_jobs(str(file))


# ---------------------------------------------------------------- as spreadsheets write them

PROMPT = "ein Ring, der nach links gleitet; „langsam“"
CELLS = [["image", "prompt", "seed", "steps"], ["scene.png", PROMPT, "7", "2"]]


def text(delimiter, rows=CELLS, end="\r\n"):
    quoted = [[f'"{cell}"' if delimiter in cell else cell for cell in row] for row in rows]
    return "".join(delimiter.join(row) + end for row in quoted)


TABLES = {
    "comma.csv": text(","),
    "semicolon.csv": text(";"),
    "tab.csv": text("\t"),
    "tab.tsv": text("\t"),
    "bar.csv": text("|"),
    "unicode.txt": text("\t"),
    "sep.csv": "sep=;\r\n" + text(";"),
    "quoted_sep.csv": '"sep=;"\r\n' + text(";"),
    "unusual.csv": "sep=#\r\n" + text("#"),
    "old_mac.csv": text(";", end="\r"),
    "empty_rows.csv": text(",", [[""] * 4, CELLS[0], [""] * 4, CELLS[1], [""] * 4, [" "] * 4]),
    "empty_columns.csv": text(",", [["", *row, "", ""] for row in CELLS]),
    "short_rows.csv": text(";", [[*CELLS[0], "negative", "fps"], CELLS[1]]),
    "spaces.csv": f'image, prompt , seed, steps\r\nscene.png , "{PROMPT}", 7, 2\r\n',
    "capitals.csv": text(";", [["Image", "Prompt", "Seed", "STEPS"], CELLS[1]]),
    "decimals.csv": text(";", [CELLS[0], [*CELLS[1][:2], "7.0", "2,0"]]),
    "pandas.csv": text(",", [["", *CELLS[0]], ["0", *CELLS[1]]]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_as_a_spreadsheet_saves_it(tmp_path, name, encoding):
    file = tmp_path / name
    file.write_bytes(TABLES[name].encode(encoding))
    assert count_jobs(str(file)) == 1
    check_header(str(file), COLUMNS, ("image", "prompt"))
    (row,) = read_rows(str(file))
    made = job(row)
    assert (made.seed, made.content["prompt"], made.content["base"]["steps"]) == (7, PROMPT, 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_lines_as_a_shell_saves_them(tmp_path, encoding):
    file = tmp_path / "jobs.jsonl"
    file.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS).encode(encoding))
    assert list(read_rows(str(file))) == ROWS


def test_the_index_of_a_data_frame_is_no_column(tmp_path, caplog):
    file = tmp_path / "jobs.parquet"
    table = pyarrow.Table.from_pylist([{**row, "__index_level_0__": 4} for row in ROWS])
    parquet.write_table(table, file)
    assert list(read_rows(str(file))) == ROWS
    file = tmp_path / "jobs.csv"
    file.write_text(TABLES["pandas.csv"])
    assert count_jobs(str(file)) == count_jobs(str(file)) == 1
    assert caplog.text.count("a column without a name in the first row is passed over") == 1


@pytest.mark.parametrize(
    "content, message",
    [
        ("scene.png,a fox,7,2\n", "JOBS: expected a first row with the columns' names (image, prompt, ...), found"),
        ("image,seed\na.png,7\n", "JOBS: expected a column prompt, found 'image', 'seed'"),
        ("image,prompt,step\na.png,b,7\n", "column: expected image, prompt, "),
        ("image,prompt,prompt\na.png,b,c\n", "JOBS: expected each column once, found prompt twice"),
        ("", "JOBS: expected a first row with the columns' names, found none"),
    ],
)
def test_a_header_that_is_wrong_or_missing_is_said(tmp_path, content, message):
    file = tmp_path / "jobs.csv"
    file.write_text(content)
    with pytest.raises(InputError) as raised:
        check_header(str(file), COLUMNS, ("image", "prompt"))
    assert str(raised.value).startswith(message)
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"any": 1}')
    check_header(str(file), COLUMNS, ("image", "prompt"))


def test_quotes_that_do_not_close_are_said_with_their_line(tmp_path):
    file = tmp_path / "jobs.csv"
    file.write_text('image,prompt\na.png,b\nb.png,"a "fox" runs"\n')
    with pytest.raises(InputError, match=r"JOBS: expected cells, .*jobs\.csv', line 3"):
        count_jobs(str(file))


@pytest.mark.parametrize(
    "kind, cell, value",
    [
        (int, "1.0", 1),
        (int, " 7 ", 7),
        (int, "1,00", 1),
        (int, "4294967295.0", 4294967295),
        (int, 3.0, 3),
        (float, "2,5", 2.5),
        (float, "0,125", 0.125),
        (float, "1e-3", 0.001),
        (bool, "TRUE", True),
        (bool, "1.0", True),
    ],
)
def test_numbers_as_spreadsheets_write_them(kind, cell, value):
    found = cast("x", cell, kind)
    assert found == value and type(found) is kind


@pytest.mark.parametrize(
    "kind, cell",
    [
        (int, "1.5"),
        (int, "1,000"),
        (int, "1.23457E+11"),
        (int, "1_000"),
        (int, "1.0.0"),
        (float, "2,500"),
        (float, "1.5.2"),
    ],
)
def test_numbers_that_may_mean_another_are_refused(kind, cell):
    with pytest.raises(InputError):
        cast("x", cell, kind)


def test_a_row_may_have_every_option_of_generate():
    row = dict.fromkeys(set(COLUMNS) - {"video"}, 1)
    row |= {"image": "a.png", "prompt": "p", "negative": "n", "width": 64, "height": 72, "refine_width": 80}
    row |= {"refine_height": 88, "refine_solver": "heun", "refine_entry": "inversion", "refine_negative": "", "seed": 5}
    row |= {"refine_prompt": "r", "refine_noise_level": 2, "steps": "3", "solver": "unipc"}
    row |= {"guidance_start": 0.25, "refine_reuse_interval": 4, "refine_mode": "normal", "refine_joining": "cut"}
    made = job(row)
    base, refine = base_options(made.content), refine_options(made.content)
    assert base == BaseOptions(64, 72, 1, 1.0, 3, 1.0, 1.0, 5, "n", "unipc", Acceleration(0.25, 1.0, 1))
    faster = Acceleration(1.0, 1.0, 4)
    hinted = {"mode": "normal", "window": 1, "joining": "cut", "enlarging": 1.0, "noise_aug": 1, "scale_told": 1}
    settings = 80, 88, 1, 1.0, 1.0, 2, "heun", "inversion", 1.0, 5, "", faster
    assert refine == RefineOptions(*settings, **hinted, inserted=1)
    assert made.seed == 5 and made.content["refine_prompt"] == "r" and made.content["file_fps"] == 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": None}, "prompt: expected a value in every row, found none"),
        ({"image": math.nan}, "image: expected a value in every row, found none"),
        ({"step": 3}, "column: expected image, prompt, width"),
        ({"width": 63}, "width: expected a multiple of 8 from 64 to 16384 pixels, found 63"),
        ({"steps": 2.5}, "steps: expected a whole number, found 2.5"),
        ({"steps": "many"}, "steps: expected a whole number, found 'many'"),
        ({"steps": True}, "steps: expected a whole number, found True"),
        ({"guidance": "inf"}, "guidance: expected a number, found 'inf'"),
        ({"prompt": 3}, "prompt: expected text, found 3"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"refine_solver": "euler"}, "solver: expected"),
        ({"file_fps": 0}, "file_fps: expected 0.1 to 1000, found 0.0"),
    ],
)
def test_what_a_row_may_not_have(change, message):
    with pytest.raises(InputError) as raised:
        job({"image": "a.png", "prompt": "p", **change})
    assert str(raised.value).startswith(message)


def test_names_and_seeds_follow_content_and_model():
    row = {"image": "a.png", "prompt": "p"}
    first = job(row)
    assert job(dict(reversed(row.items()))) == first == job(row | {"steps": None})
    others = [job(row | {"prompt": "q"}), job(row | {"steps": 3}), job(row, folder="/other"), job(row | {"seed": 1})]
    assert len({first.name, job(row, model="n").name, *(other.name for other in others)}) == 6
    assert len({first.seed, *(other.seed for other in others)}) == 5
    assert job(row, model="n").seed == first.seed, "models are compared on the same noise"
    assert 0 <= first.seed < 2**32


def test_the_models_hash_is_of_files_and_settings(bundles, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bundles(), model)
    first = Model(bundles())
    assert Model(model).hash("base") == first.hash("base")
    hashes = {first.hash("base"), first.hash("cascade"), Model(model, dtype="fp16").hash("base")}
    hashes.add(Model(model, detail_gain="once").hash("base"))
    (model / "unet" / "config.json").open("a").write(" ")
    assert len({*hashes, Model(model).hash("base")}) == 5


def test_the_models_hash_is_of_its_loras_too(bundles, tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    loras = [(), ((files[0], 1.0),), ((files[1], 1.0),), ((files[0], 0.5),), ((files[0], 1.0), (files[1], 1.0))]
    assert len({Model(bundles(), loras=each).hash("base") for each in loras}) == len(loras)
    files[1].write_bytes(bytes([0]))
    assert Model(bundles(), loras=loras[1]).hash("base") == Model(bundles(), loras=loras[2]).hash("base"), (
        "by their bytes"
    )


def test_the_model_of_a_batch_has_its_loras(bundles, tmp_path):
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    pair = {f"{layer}.lora_up.weight": torch.ones(64, 1), f"{layer}.lora_down.weight": torch.ones(1, 64)}
    save_file(pair, tmp_path / "a.safetensors")
    plain, changed = Model(bundles()), Model(bundles(), loras=((tmp_path / "a.safetensors", 0.5),))
    key = layer.removeprefix("diffusion_model.") + ".weight"
    weights = [model.new("cpu").base.unet.state_dict()[key] for model in (plain, changed)]
    assert torch.allclose(weights[1], weights[0] + 0.5)


@pytest.mark.parametrize(
    "folder, path, found",
    [
        ("/jobs", "a.png", "/jobs/a.png"),
        ("/jobs", "/b/a.png", "/b/a.png"),
        ("/jobs", "s3://b/a.png", "s3://b/a.png"),
        ("s3://b/jobs", "a/a.png", "s3://b/jobs/a/a.png"),
    ],
)
def test_relative_paths_start_from_the_table(folder, path, found):
    assert resolve(folder, path) == found
    assert folder_of("s3://b/jobs/t.csv") == "s3://b/jobs"


def test_words_for_true_and_false():
    assert [cast("x", value, bool) for value in ("true", "0", False)] == [True, False, False]
    with pytest.raises(InputError):
        cast("x", "perhaps", bool)


@pytest.mark.parametrize(
    "given, picture, title",
    [
        (None, "/pictures/A fox (2).png", "A_fox_2-3"),
        (None, "https://a.b/fox.jpg?size=2", "fox-3"),
        (None, "C:\\pictures\\füchse.png", "füchse-3"),
        (None, "...", "row-3"),
        ("shot 1.mp4", "a.png", "shot 1"),
        (7.0, "a.png", "7"),
        ("狐狸", "a.png", "狐狸"),
    ],
)
def test_what_an_output_is_called(given, picture, title):
    assert title_of(given, picture, 3) == title


@pytest.mark.parametrize("given", ["a/b", "..", ".hidden", "a\\b", "C:a", "a\nb", "what?", "x" * 200, "end.", True])
def test_what_an_output_cannot_be_called(given):
    with pytest.raises(InputError, match=r"^name: expected"):
        title_of(given, "a.png", 3)


def test_a_picture_is_known_by_its_bytes(tmp_path):
    picture = tmp_path / "a.png"
    row = {"image": "a.png", "prompt": "p"}
    names = {job(row, folder=str(tmp_path)).name}
    for data in (b"one", b"two"):
        picture.write_bytes(data)
        names.add(job(row, folder=str(tmp_path)).name)
    assert len(names) == 3
    picture.write_bytes(b"one")
    assert job(row, folder=str(tmp_path)).name in names


def test_takes_are_the_seeds_that_follow():
    row = {"image": "a.png", "prompt": "p"}
    seeds = [cascade_job(1, row | {"seed": 7}, "/jobs", "m", take).seed for take in range(3)]
    assert seeds == [7, 8, 9]
    assert cascade_job(1, row, "/jobs", "m", 1).seed == job(row).seed + 1
    assert [takes_of(given) for given in (None, "3", 2.0)] == [1, 3, 2]
    for given in (0, "many", 1001):
        with pytest.raises(InputError, match="takes"):
            takes_of(given)
