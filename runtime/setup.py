"""Build wenet-fusion-runtime; pyproject.toml has the metadata.

While wenet-fusion-kernels is on no package index, the extra `native` installs it from the folder native/ beside this
file. Set WENET_FUSION_RELEASE=1 to build wheels for other machines: they name the package without a folder. So do
source archives, and what pip builds in a temporary folder.
"""

import os
from pathlib import Path

from setuptools import setup
from setuptools.command.egg_info import egg_info

NATIVE = Path(__file__).resolve().parent / "native"


class LocalExtra(egg_info):
    """Writes the metadata, with the folder of the native step in the requirements of its extra."""

    def run(self) -> None:
        is_temporary = any(part.startswith("pip-") for part in NATIVE.parts)
        is_release = os.environ.get("WENET_FUSION_RELEASE") == "1" or "sdist" in self.distribution.commands
        if (NATIVE / "setup.py").exists() and not is_release and not is_temporary:
            self.distribution.extras_require["native"] = [f"wenet-fusion-kernels @ {NATIVE.as_uri()}"]
        super().run()


setup(cmdclass={"egg_info": LocalExtra})
