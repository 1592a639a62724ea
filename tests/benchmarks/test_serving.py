"""The load test, briefly, on a server that is there for the other tests too."""

import json
import time

import pytest

pytest.importorskip("tritonclient.grpc", exc_type=ImportError)
pytest.importorskip("onnxruntime")

from benchmarks import serving
from tests.serving.conftest import server  # noqa: F401 - a fixture


@pytest.mark.slow
def test_load_test(server, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("matplotlib")
    files = ["--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")]
    assert serving.main(["--server", server.grpc, "--seconds", "0.3", *files]) == 0
    first, *rest = results = json.loads((tmp_path / "s.json").read_text())["results"]
    assert first["load"].startswith("local") and len(rest) == len(serving.CLIENTS) + len(serving.RATES)
    assert all(r["p50_ms"] <= r["p95_ms"] <= r["p99_ms"] and r["failed"] == 0 and r["rate"] > 0 for r in results)
    for result in rest:  # all requests are in some batch
        count = sum(int(size) * n for size, n in result["batches"].items())
        assert count > 0
    assert (tmp_path / "s.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("\n") == 2 + len(results)


def test_open_loop_waits_from_when_a_request_was_due():
    """One request at a time takes 20 ms and 100 are due a second: the last waits for those before it."""
    import threading

    lock = threading.Lock()

    def ask(photo):
        with lock:
            time.sleep(0.02)
        if photo == b"bad":
            raise ValueError

    result = serving.open_loop(ask, [b"a", b"b", b"bad"], 100, 0.5)
    assert result.failed == 16 and result.p99_ms > 300
