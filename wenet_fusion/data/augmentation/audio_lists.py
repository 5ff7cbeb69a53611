"""Read lists of noise files or room responses, and check all listed files at once."""

from __future__ import annotations

from pathlib import Path

from wenet_fusion_runtime.files import list_problems, printable, read_lines

from wenet_fusion.data.sources import AudioHeader, AudioSource, Utterance, read_headers

_FIRST_CHANNEL = 1  # not the mean of all channels, which no microphone records


def read_audio_list(path: str, option: str) -> list[Utterance]:
    """Read a list of audio files, and the durations of the files.

    A line is a path, or a key and a path as in Kaldi's `wav.scp`. Relative paths start at the list's folder or, if
    there is no such file, at the working directory. Only the first channel is used.

    Args:
        path: the list.
        option: name of the configuration key, for messages.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, or audio is missing or cannot be read; the message has the first 20 lines.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{printable(path)}: there is no such list; {option} names files with a path per line")
    files, problems = [], []
    for number, line in enumerate(read_lines(path, "surrogateescape"), start=1):
        if not line.strip():
            continue
        found = _find(line.strip(), Path(path).parent)
        if found is None:
            problems.append(f"{printable(path)}:{number}: there is no audio file {printable(line.strip())}")
        else:
            files.append((number, Utterance(found, AudioSource(found), "", 0.0, channel=_FIRST_CHANNEL)))
    headers = read_headers([file for _, file in files])
    problems += [
        f"{printable(path)}:{number}: {header}"
        for (number, _), header in zip(files, headers)
        if not isinstance(header, AudioHeader)
    ]
    if not files and not problems:
        problems.append(f"{printable(path)}: lists no files; write a path per line, or leave {option} out")
    if problems:
        raise ValueError(f"{list_problems(problems)}\nmend {option}, or take the lines out")
    return [
        Utterance(file.key, file.source, "", header.seconds, channel=_FIRST_CHANNEL)
        for (_, file), header in zip(files, headers)
        if isinstance(header, AudioHeader)
    ]


def _find(line: str, folder: Path) -> str | None:
    for path in (line, line.split(maxsplit=1)[-1]):
        for place in (folder / path, Path(path)):
            if place.is_file():
                return str(place.absolute())
    return None
