"""The serving benchmarks: clients measure the right delays, and reports hold the measurements."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.model.tones import ToneRun
from wenet_fusion_runtime import EngineOptions, Recognizer

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.speech import read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.trained_model import load_trained

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytest.importorskip("aiohttp", reason="the server needs aiohttp, an optional extra")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
    ),
    pytest.mark.usefixtures("float32"),
]
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import dynamic_batching  # noqa: E402
import serving  # noqa: E402
from aiohttp import ClientSession, WSMsgType, web  # noqa: E402
from aiohttp.test_utils import TestServer  # noqa: E402
from parts.serving.serving_clients import ClientPlan, Clients  # noqa: E402
from parts.serving.serving_memory import one_long_stream, sessions_in_sequence  # noqa: E402
from parts.serving.serving_sessions import Server, ServerSetup  # noqa: E402

RATE, CHUNK_SECONDS = 8000, 0.16


@pytest.fixture(scope="module")
def files(tone_run: ToneRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tones' model in two precisions."""
    folder, tones = tmp_path_factory.mktemp("serving"), load_trained(tone_run.checkpoint)
    speech = read_speech(tone_run.dev_list, RATE, 10)
    for precision in ("float32", "int8-dynamic"):
        export_model(tones, folder / precision, ExportOptions(precision=precision, max_wer_increase=0.1), speech)
    return {path.name: path for path in folder.iterdir()}


DELAY = 0.1


async def slow_server(request: web.Request) -> web.WebSocketResponse:
    """Answer each chunk DELAY seconds after its last sample; the final answer is the number of samples."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    signal = await socket.receive_json()
    assert (signal["signal"], signal["chunk"], signal["sample_rate"]) == ("start", 4, RATE)
    await socket.send_json({"status": "ok", "type": "server_ready"})
    count, answers = 0, []

    async def say(seconds: float, **record: Any) -> None:
        await asyncio.sleep(seconds)
        await socket.send_json({"status": "ok", **record})

    def result(kind: str, end: float) -> dict[str, Any]:
        return {"type": kind, "end": end, "nbest": json.dumps([{"sentence": str(count)}])}

    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await say(DELAY, **result("final_result", 9.0))
            await say(DELAY, type="speech_end")
            break
        before, count = count, count + len(message.data) // 2
        for chunk in range(int(before / RATE / CHUNK_SECONDS) + 1, int(count / RATE / CHUNK_SECONDS) + 1):
            answers.append(asyncio.create_task(say(DELAY, **result("partial_result", chunk * CHUNK_SECONDS))))
    await asyncio.gather(*answers)
    return socket


def test_clients_measure_from_the_end_of_a_chunk_and_of_the_audio() -> None:
    recordings = [np.zeros(length, np.int16) for length in (2500, 4000)]

    async def run() -> Clients:
        app = web.Application()
        app.router.add_get("/", slow_server)
        async with TestServer(app) as server, ClientSession() as http:
            plan = ClientPlan(
                str(server.make_url("/")), "", RATE, 4, sessions=3, seconds=1.2, spread_seconds=0.1, seed=0
            )
            clients = Clients(plan, http, recordings)
            await clients.run()
            return clients

    found = asyncio.run(run()).found
    assert found.errors == []
    assert {(len(recordings[index]), text) for index, text in found.texts} == {(2500, "2500"), (4000, "4000")}
    assert len(found.delays) > len(found.firsts) > 3 and len(found.texts) > 5
    for delays, expected in (
        (found.delays, DELAY),
        (found.firsts, DELAY),
        (found.lasts, 2 * DELAY),
        (found.lateness, 0),
    ):
        # Measured from the beginning of a chunk, delays would be longer by CHUNK_SECONDS.
        assert expected - 0.001 <= np.median(delays) < expected + CHUNK_SECONDS / 2


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the server did not start: .*no such model file"):
        Server(tmp_path / "none.zip", 1, ServerSetup(EngineOptions()))


def test_the_serving_benchmark_reports_what_it_measured(
    files: dict[str, Path], tone_run: ToneRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(files["float32"]), str(tone_run.dev_list), "--backend", "torch", "onnxruntime", "--processes", "2"]
    assert serving.main(["--quick", *arguments, "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "serving.json").read_text(encoding="utf-8"))
    text = (tmp_path / "serving.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    large_models = ("large encoder", "large encoder, onnxruntime")
    plans = [f"{name}, {count} at once" for name in large_models for count in (1, 4)]
    assert list(record["live"]) == [*plans, "trained model, 4 at once"]
    for live in record["live"].values():
        assert live["wrong"] == 0 and live["errors"] == [] and live["streams_per_step"] >= 1
        assert 0 < live["delays_ms"][1] < 2000 and live["sessions"] >= 1 and live["cores"] > 0
    assert record["live"]["trained model, 4 at once"]["sessions"] >= 4
    assert list(record["throughput"]) == [f"{name}, chunk 8" for name in large_models]
    assert all(value > 0 for rates in record["throughput"].values() for value in rates.values())
    growth = [memory["largest"] / memory["before"] for memory in record["memory"].values()]
    goals = [goal["found"] for goal in record["goals"] if "largest memory" in goal["what"]]
    assert goals == pytest.approx(growth) and all(0.5 < each < 1.5 for each in growth)
    assert {name: 0 < start["load"] < 60 for name, start in record["starts"].items()} == {
        **dict.fromkeys(large_models, True), "trained model": True
    }  # fmt: skip


def test_a_memory_leak_is_detected(files: dict[str, Path]) -> None:
    recognizer, kept = Recognizer(files["float32"]), []

    def recordings(leak: bool) -> Iterator[np.ndarray]:
        while True:
            if leak:
                kept.append(np.ones(1 << 20))  # 8 MiB
            yield np.zeros(RATE, np.int16)

    for measure, amount in ((sessions_in_sequence, 20), (one_long_stream, 20.0)):
        # Compare bytes, not ratios: the ratio depends on what ran in this process before.
        steady, leaking = (measure(recognizer, recordings(leak), amount) for leak in (False, True))
        assert steady.largest - steady.before < 80 * 2**20 < leaking.largest - leaking.before


def test_dynamic_batching_reports_errors_by_batch(files: dict[str, Path], tone_run: ToneRun, tmp_path: Path) -> None:
    arguments = ["--batches", "4", "--num_utterances", "8", "--output", str(tmp_path)]
    assert dynamic_batching.main([str(files["int8-dynamic"]), str(tone_run.dev_list), *arguments]) == 0
    found = json.loads((tmp_path / "dynamic_batching.json").read_text(encoding="utf-8"))["batches"]
    assert list(found) == ["1", "4"] and found["1"]["changed"] == 0 and found["4"]["streams_per_step"] > 2
    assert found["1"]["rate"] < 0.5 and found["1"]["counts"][3] == found["4"]["counts"][3] >= 8
    with pytest.raises(ValueError, match="has precision float32, whose sessions do not influence each other"):
        dynamic_batching.main([str(files["float32"]), str(tone_run.dev_list), *arguments])


def test_impossible_arguments_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "data.list"
    empty.write_text("")
    for arguments, message_ in (
        ([str(empty), "--sessions", "0"], "must be 1 or more"),
        ([str(empty)], "lists no recording"),
    ):
        with pytest.raises(ValueError, match=message_):
            serving.main([str(files["float32"]), *arguments, "--output", str(tmp_path)])
