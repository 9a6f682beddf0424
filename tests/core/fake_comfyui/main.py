"""Answers as ComfyUI's server does, for tests of the batch's workers. The graph's one node says what happens."""

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for option in ("listen", "port", "database-url", "output-directory", "user-directory", "temp-directory"):
    parser.add_argument(f"--{option}", required=True)
parser.add_argument("--cpu", action="store_true")
parser.add_argument("--note", type=Path)
parser.add_argument("--refuse-to-start", action="store_true")
options = parser.parse_args()
if options.refuse_to_start:
    raise SystemExit("no models here")
OUTPUT, TEMP = Path(options.output_directory), Path(options.temp_directory) / "temp"
history = {}


def run(inputs):
    """The history's entry of a run."""
    what = inputs["do"]
    if options.note:
        with options.note.open("a") as file:
            file.write(f"{os.getpid()} {inputs['text']}\n")
    if what == "hang":
        time.sleep(600)
    if what == "end":
        os._exit(3)
    if what == "fail":
        said = {"node_id": "1", "node_type": "Save", "exception_message": "out of memory", "traceback": ["line 1\n"]}
        return {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_error", said]]}}
    names = {"none": [], "two": ["a.txt", "b.txt"], "escape": ["../../a.txt"]}.get(what, ["a.txt"])
    image = inputs["image"].removesuffix(" [temp]")
    content = (TEMP / image).read_text() if image != "none" else ""
    for name in names:
        (OUTPUT / name).write_text(json.dumps({**inputs, "image": content}))
    files = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
    outputs = {"1": {"images": files, "animated": [True]}, "2": {"images": [{"filename": "p.png", "type": "temp"}]}}
    return {"outputs": outputs, "status": {"status_str": "success", "messages": []}}


class Handler(BaseHTTPRequestHandler):
    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        key = self.path.rpartition("/")[2]
        self.answer({key: history[key]} if key in history else {})

    def do_POST(self):
        graph = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        if graph["1"]["inputs"]["do"] == "invalid":
            self.answer({"error": {"message": "Prompt outputs failed validation"}, "node_errors": {}}, 400)
            return
        key = str(len(history))
        history[key] = run(graph["1"]["inputs"])
        self.answer({"prompt_id": key, "node_errors": {}})

    def log_message(self, *_):
        pass


ThreadingHTTPServer((options.listen, int(options.port)), Handler).serve_forever()
