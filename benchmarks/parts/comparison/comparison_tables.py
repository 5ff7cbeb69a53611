"""Tables of a comparison: the headline that docs/comparison.md quotes, and the details of the results page."""

from parts.comparison.findings import Compared, Findings, SizeFindings
from parts.comparison.seed_intervals import Condition, relative_difference, seed_interval
from parts.comparison.study import BASELINE, Study

from wenet_fusion.evaluation.report.markdown import markdown_table

HEADLINE: Condition = ("ctc_greedy_search", "16/4")  # greedy search has no weights, whose tuning could favour a model
EMPTY = "–"


def headline_condition(study: Study) -> Condition:
    """Return the condition of the headline: HEADLINE, or another search or chunking if the study lacks one of these."""
    mode = HEADLINE[0] if HEADLINE[0] in study.modes else study.modes[0]
    return mode, HEADLINE[1] if HEADLINE[1] in study.chunkings else study.chunkings[-1]


def headline_table(found: SizeFindings, study: Study) -> str:
    """Return the headline table, with a row per configuration. A dash stands for a missing result."""
    condition = headline_condition(study)
    head = ["configuration", "rate, warm-up", "diverged", "WER, %", "to LayerNorm, %", "WER at equal time, %"]
    head += ["parameters of the encoder", "step", "update"]
    rows = []
    for item in found.configurations:
        folder = item.configuration.folder
        sizes = {} if found.times is None else found.times["encoder_parameters"]
        rows.append(
            [
                item.configuration.name,
                _choice(item),
                f"{item.diverged} of {len(item.grid)}" if item.grid else EMPTY,
                _rate(item.equal_updates, condition),
                _difference(item, found.baseline, condition),
                _rate(item.equal_time, condition),
                f"{sizes[folder] / 1e6:.2f} M" if folder in sizes else EMPTY,
                _step_ratio(found, folder),
                _ratio({} if found.times is None else found.times["updates"], folder),
            ]
        )
    return markdown_table(head, rows)


def _choice(item: Findings) -> str:
    if item.grid_state.choice is not None:
        edge = " (edge)" if item.grid_state.choice.at_edge else ""
        return f"{item.grid_state.choice.rate:g}, {item.grid_state.choice.warmup}{edge}"
    if not item.grid_state.missing:
        return "all runs diverged"
    return f"{len(item.grid)} of {len(item.grid) + len(item.grid_state.missing)} runs"


def _rate(compared: Compared | None, condition: Condition) -> str:
    if compared is None or condition not in compared.errors:
        return EMPTY
    seeds = len(compared.runs)
    short = "" if seeds == compared.wanted else f", {seeds} of {compared.wanted} seeds"
    return seed_interval(compared.errors[condition]).text() + short


def _difference(item: Findings, baseline: Findings, condition: Condition) -> str:
    mine, theirs = item.equal_updates, baseline.equal_updates
    if item.configuration == BASELINE or mine is None or theirs is None:
        return EMPTY
    if condition not in mine.errors or condition not in theirs.errors:
        return EMPTY
    rate = relative_difference(mine.errors[condition], theirs.errors[condition])
    low, high = (100 * bound for bound in rate.interval)
    return f"{100 * rate.mean:+.0f} ({low:+.0f} to {high:+.0f})"


def _ratio(times: dict[str, dict[str, float]], folder: str) -> str:
    if folder not in times or BASELINE.folder not in times:
        return EMPTY
    return f"{times[folder]['median'] / times[BASELINE.folder]['median']:.2f}"


def _step_ratio(found: SizeFindings, folder: str) -> str:
    if found.times is None:
        return EMPTY
    if folder in found.times["not_exported"]:
        return "not exported"
    return " / ".join(_ratio(times, folder) for times in found.times["steps"].values())


def grid_table(found: SizeFindings) -> str:
    """Return the dev errors of the grid: a row per configuration and warm-up, a column per learning rate."""
    rates = sorted({rate for item in found.configurations for rate in item.grid_state.rates})
    rows = []
    for item in found.configurations:
        runs = {(run.warmup, run.rate): outcome for run, outcome in item.grid.items()}
        for warmup in sorted({run.warmup for run in item.grid}):
            cells = []
            for rate in rates:
                outcome = runs.get((warmup, rate))
                if outcome is None:
                    cells.append("")
                elif outcome.status == "diverged":
                    cells.append(f"diverged: {outcome.reason}")
                else:
                    cells.append(f"{100 * (outcome.dev_wer or 0.0):.2f} ({outcome.dev_loss:.2f})")
            rows.append([f"{item.configuration.name}, {warmup}", *cells])
    return markdown_table(["dev WER, % (dev loss); configuration, warm-up", *(f"{rate:g}" for rate in rates)], rows)


def error_tables(found: SizeFindings, at_equal_time: bool) -> str:
    """Return the test errors: a row per configuration, a column per search mode and chunking."""
    shown = []
    for item in found.configurations:
        compared = item.equal_time if at_equal_time else item.equal_updates
        if compared is not None and compared.errors:
            shown.append((item.configuration.name, compared))
    if not shown:
        return "No run has finished yet."
    conditions = list(shown[0][1].errors)
    head = ["WER, %", "seeds", "updates", *(f"{mode} {chunking}" for mode, chunking in conditions)]
    rows = [
        [name, str(len(compared.runs)), str(compared.updates)]
        + [seed_interval(compared.errors[condition]).text() for condition in conditions]
        for name, compared in shown
    ]
    return markdown_table(head, rows)


def training_table(found: SizeFindings) -> str:
    """Return gradient norms and training times of each configuration's best run."""
    head = ["best run so far", "gradient norm, median", "gradient norm, 99 %", "updates clipped"]
    head += ["seconds of training", "processor seconds"]
    rows = []
    for item in found.configurations:
        if item.shown is None:
            continue
        run, outcome = item.shown
        gradients = outcome.course.gradients
        shown = [EMPTY] * 3
        if gradients is not None:
            shown = [f"{gradients.median:.2f}", f"{gradients.percentile_99:.2f}", f"{100 * gradients.clipped:.0f} %"]
        seconds = [f"{outcome.training_seconds:.0f}", f"{outcome.processor_seconds:.0f}"]
        rows.append([f"{item.configuration.name}, {run.rate:g}, {run.warmup}", *shown, *seconds])
    return markdown_table(head, rows)


def step_table(found: SizeFindings) -> str:
    """Return the median times of an update and of a step of the exported file, in milliseconds."""
    if found.times is None:
        return "Not measured yet."
    steps = found.times["steps"]
    rows = []
    for item in found.configurations:
        folder = item.configuration.folder
        cells = [f"{times[folder]['median']:.2f}" if folder in times else "not exported" for times in steps.values()]
        rows.append([item.configuration.name, *cells, f"{found.times['updates'][folder]['median']:.0f}"])
    return markdown_table(["ms, median", *(f"step {label}" for label in steps), "update"], rows)
