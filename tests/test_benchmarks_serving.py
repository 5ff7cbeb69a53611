"""The serving benchmarks: clients that measure what they say, and reports that hold what was measured."""

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tones import ToneRun

from wenet_fusion.export.acceptance import ExportOptions
from wenet_fusion.export.speech import read_speech
from wenet_fusion.export.torchscript import export_torchscript
from wenet_fusion.recipe import load_trained

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
), pytest.mark.usefixtures("float32")]
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import dynamic_batching  # noqa: E402
import serving  # noqa: E402
from serving_clients import Clients, Plan  # noqa: E402
from serving_measures import Memory  # noqa: E402
from serving_wire import AUDIO, END, HEADER, OPEN, UPDATE, PipeTransport, message  # noqa: E402

RATE, CHUNK_SECONDS = 8000, 0.16


@pytest.fixture(scope="module")
def files(tone_run: ToneRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tones' model in two precisions."""
    folder, tones = tmp_path_factory.mktemp("serving"), load_trained(tone_run.checkpoint)
    speech = read_speech(tone_run.dev_list, RATE, 10)
    for precision in ("float32", "int8-dynamic"):
        export_torchscript(tones, folder / precision, speech, ExportOptions(precision, max_wer_increase=0.1))
    return {path.name: path for path in folder.iterdir()}


class SlowServer(threading.Thread):
    """Says of each chunk of each session, `delay` seconds after its last sample came, how many samples it has."""

    def __init__(self, end: socket.socket, delay: float) -> None:
        super().__init__(daemon=True)
        self._socket, self._delay = end, delay
        self.start()

    def run(self) -> None:
        counts: dict[int, int] = {}
        with self._socket.makefile("rb") as file:
            while header := file.read(HEADER.size):
                number, kind, size = HEADER.unpack(header)
                content = file.read(size)
                if kind == OPEN:
                    counts[number], self.chunk = 0, json.loads(content)["chunk"]
                elif kind == AUDIO:
                    before, counts[number] = counts[number], counts[number] + size // 2
                    chunks = range(int(before / RATE / CHUNK_SECONDS) + 1, int(counts[number] / RATE / CHUNK_SECONDS) + 1)
                    for chunk in chunks:
                        threading.Timer(self._delay, self._say, (number, "", chunk * CHUNK_SECONDS, False)).start()
                elif kind == END:
                    threading.Timer(2 * self._delay, self._say, (number, str(counts[number]), 9.0, True)).start()

    def _say(self, number: int, final: str, end: float, is_last: bool) -> None:
        heard = {"finals": [final], "partial": "", "end_seconds": end, "is_last": is_last, "error": ""}
        self._socket.sendall(message(number, UPDATE, json.dumps(heard).encode()))


def test_clients_measure_from_the_end_of_a_chunk_and_of_the_audio() -> None:
    ours, theirs = socket.socketpair()
    server = SlowServer(ours, 0.1)
    recordings = [np.zeros(length, np.int16) for length in (2500, 4000)]
    plan = Plan(0, "", RATE, 4, sessions=3, seconds=1.2, spread_seconds=0.1, seed=0)

    async def run() -> Clients:
        transport = await PipeTransport.open(theirs.detach())
        clients = Clients(plan, transport, recordings)
        await clients.run()
        await transport.close()
        return clients

    found = asyncio.run(run()).found
    assert server.chunk == 4 and found.errors == []
    assert {(len(recordings[index]), text) for index, text in found.texts} == {(2500, "2500"), (4000, "4000")}
    assert len(found.delays) > len(found.firsts) > 3 and len(found.texts) > 5
    for delays, expected in ((found.delays, 0.1), (found.firsts, 0.1), (found.lasts, 0.2), (found.lateness, 0.0)):
        assert expected - 0.001 <= np.median(delays) < expected + 0.05


def test_the_serving_benchmark_reports_what_it_measured(
    files: dict[str, Path], tone_run: ToneRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serving.main(["--quick", str(files["float32"]), str(tone_run.dev_list), "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "serving.json").read_text(encoding="utf-8"))
    text = (tmp_path / "serving.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    assert list(record["live"]) == ["large encoder, 1 at once", "large encoder, 4 at once", "trained model, 4 at once"]
    for live in record["live"].values():
        assert live["wrong"] == 0 and live["errors"] == [] and live["statistics"]["sessions"] == 0
        assert 0 < live["delays_ms"][1] < 2000 and live["sessions"] >= 1
    assert record["live"]["trained model, 4 at once"]["sessions"] >= 4
    (rates,) = record["throughput"].values()
    assert all(value > 1 for value in rates.values())
    growth = [memory["largest"] / memory["before"] for memory in record["memory"].values()]
    goals = [goal["found"] for goal in record["goals"] if "largest memory" in goal["what"]]
    assert goals == pytest.approx(growth) and all(0.5 < each < 1.5 for each in growth)
    assert {name: 0 < start["load"] < 60 for name, start in record["starts"].items()} == {
        "large encoder": True, "trained model": True
    }  # fmt: skip


def test_a_growing_process_is_seen() -> None:
    assert Memory(100, 104, 108).growth == 1.08


def test_dynamic_batching_reports_errors_by_batch(files: dict[str, Path], tone_run: ToneRun, tmp_path: Path) -> None:
    arguments = ["--batches", "4", "--num_utterances", "8", "--output", str(tmp_path)]
    assert dynamic_batching.main([str(files["int8-dynamic"]), str(tone_run.dev_list), *arguments]) == 0
    found = json.loads((tmp_path / "dynamic_batching.json").read_text(encoding="utf-8"))["batches"]
    assert list(found) == ["1", "4"] and found["1"]["changed"] == 0 and found["4"]["streams_per_step"] > 2
    assert found["1"]["rate"] < 0.5 and found["1"]["counts"][3] == found["4"]["counts"][3] >= 8
    with pytest.raises(ValueError, match="has precision float32, whose sessions do not influence each other"):
        dynamic_batching.main([str(files["float32"]), str(tone_run.dev_list), *arguments])


def test_what_cannot_be_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "data.list"
    empty.write_text("")
    for arguments, message_ in (
        ([str(empty), "--sessions", "0"], "must be 1 or more"), ([str(empty)], "lists no recording"),
    ):
        with pytest.raises(ValueError, match=message_):
            serving.main([str(files["float32"]), *arguments, "--output", str(tmp_path)])
