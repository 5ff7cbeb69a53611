"""The native step equals the definition of the model, in every batch and for every family of processors."""

import copy
import pickle
import re
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.native import vectors
from support.native.native_streams import fresh, load, noise, steps, stream, written
from support.native.random_fused import Reference, random_fused


@pytest.mark.parametrize("seed", range(40))
def test_a_step_is_the_model_that_the_layers_define(kernels: ModuleType, seed: int) -> None:
    random = random_fused(kernels, seed)
    model, rng = load(kernels, random), np.random.default_rng(seed)
    chunks, cached = [int(size) for size in rng.integers(1, 7, 5)], int(rng.integers(0, 12))
    audio, reference, start = noise(model, seed, 1, sum(chunks)), Reference(kernels, random), 0
    for output, frames in zip(stream(model, audio, chunks, cached), chunks):
        stop = start + frames * model.sizes.frame_samples
        encoded, log_probs = reference.step(audio[0, start:stop].astype(float), cached)
        start, close = stop, 1e-4 * np.ptp(log_probs)
        np.testing.assert_allclose(output.encoded[0], encoded, atol=1e-4 * np.abs(encoded).max())
        np.testing.assert_array_equal(output.top_log_probs[0], -np.sort(-output.top_log_probs[0]))
        own = np.take_along_axis(log_probs, output.top_ids[0], 1)
        np.testing.assert_allclose(output.top_log_probs[0], own, atol=close)
        np.testing.assert_allclose(own[:, -1], np.sort(log_probs, 1)[:, -model.sizes.top], atol=close)
        np.testing.assert_allclose(output.blank_log_probs[0], log_probs[:, 0], atol=close)


@pytest.mark.parametrize(("seed", "frames"), [(12, 70), (22, 40), (5, 20), (7, 16)])
def test_a_wide_step_is_the_model_too(kernels: ModuleType, seed: int, frames: int) -> None:
    """Wide heads and layers, many frames, keys and tokens use parts of the code that small models do not reach.

    With these seeds, no number lies so close to the middle of two integers that float64 rounds it to the other one.
    """
    odd = seed % 4  # widths that are no multiple of a vector
    sizes = {"dim": 160 + 2 * odd, "feed_forward": 1030 + odd, "vocabulary": 300, "top": 1 + odd}
    random = random_fused(kernels, 600 + seed, heads=2, layers=1, mels=7, channels=2, **sizes)
    models = [load(kernels, random, family) for family in kernels.families()]
    reference, cached, size = Reference(kernels, random), 90 - seed, frames * models[0].sizes.frame_samples
    audio = noise(models[0], seed, 1, 8 * frames)
    outputs = [stream(model, audio, [frames] * 8, cached) for model in models]
    for index, of_families in enumerate(zip(*outputs)):
        samples = audio[0, index * size : (index + 1) * size].astype(float)
        encoded, log_probs = reference.step(samples, cached)
        for output in of_families:
            np.testing.assert_allclose(output.encoded[0], encoded, atol=1e-4 * np.abs(encoded).max())
            own = np.take_along_axis(log_probs, output.top_ids[0], 1)
            np.testing.assert_allclose(
                own[:, -1], np.sort(log_probs, 1)[:, -sizes["top"]], atol=1e-4 * np.ptp(log_probs)
            )


def test_the_results_of_every_processor_are_the_same_bits(kernels: ModuleType) -> None:
    found = {}
    for seed in vectors.CHECKSUMS:
        random, audio = vectors.vector(kernels, seed)
        for family in kernels.families():
            done = steps(load(kernels, random, family), audio, vectors.CHUNKS, vectors.CACHED)
            parts = [part for output, state in done for part in (*output, *written(state))]
            found[seed, family] = zlib.crc32(b"".join(part.tobytes() for part in parts))
    assert found == {(seed, family): vectors.CHECKSUMS[seed] for seed, family in found}


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_does_not_depend_on_its_batch(kernels: ModuleType, seed: int) -> None:
    model, rng = load(kernels, random_fused(kernels, 200 + seed)), np.random.default_rng(seed)
    streams, frames, cached = int(rng.integers(2, 9)), int(rng.integers(1, 9)), int(rng.integers(0, 20))
    audio = noise(model, seed, streams, 3 * frames)
    together = stream(model, audio, [frames] * 3, cached)
    for row in range(streams):
        for batch, alone in zip(together, stream(model, audio[row : row + 1], [frames] * 3, cached)):
            for of_all, own in zip(batch, alone):
                assert np.array_equal(of_all[row : row + 1], own)


def test_the_end_of_a_stream_hides_the_samples_after_it(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 301))
    audio = noise(model, 2, 1, 6)
    length = 2 * model.sizes.frame_samples + 1  # a partly valid frame counts
    silent = audio.copy()
    silent[:, length:] = 0
    first, _ = model.step(audio, [length], 8, fresh(model))
    second, _ = model.step(silent, [length], 8, fresh(model))
    assert first.frames.tolist() == [3]
    for one, other in zip(first, second):
        assert np.array_equal(one[:, :3], other[:, :3]) if one.ndim > 1 else np.array_equal(one, other)


def test_threads_share_a_model(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 303))
    audio = noise(model, 4, 4, 12)
    alone = [stream(model, audio[row : row + 1], [4] * 3, 8) for row in range(4)]
    found: dict[int, Any] = {}

    def run(row: int) -> None:
        found[row] = [stream(model, audio[row : row + 1], [4] * 3, 8) for _ in range(5)]

    threads = [threading.Thread(target=run, args=[row]) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(4):
        for outputs in found[row]:
            assert all(np.array_equal(one.encoded, other.encoded) for one, other in zip(outputs, alone[row]))


@pytest.mark.parametrize("best", [130, 200, 255, 256, 299])
def test_the_best_token_is_found_anywhere(kernels: ModuleType, best: int) -> None:
    random = random_fused(kernels, 304, vocabulary=300, top=2)
    names = [each.name for each in kernels.expected_tensors(random.sizes)]
    random.tensors[names.index("ctc.weight")][:] = 0
    random.tensors[names.index("ctc.bias")][:] = [1.0 * (token == 5) + 2.0 * (token == best) for token in range(300)]
    model = load(kernels, random)
    output, _ = model.step(noise(model, 5, 1, 1), [model.sizes.frame_samples], 8, fresh(model))
    assert output.top_ids[0, 0].tolist() == [best, 5]


@pytest.mark.parametrize("seed", range(12))
def test_the_best_tokens_are_those_of_a_stable_sort(kernels: ModuleType, seed: int) -> None:
    """Vocabularies of many sizes, few different logits: of equal tokens, the first ones are among the best."""
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([15, 16, 127, 128, 129, int(rng.integers(130, 2000))]))
    top = int(rng.integers(1, min(20, vocabulary) + 1))
    if seed == 0:  # some of the best tokens are in a group of impossible ones
        vocabulary, top = 140, 20
    random = random_fused(kernels, 320, vocabulary=vocabulary, top=top)
    names = [each.name for each in kernels.expected_tensors(random.sizes)]
    logits = rng.integers(-6, 0 if seed % 2 else 7, vocabulary).astype(np.float32)
    logits[:128] = np.finfo(np.float32).min if seed == 0 else logits[:128]
    logits[-1] = 7  # the last group has fewer tokens than the others
    random.tensors[names.index("ctc.weight")][:] = 0
    random.tensors[names.index("ctc.bias")][:] = logits
    for family in kernels.families():
        model = load(kernels, random, family)
        output, _ = model.step(noise(model, 5, 1, 1), [model.sizes.frame_samples], 8, fresh(model))
        assert output.top_ids[0, 0].tolist() == np.argsort(-logits, kind="stable")[:top].tolist()
        norm = np.log(np.exp(logits.astype(float)).sum())
        np.testing.assert_allclose(output.top_log_probs[0, 0], np.sort(logits)[::-1][:top] - norm, atol=1e-5)
        np.testing.assert_allclose(output.blank_log_probs[0, 0], logits[0] - norm, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": {"heads": 5}}, "dim a multiple of heads"),
        ({"sizes": {"bins": 24}}, "bins that are a power of two"),
        ({"sizes": {"bins": 1}}, "window from 2 to 2 * bins"),
        ({"tensor": ("spectrum", lambda x: 1.001 * x)}, "spectrum is not that of Kaldi's front-end"),
        ({"sizes": {"layers": 0}}, "layers is 0, expected a whole number from 1"),
        ({"sizes": {"feed_forward": 1 << 18}}, "at most 65536 inputs"),
        ({"sizes": {"kernel": 1 << 11}}, "a kernel of at most 1024"),
        ({"sizes": {"layers": 1 << 20}}, "at most 1000 layers are possible"),
        ({"tensor": ("ctc.weight", lambda x: x[:, 1:])}, "ctc.weight is int8"),
        ({"tensor": ("mel", lambda x: x.astype(np.float64))}, "mel is float64"),
        ({"tensor": ("layers.0.qkv.weight", lambda x: np.full_like(x, 65))}, "outside -64 to 64"),
        ({"tensor": ("layers.0.depthwise.bias", lambda x: np.full_like(x, 1 << 30) + 1)}, "outside"),
        ({"tensor": ("distances", lambda x: x * np.nan)}, "not finite"),
        ({"range": (0.0, 0)}, "the range of subsampled is scale 0.0"),
        ({"range": (1.0, 256)}, "zero point 256"),
        ({"drop": True}, "tensors, expected"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(kernels: ModuleType, change: dict[str, Any], message: str) -> None:
    sizes, tensors, ranges = random_fused(kernels, 305, dim=12, heads=3)
    names = [each.name for each in kernels.expected_tensors(sizes)]
    sizes = sizes._replace(**change.get("sizes", {}))
    if "tensor" in change:
        name, changed = change["tensor"]
        tensors[names.index(name)] = changed(tensors[names.index(name)])
    ranges[0] = change.get("range", ranges[0])
    with pytest.raises(ValueError, match=re.escape(message)):
        kernels.FusedModel(sizes, tensors[1:] if "drop" in change else tensors, ranges)


@pytest.mark.parametrize(
    ("samples", "lengths", "cached", "message"),
    [
        ((1, 1), [1], 8, "must be (B, N)"),
        ((1, 0), [0], 8, "must be (B, N)"),
        ((2, 0), [0], 8, "must be (B, N)"),
        ((1, "frame"), [-1], 8, "must be 0 to"),
        ((1, "frame"), [10**9], 8, "must be 0 to"),
        ((1, "frame"), [1], 9, "is not one of 1 streams of this model with 9 cached frames"),
        ((2, "frame"), [1, 1], 8, "is not one of 2 streams of this model with 8 cached frames"),
        ((1, "frame"), [1], -8, "cached is -8, expected a whole number from 0"),
        ((1, "frame"), [1], 8.0, "cached is 8.0, expected a whole number"),
        ((1, "frame"), [1], 2**64 + 8, "expected a whole number from 0"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(
    kernels: ModuleType, samples: tuple[int, Any], lengths: list[int], cached: int, message: str
) -> None:
    model = load(kernels, random_fused(kernels, 306))
    count = model.sizes.frame_samples if samples[1] == "frame" else samples[1]
    with pytest.raises(ValueError, match=re.escape(message)):
        model.step(np.zeros((samples[0], count), np.float32), np.array(lengths), cached, fresh(model))


def test_tensors_may_begin_at_any_byte(kernels: ModuleType) -> None:
    """Archives hold tensors at any byte, and the library reads aligned tensors only."""
    sizes, tensors, ranges = random_fused(kernels, 309)
    shifted = [np.frombuffer(b"x" + each.tobytes(), each.dtype, each.size, 1).reshape(each.shape) for each in tensors]
    assert not all(each.flags.aligned for each in shifted)
    given = kernels.FusedModel.__init__.__globals__["_checked"](sizes, shifted)
    assert all(each.flags.aligned and each.flags.c_contiguous for each in given)
    models = [kernels.FusedModel(sizes, each, ranges) for each in (tensors, shifted)]
    found = [stream(model, noise(model, 1, 1, 4), [4], 8)[0].encoded for model in models]
    assert np.array_equal(*found)


def test_a_copy_keeps_the_weights(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 310))
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises((ValueError, pickle.PicklingError)):
            make(model)
    audio, other = noise(model, 1, 1, 4), copy.copy(model)
    before = stream(model, audio, [4], 8)[0].encoded
    del model
    load(kernels, random_fused(kernels, 311))
    assert np.array_equal(stream(other, audio, [4], 8)[0].encoded, before)


def test_a_thread_may_step_while_the_program_ends(kernels: ModuleType) -> None:
    folder = str(Path(kernels.__file__).parents[1])
    program = f"""
import sys, threading, time
sys.path[:0] = [{folder!r}, {str(Path(__file__).parents[1])!r}, {str(Path(__file__).parents[2] / "runtime")!r}]
import numpy as np, wenet_fusion_kernels as kernels
from support.native.random_fused import random_fused
model = kernels.FusedModel(*random_fused(kernels, 311, dim=256, heads=4, layers=3, feed_forward=4096))
samples = np.zeros((8, 32 * model.sizes.frame_samples), np.float32)
def run():
    while True:
        model.step(samples, [samples.shape[1]] * 8, 8, model.init_state(8, 8))
threading.Thread(target=run, daemon=True).start()
time.sleep(0.3)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_family_of_processors_can_be_chosen(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    random = random_fused(kernels, 307)
    assert load(kernels, random).family == kernels.families()[0]
    monkeypatch.setenv("WENET_FUSION_ISA", "portable")
    kernels.fused_model._name.cache_clear()
    assert load(kernels, random).family == "portable"
    assert kernels.fused_model._name.cache_info().currsize == 1  # other families, such as AMX, were not asked for
    monkeypatch.setenv("WENET_FUSION_ISA", "z80")
    with pytest.raises(ValueError, match=r"'z80' \(WENET_FUSION_ISA\) does not run here; choose one of .*portable"):
        load(kernels, random)


def test_benchmarks_run_the_products_alone(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 312))
    for rows in (1, 3, 130):
        model.run_products(rows)
    for rows in (0, 1.0, 1 << 17):
        with pytest.raises(ValueError, match="expected a whole number from 1 to 65536"):
            model.run_products(rows)
    for family in kernels.families():
        assert kernels.multiply(3, family) == 3 * kernels.multiply(1, family) > 0


def test_the_library_frees_its_models(kernels: ModuleType) -> None:
    random = random_fused(kernels, 308, dim=256, heads=4, feed_forward=1024, layers=3)
    load(kernels, random)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    for _ in range(20):
        load(kernels, random)
    assert resident() - before < 3 * sum(tensor.nbytes for tensor in random.tensors)
