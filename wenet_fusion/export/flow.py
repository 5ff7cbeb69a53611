"""The export flow, which all targets share: build, write beside the destination, load, verify, rename."""

from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.model.conformance import ModelFault

from wenet_fusion.export.emission_delay import measure_emission_delay
from wenet_fusion.export.speech import Speech, calibration_split, check_limit, measure_errors
from wenet_fusion.export.target import Exported, ExportOptions, Findings, Target
from wenet_fusion.export.targets.onnx_archive import OnnxArchive
from wenet_fusion.export.targets.sherpa_onnx import SherpaOnnx
from wenet_fusion.export.targets.torch_program import TorchProgram
from wenet_fusion.export.targets.torchscript import TorchScript
from wenet_fusion.export.targets.wenet_onnx import WenetOnnx
from wenet_fusion.export.verification import tolerance, verify
from wenet_fusion.model.layers.activation import activation_cost
from wenet_fusion.model.operators import matching
from wenet_fusion.trained_model import TrainedModel

TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (TorchScript, OnnxArchive, WenetOnnx, SherpaOnnx, TorchProgram)
}
MAX_VERIFIED = 8  # number of utterances to compare frame by frame


def export_model(
    trained: TrainedModel,
    destination: Path,
    options: ExportOptions = ExportOptions(),
    speech: Sequence[Speech] = (),
) -> Exported:
    """Export a trained model, and keep the files only if verification passes: float files must equal the checkpoint,
    and int8 files may add few errors.

    The files are written beside the destination, loaded again and run as their runtime runs them, on generated audio
    and on `speech`. If meta.json is to hold the results of this verification, the files are written again with the
    results, and verified again. At the end, the files replace the destination.

    Args:
        trained: the checkpoint.
        destination: the file to write; a folder for "wenet-onnx".
        options: target, precision, chunking.
        speech: utterances to verify on. "int8" is calibrated on every second one, and its error rate is measured on the
            others; the error rate of "int8-dynamic" is measured on all. If there are word timestamps, the emission
            delay is measured.

    Raises:
        ImportError: the target needs a package that is not installed.
        ValueError: the options do not fit the target or the model; a norm or a costly activation is left; the files
            differ from the checkpoint by more than the precision explains; or int8 adds too many errors. The
            destination then stays unchanged.
    """
    target = _target(trained, destination, options, speech)
    target.check()
    calibrating, _ = calibration_split(speech, options.precision)
    target.build([utterance.samples for utterance in calibrating])
    with target.replacing() as part:
        try:
            for precision in target.stages():
                target.write(part, precision, None)
                found = _verify(target, part, precision, speech, options)
            if target.holds_findings:
                target.write(part, options.precision, found)
                _verify_again(target, part, found)
        except ModelFault as error:
            raise ValueError(f"{destination} is not kept: {str(error).removeprefix(f'{part}: ')}") from error
        target.finish(part)
    cost = activation_cost(trained.config.model.encoder.activation, trained.model.encoder)
    remarks = [*target.remarks(), cost] if cost else target.remarks()
    return Exported(target.files(), target.metadata(found), found, target.command(), tuple(remarks))


def _target(trained: TrainedModel, destination: Path, options: ExportOptions, speech: Sequence[Speech]) -> Target:
    """Return the target that the options name. Raises ValueError if the options do not fit together."""
    if options.target not in TARGETS:
        raise ValueError(f"--format {options.target} is unknown; choose from {', '.join(TARGETS)}")
    chosen = TARGETS[options.target]
    if options.precision not in chosen.precisions:
        raise ValueError(
            f"--format {chosen.name} has no precision {options.precision}; choose from {', '.join(chosen.precisions)}"
        )
    check_limit(options.max_wer_increase)
    if any(utterance.timestamps for utterance in speech) and not chosen.for_our_runtime:
        known = " and ".join(name for name, target in TARGETS.items() if target.for_our_runtime)
        raise ValueError(f"--ctm is for {known}: a {chosen.name} file has no place for word timestamps")
    if destination.exists() and trained.path.exists() and destination.samefile(trained.path):
        raise ValueError(f"{destination} is the checkpoint itself: give another name for the export")
    if options.chunking is not None and not chosen.one_chunking:
        known = " and ".join(name for name, target in TARGETS.items() if target.one_chunking)
        raise ValueError(f"--chunking is for {known}: leave it out for {chosen.name}")
    return chosen(trained, destination, options)


def _verify(target: Target, part: Path, precision: str, speech: Sequence[Speech], options: ExportOptions) -> Findings:
    """Load the files at `part` and compare them with the checkpoint.

    Raises:
        ValueError: a norm or a costly activation is left, the files differ, or int8 increases the word error rate by
            more than `options.max_wer_increase`.
    """
    reference, exported = target.load(part, precision, speech)
    counts = target.operators(part, precision, exported)
    left = matching(counts, target.norms + target.costly_activations)
    if left and target.trained.config.model.encoder.fusible:
        raise ValueError(
            f"{target.destination} is not kept: its step still runs {left}; every norm must be in a LinearNorm or "
            "ConvNorm, and every activation must be ReLU"
        )
    samples = [utterance.samples for utterance in speech[:MAX_VERIFIED]]
    verification = verify(reference, exported, samples, tolerance(precision), target.batches)
    verification.raise_if_different(target.destination)
    errors = None
    is_int8 = precision.startswith("int8")
    if speech and (is_int8 or options.measure_errors):
        _, judging = calibration_split(speech, precision)
        errors = measure_errors(reference, exported, judging, target.decoding)
        if is_int8:
            errors.raise_above(options.max_wer_increase, target.destination, _remedy(target))
    has_timestamps = any(utterance.timestamps for utterance in speech)
    delay = measure_emission_delay(exported, speech) if has_timestamps else None
    return Findings(verification, counts, sum(matching(counts, target.norms).values()), errors, has_timestamps, delay)


def _remedy(target: Target) -> str:
    """Return what to do if an int8 file of this target adds too many errors."""
    exact = " or ".join(name for name in target.precisions if not name.startswith("int8"))
    calibration = ", or give more or other speech to calibrate on" if target.precision == "int8" else ""
    return f"export {exact}, which does not change the text{calibration}"


def _verify_again(target: Target, part: Path, found: Findings) -> None:
    """Verify, on generated audio, files that were rewritten to contain the findings. Raises ValueError."""
    reference, exported = target.load(part, target.precision, ())
    if not target.reads_back(exported, found):
        raise ValueError(
            f"{target.destination} is not kept: its meta.json is not what was written; check the disk and export again"
        )
    again = verify(reference, exported, (), tolerance(target.precision), target.batches)
    again.raise_if_different(target.destination)
