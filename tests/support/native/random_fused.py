"""Random fused int8 models of random sizes for the native step, and the same step in numpy.

Shapes: T encoder frames, C cached frames, S keys, D width, H heads, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion.model.frontend.fbank import spectrum_matrix


class Fused(NamedTuple):
    """A model of wenet_fusion_kernels: the arguments of `FusedModel`."""

    sizes: Any
    tensors: list[np.ndarray]
    ranges: list[tuple[float, int]]


def random_fused(kernels: Any, seed: int, **given: int) -> Fused:
    """Return a random model. Sizes that are not given are random: odd widths, padding, more taps than frames.

    All numbers come from integers, so that every computer makes the same ones.
    """
    rng = np.random.default_rng(seed)

    def whole(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    hop, heads = given.get("hop", whole(2, 20)), given.get("heads", whole(1, 3))
    window = max(2, hop + whole(0, 2 * hop))
    vocabulary = given.get("vocabulary", whole(3, 50))
    chosen: dict[str, int] = {
        "window": window,
        "hop": hop,
        "bins": 1 << (window - 1).bit_length() - whole(0, 1),
        "mels": whole(7, 20),
        "channels": whole(1, 19),
        "dim": heads * whole(2, 40),
        "layers": whole(1, 3),
        "heads": heads,
        "feed_forward": whole(3, 150),
        "kernel": whole(1, 9),
        "max_distance": whole(1, 12),
        "vocabulary": vocabulary,
        "top": whole(1, min(20, vocabulary)),
    }
    sizes = kernels.Sizes(**(chosen | given))
    tensors = [_random_tensor(rng, each) for each in kernels.expected_tensors(sizes)]
    tensors[0] = spectrum_matrix(sizes.window, 2 * sizes.bins).float().numpy()  # checked, but not used by the step
    ranges = [(_random_scale(rng), whole(0, 255)) for _ in kernels.expected_ranges(sizes)]
    for index, name in enumerate(kernels.expected_ranges(sizes)):
        if name.endswith(("depthwise", "pointwise_out")):  # these inputs follow a ReLU
            ranges[index] = (ranges[index][0], 0)
    return Fused(sizes, tensors, ranges)


def _random_scale(rng: np.random.Generator) -> float:
    return float(np.float32(rng.integers(100, 400) / 2**14))


def _random_tensor(rng: np.random.Generator, expected: Any) -> np.ndarray:
    if expected.dtype is np.int8:
        return rng.integers(-64, 65, expected.shape).astype(np.int8)
    if expected.dtype is np.int32:
        return rng.integers(-2000, 2000, expected.shape).astype(np.int32)
    values = rng.integers(-1000, 1001, expected.shape) / 1000
    if expected.name.endswith(".scale"):
        values = (1.5 + values) / 2000
    elif expected.name in ("mel", "inverse_std"):
        values = abs(values) + 0.01
    elif expected.name.startswith("conv_") and len(expected.shape) == 4:
        values = values / (3 * expected.shape[1])
    return values.astype(np.float32)


class Reference:
    """The step of one stream in numpy and float64, written from the layers' definitions.

    Args:
        kernels: the module wenet_fusion_kernels, for the names of the tensors.
        model: the model.
    """

    def __init__(self, kernels: Any, model: Fused) -> None:
        n = self.sizes = model.sizes
        self.tensors = dict(zip((each.name for each in kernels.expected_tensors(n)), model.tensors))
        self.ranges = dict(zip(kernels.expected_ranges(n), model.ranges))
        self.samples = np.zeros(n.window - n.hop)
        self.features, self.plane = np.zeros((1, n.mels)), np.zeros((1, n.channels, (n.mels - 3) // 2 + 1))
        self.keys_values = [np.zeros((0, 2 * n.dim)) for _ in range(n.layers)]
        self.past = [np.zeros((n.kernel - 1, n.dim)) for _ in range(n.layers)]

    def step(self, samples: np.ndarray, cached: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the frames (T, D) and the log-probabilities (T, V) of the next chunk of the stream."""
        x = self._linear("subsampled", self._subsampled(self._features(samples)))
        for layer in range(self.sizes.layers):
            name = f"layers.{layer}"
            x = x + self._feed_forward(name, "in", x)
            x = x + self._attention(layer, x, cached)
            x = x + self._convolution(layer, x)
            x = x + self._feed_forward(name, "out", x)
        logits = self._linear("ctc", x)
        top = logits.max(1, keepdims=True)
        return x, logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))

    def _features(self, samples: np.ndarray) -> np.ndarray:
        n = self.sizes
        audio = np.concatenate([self.samples, samples])
        self.samples = audio[len(audio) - (n.window - n.hop) :]
        windows = np.stack([audio[t * n.hop : t * n.hop + n.window] for t in range(len(samples) // n.hop)])
        spectrum = windows @ self.tensors["spectrum"].T.astype(float)
        power = spectrum[:, : n.bins] ** 2 + spectrum[:, n.bins :] ** 2
        mel = np.log(np.maximum(power @ self.tensors["mel"].T, 2.0**-23))
        return (mel - self.tensors["mean"]) * self.tensors["inverse_std"]

    def _subsampled(self, features: np.ndarray) -> np.ndarray:
        planes = np.concatenate([self.features, features])[:, None]
        self.features = features[-1:]
        hidden = self._conv2d("conv_1", planes)
        planes = np.concatenate([self.plane, hidden])
        self.plane = hidden[-1:]
        found = self._conv2d("conv_2", planes)  # (T, channels, bins)
        return found.reshape(len(found), -1)

    def _conv2d(self, name: str, planes: np.ndarray) -> np.ndarray:
        """Return ReLU(convolution) of (frames, channels, bins), kernel 3 x 3, stride 2, no padding."""
        weight, bias = self.tensors[f"{name}.weight"].astype(float), self.tensors[f"{name}.bias"]
        times, bins = (len(planes) - 1) // 2, (planes.shape[2] - 3) // 2 + 1
        found = np.empty((times, len(weight), bins))
        for t in range(times):
            for f in range(bins):
                patch = planes[2 * t : 2 * t + 3, :, 2 * f : 2 * f + 3]  # (3, channels, 3)
                found[t, :, f] = np.einsum("tcf,octf->o", patch, weight) + bias
        return np.maximum(found, 0)

    def _quantised(self, name: str, x: np.ndarray) -> np.ndarray:
        scale, zero_point = self.ranges[name]
        return np.clip(np.round(x / np.float32(scale)) + zero_point, 0, 255) - zero_point

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        weight = self.tensors[f"{name}.weight"].astype(float) * self.tensors[f"{name}.scale"]
        return self._quantised(name, x) * self.ranges[name][0] @ weight + self.tensors[f"{name}.bias"]

    def _feed_forward(self, name: str, side: str, x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(self._linear(f"{name}.expand_{side}", x), 0)
        return self._linear(f"{name}.reduce_{side}", hidden)

    def _attention(self, layer: int, x: np.ndarray, cached: int) -> np.ndarray:
        n = self.sizes
        query, new = np.split(self._linear(f"layers.{layer}.qkv", x), [n.dim], axis=1)
        past = self.keys_values[layer]
        both = np.concatenate([past, new])
        self.keys_values[layer] = both[max(0, len(both) - cached) :]
        keys, values = np.split(both, 2, axis=1)
        distance = np.arange(len(both)) - len(past) - np.arange(len(x))[:, None]
        index = np.clip(distance, -n.max_distance, n.max_distance) + n.max_distance
        width, out = n.dim // n.heads, np.empty_like(query)
        for h in range(n.heads):
            part = slice(h * width, (h + 1) * width)
            scores = query[:, part] @ keys[:, part].T + self.tensors["distances"][index, layer * n.heads + h]
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out[:, part] = weights / weights.sum(1, keepdims=True) @ values[:, part]
        return self._linear(f"layers.{layer}.attended", out)

    def _convolution(self, layer: int, x: np.ndarray) -> np.ndarray:
        name, n = f"layers.{layer}", self.sizes
        both = np.concatenate([self.past[layer], self._linear(f"{name}.pointwise_in", x)])
        self.past[layer] = both[len(both) - (n.kernel - 1) :]
        rows = self._quantised(f"{name}.depthwise", both)  # clips at zero, as a ReLU does
        taps = self.tensors[f"{name}.depthwise.taps"][:, 0].astype(float)
        found = sum(rows[k : k + len(x)] * taps[:, k] for k in range(n.kernel)) + self.tensors[f"{name}.depthwise.bias"]
        scaled = found * self.ranges[f"{name}.depthwise"][0] * self.tensors[f"{name}.depthwise.scale"]
        return self._linear(f"{name}.pointwise_out", np.maximum(scaled, 0))


def recorded_call(model: Fused, samples: np.ndarray, chunks: Sequence[int], cached: int) -> bytes:
    """Return the contents of a file for replay.cpp, without the spectrum, which the library computes itself."""
    _, *tensors = model.tensors
    parts = [np.array([*model.sizes, len(tensors)], np.int32)]
    for tensor in tensors:
        parts += [np.array([tensor.nbytes], np.int32), tensor]
    ranges = np.array(model.ranges, np.float32)
    parts += [
        np.array([ranges.size], np.int32),
        ranges,
        np.array([len(samples), cached, len(chunks), *chunks], np.int32),
    ]
    start = 0
    for frames in chunks:
        stop = start + frames * model.sizes.frame_samples
        parts.append(samples[:, start:stop])
        start = stop
    return b"".join(part.tobytes() for part in parts)
