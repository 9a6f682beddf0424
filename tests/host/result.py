"""What came of running a graph, the same in process and over the server."""

from dataclasses import dataclass, field
from typing import Any

_PREVIEW, _TEXT = 1, 3  # the host's numbers for its binary messages


@dataclass
class Result:
    """What the host said of one run of an API-format graph. Node ids are the graph's own strings."""

    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # by node: what it gave the front end to show
    kept: dict[str, Any] = field(default_factory=dict, repr=False)  # in process only: the values asked for with `keep`
    progress: list[tuple[str, int, int]] = field(default_factory=list)  # over the server: node, value, of how many
    previews: list[bytes] = field(default_factory=list, repr=False)  # over the server: image files, as they came
    texts: list[tuple[str, str]] = field(default_factory=list)  # node, and what is written below it
    error: str | None = None  # the message that a user reads
    error_node: str | None = None
    error_type: str | None = (
        None  # the exception's class, as it is shown; None where the graph was refused before it ran
    )
    raised_in: str | None = None  # file and line of the traceback's last entry
    interrupted: bool = False

    def note(self, event: str, data: dict[str, Any]) -> None:
        """Adds one of the host's messages."""
        if event == "executing" and data["node"] is not None:
            self.executed.append(data["node"])
        elif event == "execution_cached":
            self.cached = list(data["nodes"])
        elif event == "progress":
            self.progress.append((data["node"], data["value"], data["max"]))
        elif event == "execution_error":
            self.error, self.error_node = data["exception_message"].strip(), data["node_id"]
            self.error_type = data["exception_type"]
            self.raised_in = data["traceback"][-1].strip().splitlines()[0]
        elif event == "execution_interrupted":
            self.interrupted, self.error_node = True, data["node_id"]

    def note_bytes(self, message: bytes) -> None:
        """Adds one of the host's binary messages: a preview, or text for a node. All numbers are four bytes long."""
        kind, number, rest = int.from_bytes(message[:4], "big"), int.from_bytes(message[4:8], "big"), message[8:]
        if kind == _PREVIEW:
            self.previews.append(rest)
        elif kind == _TEXT:
            self.texts.append((rest[:number].decode(), rest[number:].decode()))

    def refuse(self, error: dict[str, Any] | None, node_errors: dict[str, Any]) -> "Result":
        """Takes over why the host's validation refused the graph, or some of its outputs."""
        found = [(node, each) for node, entry in node_errors.items() for each in entry["errors"]]
        lines = [f"{node}: {each['message']}: {each['details']}" for node, each in found]
        if error:
            lines.insert(0, f"{error['message']}: {error['details']}")
        self.error = "\n".join(lines)
        self.error_node = found[0][0] if found else None
        return self
