import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "wenet_fusion/__init__.py").read_text(encoding="utf-8"))[1]
readme = here / "README.md"

setup(
    name="wenet-fusion",
    version=version,
    description="Streaming speech recognition with the FusionFormer: training, evaluation and export",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["wenet_fusion", "wenet_fusion.*"]),
    package_data={"wenet_fusion.report": ["page.html"]},
    python_requires=">=3.10",
    install_requires=[
        "wenet-fusion-runtime",
        "jinja2>=3.1",
        "numpy>=1.25",
        "pyyaml>=6.0",
        "rapidfuzz>=3.0",
        "sentencepiece>=0.2",
        "soundfile>=0.12",
        "soxr>=0.5",
        "tensorboard>=2.14",
        "torch>=2.11",
        "torchaudio>=2.11",
        "tqdm>=4.65",
    ],
    extras_require={
        "onnx": ["onnx>=1.16", "onnxruntime>=1.20"],
        "test": [
            "aiohttp>=3.14", "cryptography>=42", "hypothesis>=6.100", "onnx>=1.16", "onnxruntime>=1.20",
            "playwright>=1.49", "prometheus-client>=0.20", "psutil>=5.9", "pyte>=0.8", "pytest>=8.0",
            "pytest-timeout>=2.3", "sherpa-onnx>=2.0", "sounddevice>=0.4.6",
        ],
        "recipes": ["espeakng-loader>=0.2", "matplotlib>=3.8"],
    },
    entry_points={"console_scripts": ["wenet-fusion=wenet_fusion.cli:run"]},
)
