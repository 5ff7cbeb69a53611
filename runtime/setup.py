from pathlib import Path

from setuptools import setup

setup(
    name="wenet-fusion-runtime",
    version="0.1.0",
    description="Streaming speech recognition with a model exported by wenet_fusion",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=["wenet_fusion_runtime", "wenet_fusion_runtime.commands", "wenet_fusion_runtime.serving"],
    package_data={"wenet_fusion_runtime": ["web/*", "web/**/*"]},
    python_requires=">=3.10",
    install_requires=["numpy>=1.24", "soundfile>=0.12", "soxr>=0.5"],
    extras_require={
        "torch": ["torch>=2.11"], "onnx": ["onnxruntime>=1.20"], "microphone": ["sounddevice>=0.4.6"], "lm": ["kenlm>=0.3"],
        "server": ["aiohttp>=3.14", "prometheus-client>=0.20"],
    },
    entry_points={"console_scripts": ["wenet-fusion-runtime=wenet_fusion_runtime.cli:main"]},
)
