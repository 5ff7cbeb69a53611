"""Keys of utterances in lists and shards."""

import tarfile

from test_manifest import add, encoded, folder, tone, write_list  # noqa: F401  # folder is a fixture

from wenet_fusion.data.lists.manifest import scan_manifest


def test_keys_that_cannot_name_files_and_keys_that_stand_twice_are_refused(folder):
    """A control character could rewrite the terminal; tools name files of an utterance by its key."""
    good = {"wav": "a.wav", "txt": "x", "duration": 0.5}
    keys = ["ok", "a\x1b[2J", "a\x7f", "../../a", "a/../b", "/a", "a/b", "a..b"]
    path = write_list(folder, *({"key": key, **good} for key in keys), '{"key": "d", "wav": "a.wav", "wav": "b.wav"}')
    listed = scan_manifest(path, "raw")
    assert [item.key for item in listed.utterances] == ["ok", "a/b", "a..b"]
    assert listed.problems == [
        f"{path}:2: key 'a\\x1b[2J' holds control characters; take them out",
        f"{path}:3: key 'a\\x7f' holds control characters; take them out",
        *(
            f"{path}:{number}: key {key!r} would put a file of that name outside its folder; take out '..' and the "
            "leading '/'"
            for number, key in enumerate(keys[3:6], 4)
        ),
        f"{path}:9: not valid JSON (the key 'wav' stands twice in an object)",
    ]
    with tarfile.open(folder / "s.tar", "w") as tar:
        for key in ("good", "../out"):
            add(tar, f"{key}.txt", b"x")
            add(tar, f"{key}.wav", encoded(tone()))
    listed = scan_manifest(write_list(folder, "s.tar"), "shard")
    assert [item.key for item in listed.utterances] == ["good"]
    assert len(listed.problems) == 1 and "key '../out' would put a file of that name outside" in listed.problems[0]
