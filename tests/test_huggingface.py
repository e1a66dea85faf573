"""Repositories of the hub as checkpoints, with the real client and a server on 127.0.0.1."""

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.hub_server import HubServer, Repository, environment, hub_serving, use

import vidact
from vidact import cli, hub
from vidact.features.names import build_network
from vidact.hub import huggingface
from vidact.hub.huggingface import Address, choose, parse
from vidact.models.weights import initialise_from, is_vidact_file, read, save
from vidact.stream.model import load_model
from vidact.text.addresses import without_secrets
from vidact.training.config import checkpoint_path
from vidact.video.numbered import write_numbered_video

NAME = "somebody/wave"
ADDRESS = f"hf://{NAME}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository, whose weights are those of ``network_file``."""
    with hub_serving() as started:
        use(started, tmp_path / "hf", monkeypatch)
        started.repositories[NAME] = Repository()
        yield started


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recogniser that streams, in a vidact file."""
    torch.manual_seed(0)
    network = vidact.models.tsn_resnet_tiny(3, weights=None)
    sampling = {"name": "SegmentSampler", "arguments": {"num_segments": 3, "segment_length": 1}}
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    return save(network, path, {"classes": ["bow", "jump", "wave"], "sampling": sampling, "multi_label": False})


@pytest.fixture
def commit(server: HubServer, network_file: Path) -> str:
    """The commit of the repository on the hub."""
    return server.repositories[NAME].commit({"model.safetensors": network_file.read_bytes(), "README.md": b"# wave"})


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and ".locks" not in path.parts]


# ---------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://a/b", Address("a/b")),
        ("hf://models/a/b", Address("a/b")),
        ("hf://a/b.c-d_e/x/y.ckpt", Address("a/b.c-d_e", None, "x/y.ckpt")),
        ("hf://a/b@v1.0/m.safetensors", Address("a/b", "v1.0", "m.safetensors")),
        ("hf://a/b@feature%2Fx/m.ckpt", Address("a/b", "feature/x", "m.ckpt")),
        ("hf://a/b@refs/pr/7/m.ckpt", Address("a/b", "refs/pr/7", "m.ckpt")),
        ("hf://a/b@refs/pr/7", Address("a/b", "refs/pr/7")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    """Also as a path, whose two slashes become one; and the text of an address is an address."""
    assert parse(text) == parse(Path(text)) == parse(str(address)) == address
    assert hub.is_address(text)
    assert hub.is_address(Path(text))
    assert hub.text_of(Path(text)) == str(address)
    assert without_secrets(f"see {address} here") == f"see {address} here"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://datasets/a/b", "is a data set of the hub; a checkpoint is in a model's repository: hf://owner/name"),
        ("hf://spaces/a/b/app.py", "is a space of the hub"),
        ("hf://a", "is no address of a repository of the hub; write hf://owner/name"),
        ("hf:a", "is no address"),
        ("hf://", "is no address"),
        ("hf://user:secret@a/b", "is no address"),
        ("hf://a/..", "is no address"),
        ("hf://a--b/c", "is no address"),
        ("hf://a/b.git", "is no address of a repository of the hub; write hf://owner/name"),
        (f"hf://a/{'b' * 97}", "is no address"),
        ("hf://a/b/../../x.ckpt", "names the file '../../x.ckpt', which leads out of the repository"),
        ("hf://a/b//etc/passwd", "names the file '/etc/passwd', which leads out"),
        ("hf://a/b/x\\..\\y.ckpt", "which leads out"),
        ("hf://a/b/C:x.ckpt", "which leads out"),
        ("hf://a/b@..%2F..%2Fx/m.ckpt", "has the revision '../../x', which leads out"),
        ("hf://a/b@main/", None),
    ],
)
def test_what_is_no_address(text: str, words: str | None) -> None:
    if words is None:
        assert parse(text) == Address("a/b", "main")
        return
    with pytest.raises(ValueError, match=words.replace("(", r"\(")) as error:
        parse(text)
    assert "secret" not in without_secrets(str(error.value))


# ---------------------------------------------------------------------------------------------- downloads


def test_a_repository_is_a_checkpoint_everywhere(
    server: HubServer,
    commit: str,
    network_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network = vidact.load(network_file)
    write_numbered_video(tmp_path / "clip.mp4", 30)
    cli.main(["predict", "--checkpoint", ADDRESS, "clip.mp4", "--device=cpu", "--top=3"])
    output = capsys.readouterr()
    assert f"{ADDRESS}/model.safetensors: downloading " in output.err
    assert f"from {server.address} to {tmp_path}/hf/hub (licence apache-2.0)" in output.err
    assert {line.split("%  ")[1] for line in output.out.splitlines()[1:]} == {"bow", "jump", "wave"}
    assert vidact.load(ADDRESS).record == network.record
    assert load_model(Path(ADDRESS)).classes == ["bow", "jump", "wave"]
    for key, tensor in read(f"{ADDRESS}@{commit}/model.safetensors")[0].items():
        assert torch.equal(tensor, network.state_dict()[key])
    assert build_network(ADDRESS).num_classes == 3
    assert initialise_from(vidact.models.tsn_resnet_tiny(3, weights=None), ADDRESS).reinitialised == []
    started = vidact.models.tsn_resnet_tiny(3, weights=f"{ADDRESS}/model.safetensors")
    assert torch.equal(started.state_dict()["fc.weight"], network.state_dict()["fc.weight"])
    assert checkpoint_path(tmp_path, ADDRESS, may_be_published=True) == Path(ADDRESS)
    assert not is_vidact_file(ADDRESS)
    cli.main(["networks", "--fetch", ADDRESS])
    assert capsys.readouterr().out.strip().endswith(f"/snapshots/{commit}/model.safetensors")
    assert len(server.downloads()) == 1
    assert not any(token for _, _, token in server.requests)


def test_a_branch_with_a_slash(server: HubServer, commit: str, network_file: Path) -> None:
    server.repositories[NAME].commit({"other.safetensors": network_file.read_bytes()}, "feature/x")
    assert hub.local(f"{ADDRESS}@feature%2Fx").name == "other.safetensors"
    with pytest.raises(OSError, match=r"somebody/wave has no revision feature; a slash in a revision is written %2F"):
        hub.local(f"{ADDRESS}@feature/x/other.safetensors")
    with pytest.raises(OSError, match=r"somebody/wave has no revision v9$"):
        hub.local(f"{ADDRESS}@v9")


def test_a_new_commit_is_fetched_and_an_old_one_stays(server: HubServer, commit: str, network_file: Path) -> None:
    old = hub.local(ADDRESS)
    server.repositories[NAME].commit({"model.safetensors": network_file.read_bytes(), "x.md": b"new"})
    assert hub.local(ADDRESS) != old
    assert hub.local(f"{ADDRESS}@{commit}") == old
    assert len(server.downloads()) == 1  # the same bytes


def test_a_branch_at_a_commit_of_the_cache_is_there_offline(
    server: HubServer, commit: str, network_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file was downloaded by its commit, so that nothing is downloaded for the branch."""
    old = hub.local(f"{ADDRESS}@{commit}")
    assert hub.local(ADDRESS) == old
    new = server.repositories[NAME].commit({"model.safetensors": network_file.read_bytes(), "x.md": b"new"})
    newer = hub.local(f"{ADDRESS}@{new}")
    assert hub.local(ADDRESS) == newer != old
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    assert hub.local(ADDRESS) == newer


FILES = {
    "none": ([], FileNotFoundError, "a/b has no weights; its files: README.md"),
    "several": (
        ["x.safetensors", "y.safetensors"],
        ValueError,
        "hf://a/b has several files of weights: x.safetensors, y.safetensors. Name one: hf://a/b/x.safetensors",
    ),
    "parts": (
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ValueError,
        "hf://a/b has its weights in several parts",
    ),
    "pickles": (
        ["best.ckpt"],
        ValueError,
        "hf://a/b has no .safetensors file; its weights: best.ckpt. Name one: hf://a/b/best.ckpt",
    ),
    "outside": (["../../x.safetensors"], ValueError, "hf://a/b has a file '../../x.safetensors', which leads out"),
    "absolute": (["/etc/x.safetensors"], ValueError, "which leads out"),
    "backslash": (["..\\x.safetensors"], ValueError, "which leads out"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_file_of_a_repository(case: str) -> None:
    files, kind, words = FILES[case]
    with pytest.raises(kind) as error:
        choose(Address("a/b"), ["README.md", *files])
    assert words in str(error.value)


def test_a_file_of_the_repository_is_named(server: HubServer, commit: str) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"has no file model\.safetensor; did you mean model\.safetensors\? Its weights: model\.",
    ):
        hub.local(f"{ADDRESS}/model.safetensor")
    assert choose(Address("a/b", None, "x/y.ckpt"), ["x/y.ckpt", "z.safetensors"]) == "x/y.ckpt"


def test_hostile_names_of_files_are_refused(server: HubServer, tmp_path: Path) -> None:
    server.repositories[NAME].commit({"../../../../escaped.safetensors": b"x"})
    with pytest.raises(ValueError, match="which leads out of the repository"):
        hub.local(ADDRESS)
    assert not cached(tmp_path)
    assert not server.downloads()


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_nothing_of_a_repository_runs(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are opened as files are; code beside the weights is not downloaded; a link of git is a text."""
    monkeypatch.chdir(tmp_path)
    files = {
        "best.ckpt": pickle.dumps({"model_state": Hostile()}, protocol=2),
        "model.safetensors": b"../../../../../../etc/passwd",
        "config.json": b'{"auto_map": {"AutoModel": "code.Network"}}',
        "code.py": b"import os; os.system('touch ran')",
    }
    server.repositories[NAME].commit(files)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        vidact.load(f"{ADDRESS}/best.ckpt")
    with pytest.raises(ValueError, match=r"is not a readable \.safetensors file"):
        vidact.load(ADDRESS)
    assert not (tmp_path / "ran").exists()
    assert not [path for path in cached(tmp_path) if path.name in ("code.py", "config.json")]


def test_weights_of_another_library_are_named(server: HubServer, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    repository = Repository()
    repository.commit({"model.safetensors": (tmp_path / "x.safetensors").read_bytes()})
    server.repositories["MCG-NJU/videomae-large-finetuned-kinetics"] = repository
    words = r"^hf://MCG-NJU/videomae-large-\S+ holds weights but no vidact record.* published network videomae_large: "
    with pytest.raises(ValueError, match=words):
        vidact.load("hf://MCG-NJU/videomae-large-finetuned-kinetics")


# ---------------------------------------------------------------------------------------------- refusals


def test_private_gated_and_absent_repositories_are_told_apart(
    server: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = server.repositories[NAME]
    repository.is_private = True
    with pytest.raises(OSError, match=r"hf://somebody/wave was refused \(401; no token was sent\).*or set HF_TOKEN"):
        hub.local(ADDRESS)
    with pytest.raises(OSError, match=r"was refused \(401; no token was sent\): it is private, or does not exist"):
        hub.local("hf://somebody/nothing")
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert hub.local(ADDRESS).is_file()
    with pytest.raises(OSError, match=r"there is no repository somebody/nothing at http://127.* \(404; the token that"):
        hub.local("hf://somebody/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OSError, match=r"was refused \(401; the token that was sent may not do this\)") as error:
        hub.local(ADDRESS)
    assert "or does not exist, or the token has expired. With a token" in str(error.value)
    assert "hf_other" not in str(error.value)
    assert str(error.value).endswith("The file in the cache can be used with --offline")
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    assert hub.local(ADDRESS).is_file()


def test_a_refusal_is_not_hidden_by_the_choice_of_files_in_the_cache(server: HubServer) -> None:
    server.repositories[NAME].commit({"a.ckpt": b"a", "b.ckpt": b"b"})
    for name in ("a.ckpt", "b.ckpt"):
        hub.local(f"{ADDRESS}/{name}")
    server.repositories[NAME].is_private = True
    with pytest.raises(OSError, match=r"hf://somebody/wave was refused \(401; no token was sent\)"):
        hub.local(ADDRESS)


def test_a_gated_repository(server: HubServer, commit: str, tmp_path: Path) -> None:
    server.repositories[NAME].is_gated = True
    with pytest.raises(
        OSError,
        match=r"is gated \(403; no token was sent\): accept its terms at http://127\S+/somebody/wave, and log in",
    ):
        hub.local(ADDRESS)
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(server.token)  # as `hf auth login` leaves it
    assert hub.local(ADDRESS).is_file()


def test_a_page_in_place_of_the_hub(server: HubServer) -> None:
    server.page = True
    with pytest.raises(OSError, match=r"did not answer as a hub does; a proxy may have, or HF_ENDPOINT is wrong"):
        hub.local(ADDRESS)


# ---------------------------------------------------------------------------------------------- no network, no disk


def test_offline_with_and_without_the_file(
    server: HubServer, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    words = r"hf://somebody/wave is not in the hub's cache, and downloads are forbidden: .* models--somebody--wave from"
    with pytest.raises(FileNotFoundError, match=words):
        hub.local(ADDRESS)
    assert not server.requests
    monkeypatch.delenv("VIDACT_OFFLINE")
    path = hub.local(ADDRESS)
    count = len(server.requests)
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    for address in (ADDRESS, f"{ADDRESS}@main", f"{ADDRESS}@{commit}", f"{ADDRESS}/model.safetensors"):
        assert hub.local(address) == path
    with pytest.raises(FileNotFoundError, match="not in the hub's cache"):
        hub.local(f"{ADDRESS}/other.safetensors")
    monkeypatch.delenv("VIDACT_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.local(ADDRESS) == path
    assert len(server.requests) == count
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.status = 503
    assert hub.local(ADDRESS) == path
    assert "answered with 503; the cached file is used: /" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"and http://127\S+ answered with 503: run this once where"):
        hub.local("hf://somebody/else")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard service, which nobody runs
    assert hub.local(ADDRESS) == path
    assert "http://127.0.0.1:9 cannot be reached (" in capsys.readouterr().err


def test_a_full_disk_in_words(server: HubServer, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    with pytest.raises(OSError, match=r"MB are needed and 0 MB are free in .*HF_HOME chooses another folder"):
        hub.local(ADDRESS)


def test_a_disk_that_fills_up_meanwhile(server: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match=r"No space left on device in .*HF_HOME chooses another folder"):
        hub.local(ADDRESS)


def test_a_cache_that_cannot_be_written(server: HubServer, commit: str, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "hub").write_text("")  # a file in the way, which stops root, too
    with pytest.raises(OSError, match=r"the cache .*hf/hub cannot be written \(.*\); HF_HOME chooses another folder"):
        hub.local(ADDRESS)


def test_a_wrong_hash_leaves_nothing(server: HubServer, commit: str, tmp_path: Path) -> None:
    server.damages = True
    with pytest.raises(ValueError, match=r"what was sent has the SHA-256 \w{16}… and should have \w{16}…, so it was"):
        hub.local(ADDRESS)
    assert not [path for path in cached(tmp_path) if path.name == "model.safetensors" or len(path.name) == 64]
    server.damages = False
    assert hub.local(ADDRESS).is_file()


@pytest.mark.slow  # the client waits a second before it continues
def test_a_download_that_is_cut_continues(server: HubServer, commit: str, network_file: Path) -> None:
    server.cuts = [1000, 2000]
    assert hub.local(ADDRESS).read_bytes() == network_file.read_bytes()
    assert len(server.downloads()) == 3


PROGRAM = "from vidact import hub; print(hub.local('hf://somebody/wave'))"


@pytest.mark.slow
def test_two_processes_with_the_variables_of_the_client(server: HubServer, commit: str, tmp_path: Path) -> None:
    server.pause.clear()
    variables = {**os.environ, **environment(server, tmp_path / "home")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:  # both have announced the download before the first byte is sent
        line = process.stderr.readline()
        assert "downloading" in line, line
    server.pause.set()
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert outputs == {f"{tmp_path}/home/hub/models--somebody--wave/snapshots/{commit}/model.safetensors\n"}
    assert len(server.downloads()) == 1


def test_a_cache_that_only_others_may_write_is_read(server: HubServer, commit: str, tmp_path: Path) -> None:
    path = hub.local(ADDRESS)
    folders = [folder for folder in (tmp_path / "hf").rglob("*") if folder.is_dir()]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert hub.local(ADDRESS) == path
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)


def test_a_close_name_of_the_address_is_not_guessed() -> None:
    assert huggingface.published_in("clip.mp4") is None
    assert huggingface.published_in("hf://somebody/wave") is None
