"""The record of `GET /info`: model, chunk sizes and limits."""

from __future__ import annotations

from typing import Any

from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.settings import ModelTitle


def info_record(service: Service, model: ModelTitle) -> dict[str, Any]:
    """Return the public description of the server and its model."""
    meta, chunks, limits = service.meta, service.chunks, service.limits
    chunk = meta.default_chunk if chunks.chunk is None else chunks.chunk
    return {
        "model": model.name,
        "example": model.example,
        "sample_rate": meta.sample_rate,
        "frame_seconds": meta.frame_seconds,
        "chunks": [
            {"chunk": size, "left": left, "seconds": round(size * meta.frame_seconds, 6)}
            for size, left in meta.chunkings
        ],
        "default": {"chunk": chunk, "left": meta.left(chunk) if chunks.left is None else chunks.left},
        "latency": dict(meta.latency),
        "units": len(meta.vocabulary),
        "mode": service.recognizer.options.mode,
        "precision": meta.precision,
        "limits": {
            "audio_seconds": limits.audio_seconds,
            "idle_seconds": limits.idle_seconds,
            "message_bytes": limits.message_bytes,
            "upload_bytes": limits.upload_bytes,
        },
    }
