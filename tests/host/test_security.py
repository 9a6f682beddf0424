"""SECURITY.md's promises about ComfyUI."""

import socket

from . import graphs


def test_a_graph_reaches_for_no_network(host, monkeypatch):
    reached = []

    def refuse(*arguments):
        reached.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    result = host.run(graphs.full_cascade())
    assert result.error is None, result.error
    assert not reached
