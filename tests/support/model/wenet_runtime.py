"""Emulate the calls of WeNet's and sherpa-onnx's C++ runtimes: same calls, same order, same types.

Written from wenet/runtime/core/decoder/{asr_model,torch_asr_model,onnx_asr_model,asr_decoder}.cc and
sherpa-onnx/csrc/{online-wenet-ctc-model,online-recognizer-ctc-impl}.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

INT32_MAX = (1 << 31) - 1


class AsrModel:
    """The part that both runtimes of WeNet share. The arguments are flags of these runtimes."""

    right_context: int
    subsampling_rate: int

    def __init__(self, chunk_size: int = 16, num_left_chunks: int = -1):
        self.chunk_size, self.num_left_chunks = chunk_size, num_left_chunks
        self.offset = 0
        self.cached_feature: list[np.ndarray] = []

    def num_frames_for_chunk(self, start: bool) -> int:
        if self.chunk_size <= 0:
            return INT32_MAX
        if not start:
            return (self.chunk_size - 1) * self.subsampling_rate + self.right_context + 1
        return self.chunk_size * self.subsampling_rate

    def forward_encoder(self, chunk_feats: np.ndarray) -> np.ndarray | None:
        """Return log-probabilities (M, V) of a chunk's frames; None if the runtime skips the chunk."""
        log_probs = None
        if len(self.cached_feature) + len(chunk_feats) > self.right_context + 1:
            log_probs = self.forward_encoder_func(np.stack([*self.cached_feature, *chunk_feats])[None])
            cached = 1 + self.right_context - self.subsampling_rate
            if len(chunk_feats) >= cached:
                self.cached_feature = list(chunk_feats[len(chunk_feats) - cached :])
        return log_probs

    def forward_encoder_func(self, feats: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Return log-probabilities (M, V) of a whole stream of features (T, F)."""
        self.reset()
        found, read, start = [], 0, False
        while True:
            required = self.num_frames_for_chunk(start)
            block = features[read : read + required]
            read += len(block)
            log_probs = self.forward_encoder(block) if len(block) else None
            if log_probs is not None:
                found.append(log_probs)
            start = True
            if len(block) < required:
                return np.concatenate(found)

    def reset(self) -> None:
        raise NotImplementedError


class TorchAsrModel(AsrModel):
    def __init__(self, path: Path, chunk_size: int = 16, num_left_chunks: int = -1):
        super().__init__(chunk_size, num_left_chunks)
        self.model = torch.jit.load(str(path))
        self.model.eval()
        self.subsampling_rate = self._int(self.model.subsampling_rate())
        self.right_context = self._int(self.model.right_context())
        self.sos, self.eos = self._int(self.model.sos_symbol()), self._int(self.model.eos_symbol())
        self.is_bidirectional_decoder = self.model.is_bidirectional_decoder()
        assert isinstance(self.is_bidirectional_decoder, bool)

    @staticmethod
    def _int(value: object) -> int:
        assert type(value) is int
        return value

    def reset(self) -> None:
        self.offset = 0
        self.att_cache = torch.zeros(0, 0, 0, 0)
        self.cnn_cache = torch.zeros(0, 0, 0, 0)
        self.encoder_outs: list[torch.Tensor] = []
        self.cached_feature = []

    @torch.no_grad()
    def forward_encoder_func(self, feats: np.ndarray) -> np.ndarray:
        required_cache_size = self.chunk_size * self.num_left_chunks
        chunk_out, self.att_cache, self.cnn_cache = self.model.forward_encoder_chunk(
            torch.from_numpy(feats), self.offset, required_cache_size, self.att_cache, self.cnn_cache
        )
        self.offset += chunk_out.size(1)
        log_probs = self.model.ctc_activation(chunk_out)[0]
        self.encoder_outs.append(chunk_out)
        assert log_probs.dtype == torch.float32
        return log_probs.numpy()

    @torch.no_grad()
    def attention_rescoring(self, hyps: Sequence[Sequence[int]], reverse_weight: float) -> list[float]:
        hyps_length = torch.tensor([len(hyp) + 1 for hyp in hyps])
        hyps_tensor = torch.zeros(len(hyps), int(hyps_length.max()), dtype=torch.int64)
        for row, hyp in enumerate(hyps):
            hyps_tensor[row, : len(hyp) + 1] = torch.tensor([self.sos, *hyp])
        encoder_out = torch.cat(self.encoder_outs, 1)
        probs, r_probs = self.model.forward_attention_decoder(hyps_tensor, hyps_length, encoder_out, reverse_weight)
        assert probs.size()[:2] == hyps_tensor.size()
        if self.is_bidirectional_decoder and reverse_weight > 0:
            assert r_probs.size()[:2] == hyps_tensor.size()
        return combine(self, probs.numpy(), r_probs.numpy(), hyps, reverse_weight)


class OnnxAsrModel(AsrModel):
    """The onnxruntime model. Its flags must equal those of the export, so they are read from the graph's metadata."""

    def __init__(self, folder: Path, suffix: str = ".onnx"):
        self.encoder = open_graph(folder / f"encoder{suffix}")
        self.ctc, self.rescore = open_graph(folder / f"ctc{suffix}"), open_graph(folder / f"decoder{suffix}")
        known = self.encoder.get_modelmeta().custom_metadata_map
        self.encoder_output_size, self.num_blocks = int(known["output_size"]), int(known["num_blocks"])
        self.head, self.cnn_module_kernel = int(known["head"]), int(known["cnn_module_kernel"])
        self.subsampling_rate, self.right_context = int(known["subsampling_rate"]), int(known["right_context"])
        self.sos, self.eos = int(known["sos_symbol"]), int(known["eos_symbol"])
        self.is_bidirectional_decoder = int(known["is_bidirectional_decoder"])
        super().__init__(int(known["chunk_size"]), int(known["left_chunks"]))

    def reset(self) -> None:
        self.offset = 0
        self.encoder_outs: list[np.ndarray] = []
        self.cached_feature = []
        cached = 0
        if self.num_left_chunks > 0:
            cached = self.offset = self.chunk_size * self.num_left_chunks
        width, size = self.encoder_output_size // self.head * 2, self.encoder_output_size
        self.att_cache = np.zeros((self.num_blocks, self.head, cached, width), np.float32)
        self.cnn_cache = np.zeros((self.num_blocks, 1, size, self.cnn_module_kernel - 1), np.float32)

    def forward_encoder_func(self, feats: np.ndarray) -> np.ndarray:
        required_cache_size = self.chunk_size * self.num_left_chunks
        values = {
            "chunk": feats,
            "offset": np.array(self.offset),
            "required_cache_size": np.array(required_cache_size),
            "att_cache": self.att_cache,
            "cnn_cache": self.cnn_cache,
        }
        if self.num_left_chunks > 0:
            mask = np.ones(required_cache_size + self.chunk_size, bool)
            chunk_idx = self.offset // self.chunk_size - self.num_left_chunks
            if chunk_idx < self.num_left_chunks:
                mask[: (self.num_left_chunks - chunk_idx) * self.chunk_size] = False
            values["att_mask"] = mask[None, None]
        # The runtime passes only inputs whose names it knows; a graph with other names would get too few inputs.
        names = [node.name for node in self.encoder.get_inputs()]
        outputs = self.encoder.run(None, {name: values[name] for name in names})
        self.offset += outputs[0].shape[1]
        self.att_cache, self.cnn_cache = outputs[1], outputs[2]
        self.encoder_outs.append(outputs[0])
        (ctc_input,) = self.ctc.get_inputs()
        log_probs = self.ctc.run(None, {ctc_input.name: outputs[0]})[0]
        assert log_probs.dtype == np.float32 and log_probs.ndim == 3
        return log_probs[0]

    def attention_rescoring(self, hyps: Sequence[Sequence[int]], reverse_weight: float) -> list[float]:
        lengths = np.array([len(hyp) + 1 for hyp in hyps], np.int64)
        padded = np.zeros((len(hyps), lengths.max()), np.int64)
        for row, hyp in enumerate(hyps):
            padded[row, : len(hyp) + 1] = [self.sos, *hyp]
        names = [node.name for node in self.rescore.get_inputs()]
        assert len(names) == 3  # the runtime always passes three values
        values = (padded, lengths, np.concatenate(self.encoder_outs, 1))
        probs, r_probs = self.rescore.run(None, dict(zip(names, values)))
        return combine(self, probs, r_probs, hyps, reverse_weight)


def combine(
    model: TorchAsrModel | OnnxAsrModel,
    probs: np.ndarray,
    r_probs: np.ndarray,
    hyps: Sequence[Sequence[int]],
    reverse_weight: float,
) -> list[float]:
    scores = []
    for row, hyp in enumerate(hyps):
        score, r_score = attention_score(probs[row], hyp, model.eos), 0.0
        if model.is_bidirectional_decoder and reverse_weight > 0:
            r_score = attention_score(r_probs[row], hyp[::-1], model.eos)
        scores.append(score * (1 - reverse_weight) + r_score * reverse_weight)
    return scores


def attention_score(prob: np.ndarray, hyp: Sequence[int], eos: int) -> float:
    return float(sum(prob[j, token] for j, token in enumerate(hyp)) + prob[len(hyp), eos])


class SherpaModel:
    """sherpa-onnx's OnlineWenetCtcModel, with its flags --wenet-ctc-chunk-size and --wenet-ctc-num-left-chunks."""

    def __init__(self, path: Path, chunk_size: int, left_chunks: int):
        self.session = open_graph(path)
        known = self.session.get_modelmeta().custom_metadata_map
        self.head, self.num_blocks = int(known["head"]), int(known["num_blocks"])
        self.output_size, self.cnn_module_kernel = int(known["output_size"]), int(known["cnn_module_kernel"])
        self.right_context = int(known["right_context"])
        self.subsampling_factor, self.vocab_size = int(known["subsampling_factor"]), int(known["vocab_size"])
        self.chunk_size, self.left_chunks = chunk_size, left_chunks
        self.required_cache_size = chunk_size * left_chunks

    @property
    def chunk_length(self) -> int:
        return (self.chunk_size - 1) * self.subsampling_factor + self.right_context + 1

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Return log-probabilities (M, V) of features (T, F). sherpa-onnx omits the last chunk, even a whole one."""
        size = self.output_size // self.head * 2
        attn_cache = np.zeros((self.num_blocks, self.head, self.required_cache_size, size), np.float32)
        conv_cache = np.zeros((self.num_blocks, 1, self.output_size, self.cnn_module_kernel - 1), np.float32)
        offset, processed, found = np.array([self.required_cache_size]), 0, []
        names = [node.name for node in self.session.get_inputs()]
        assert len(names) == 6  # with fewer, sherpa-onnx ends the process
        while processed + self.chunk_length < len(features):
            attn_mask = np.ones((1, 1, self.required_cache_size + self.chunk_size), bool)
            chunk_idx = int(offset[0]) // self.chunk_size - self.left_chunks
            if chunk_idx < self.left_chunks:
                attn_mask[:, :, : self.required_cache_size - chunk_idx * self.chunk_size] = False
            x = features[None, processed : processed + self.chunk_length]
            processed += self.chunk_size * self.subsampling_factor
            values = (x, offset, np.array([self.required_cache_size]), attn_cache, conv_cache, attn_mask)
            log_probs, attn_cache, conv_cache = self.session.run(None, dict(zip(names, values)))
            assert log_probs.shape[2] == self.vocab_size
            offset = offset + log_probs.shape[1]
            found.append(log_probs[0])
        return np.concatenate(found)


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def greedy(log_probs: np.ndarray) -> list[int]:
    """Return the best token of each frame, without repeats and blanks."""
    best = log_probs.argmax(axis=1).tolist()
    return [token for token, before in zip(best, [0, *best]) if token not in (0, before)]
