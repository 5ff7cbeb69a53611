"""Fixtures of all tests: recorded speech where it exists, the default dtype, tiny models and exported files."""

import contextlib
import copy
import dataclasses
import datetime
import ipaddress
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import settings
from support.model.tones import ToneRun, tone_recipe, train_tones, write_corpus
from support.native.native_library import build_kernels, import_kernels
from support.recipes.scripts import run
from support.runtime.fake_model import save_archive
from support.runtime.server_process import ServerProcess
from torch import nn

from wenet_fusion.export.flow import export_model
from wenet_fusion.model.asr_model import AsrModel, FrontendConfig, ModelConfig
from wenet_fusion.model.chunking import FULL_CONTEXT, ChunkingConfig
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.layers.norm import norms
from wenet_fusion.model.layers.positions.position_bias import PositionBias
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.text.tokenizer import TokenizerConfig, build_tokenizer
from wenet_fusion.text.vocabulary_file import format_vocabulary
from wenet_fusion.trained_model import TrainedModel, load_trained
from wenet_fusion.training.training_config import TrainingConfig

# The time of an example depends on the machine and its load.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
# Tiny models are fastest on one thread, and one thread adds in a fixed order.
torch.set_num_threads(1)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TINY_UNITS = ("<blank>", "<unk>", "<sos/eos>", *DIGITS)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """torch's default dtype within the context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Use float64 by default in a whole test module: laws are compared to 1e-10."""
    with default_dtype(torch.float64):
        yield


@pytest.fixture(scope="module")
def float32() -> Iterator[None]:
    """Use float32 by default in a whole test module, whatever earlier modules have set."""
    with default_dtype(torch.float32):
        yield


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package wenet_fusion_kernels, built from this clone."""
    folder = tmp_path_factory.getbasetemp().parent / f"kernels_{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    folder.mkdir(exist_ok=True)
    return import_kernels(build_kernels(folder))


@pytest.fixture
def installed_kernels(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same package, importable as if it were installed, also in new processes."""
    monkeypatch.setitem(sys.modules, "wenet_fusion_kernels", kernels)
    monkeypatch.setenv("PYTHONPATH", str(Path(kernels.__path__[0]).parent), prepend=os.pathsep)
    return kernels


def absent(reason: str, promise: str = "WENET_FUSION_REQUIRE_DATA") -> NoReturn:
    """Skip a test that lacks a requirement; fail it if the variable `promise` is 1, which promises the requirement."""
    if os.environ.get(promise) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def recorded_data() -> Path:
    """Recorded speech: `fsdd/` and others. Without it the test skips, or fails if WENET_FUSION_REQUIRE_DATA is 1."""
    path = Path(os.environ.get("WENET_FUSION_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not path.is_dir():
        reason = f"no recorded speech at {path}; set WENET_FUSION_DATA to a folder that holds fsdd/"
        absent(reason)
    return path


def tiny_recipe(units: Path) -> RecipeConfig:
    """Return a recipe for 8 kHz, ten words, chunks of 4 and 8 frames: its model trains or exports in a second."""
    model = ModelConfig(
        frontend=FrontendConfig(sample_rate=8000, num_mel_bins=40),
        encoder=EncoderConfig(
            dim=16, layers=2, heads=2, feed_forward=32, conv_kernel=4, subsampling_channels=4, max_distance=6
        ),
        decoder=DecoderConfig(layers=1, reverse_layers=1, heads=2, feed_forward=32),
    )
    chunking = ChunkingConfig(sizes=(4, 8), left_context_frames=(16,))
    training = TrainingConfig(
        max_steps=4, max_batch_seconds=20.0, num_workers=0, check_largest_batch=False, chunking=chunking
    )
    tokenizer = TokenizerConfig(units=str(units), split_with_space=True)
    return RecipeConfig(tokenizer=tokenizer, model=model, training=training)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set norms and position biases to values as after training: a fresh norm is nearly the identity and hides bugs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in norms(model):
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.3, 2.0, generator=generator)
        for module in model.modules():
            if isinstance(module, PositionBias):
                module.table.normal_(0, 1, generator=generator)
    return model


def tiny_trained(recipe: RecipeConfig) -> TrainedModel:
    """Return a model of `recipe` with random weights that recognises all words and blank in noise, and no other token.

    A random encoder's outputs lie close together: without a CTC head centred on them one word would always win.
    """
    tokenizer = build_tokenizer(recipe.tokenizer, Path())
    with default_dtype(torch.float32), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomise(AsrModel(recipe.model, len(tokenizer.vocabulary)))
        model.eval()
        with torch.no_grad():
            model.cmvn.mean.fill_(8.0)
            model.cmvn.inverse_std.fill_(0.3)
            noise = 0.1 * torch.randn(1, 4 * recipe.model.frontend.sample_rate)
            frames_TD = model.encode(noise, torch.tensor([noise.size(1)]), FULL_CONTEXT).frames_BTD[0]
            head = model.ctc.linear
            head.weight.normal_().div_(frames_TD.std(0))
            head.bias.copy_(-head.weight @ frames_TD.mean(0))
            head.bias[1:3] = -100.0  # <unk> and <sos/eos>
    return TrainedModel(recipe, tokenizer, model, Path("tiny.pt"))


def changed(trained: TrainedModel, change: Callable[[nn.Module], Any]) -> TrainedModel:
    """Return a copy of a trained model whose network was passed through `change`."""
    model = copy.deepcopy(trained.model)
    with torch.no_grad():
        change(model)
    return dataclasses.replace(trained, model=model)


@pytest.fixture(scope="session")
def tiny_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """units.txt of the ten digits."""
    path = tmp_path_factory.mktemp("lang") / "units.txt"
    path.write_text(format_vocabulary(TINY_UNITS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tiny_units: Path) -> TrainedModel:
    """The tiny model in float32, shared by all tests: copy it before changing it."""
    return tiny_trained(tiny_recipe(tiny_units))


@pytest.fixture(scope="session")
def tone_run(tiny_units: Path, tmp_path_factory: pytest.TempPathFactory) -> ToneRun:
    """A training run that has learned a language of three tones; tests read it and write elsewhere."""
    with default_dtype(torch.float32):
        return train_tones(tone_recipe(tiny_recipe(tiny_units)), tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def tone_model(tone_run: ToneRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file of the model that has learned the tones."""
    path = tmp_path_factory.mktemp("tone_model") / "model.zip"
    with default_dtype(torch.float32):
        export_model(load_trained(tone_run.checkpoint), path)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Lists of 20 recordings of tones to train on and of 4 to validate on."""
    folder = tmp_path_factory.mktemp("corpus")
    return write_corpus(folder / "train", 20, seed=0), write_corpus(folder / "dev", 4, seed=1)


@pytest.fixture
def train(tone_run: ToneRun, tmp_path: Path) -> Callable[..., int]:
    """A function that trains for two steps with overrides; it may be given other lists and another configuration."""

    def start(*overrides, config=tone_run.config, train_list=tone_run.train_list, dev_list=tone_run.dev_list) -> int:
        return run(
            "train",
            "--config",
            config,
            "--train_data",
            train_list,
            "--dev_data",
            dev_list,
            "--device",
            "cpu",
            "--model_dir",
            tmp_path / "exp",
            "training.max_steps=2",
            "training.max_batch_rows=4",
            *overrides,
        )

    return start


@pytest.fixture(scope="session")
def exported(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's exported file."""
    path = tmp_path_factory.mktemp("export") / "nested" / "model.pt"
    with default_dtype(torch.float32):
        export_model(trained, path)
    return path


@pytest.fixture(scope="session")
def fake_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the model that recognises letters by their loudness (`fake_model.py`)."""
    return save_archive(tmp_path_factory.mktemp("fake_archive") / "model.zip")


@pytest.fixture(scope="module")
def server(fake_archive: Path) -> Iterator[ServerProcess]:
    """The real server with that model and no flags, on loopback."""
    with ServerProcess(fake_archive) as started:
        yield started


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a self-signed certificate for 127.0.0.1 and its key."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        absent("cryptography is not installed, so there is no certificate to try")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path
