"""Nothing of a user or password is shown, whatever signs they hold, and what is shown still says which source it is."""

import base64
import http.server
import logging
import re
import shlex
import sys
import threading

import pytest

from vidact import cli
from vidact.commands.serve import name_sources
from vidact.results.figures import command_line
from vidact.stream.grabs import SourceError
from vidact.stream.sources import open_source
from vidact.text.addresses import from_environment, public, without_secrets
from vidact.training import run

PASSWORDS = [
    *("secret", "se/cret", "se#cret", "se?cret", "se[cret", "se]cret", "se cret", "se@cret", "@secret@", "se:cret"),
    *("s@e/c#r?e@t", "se//cret", "1/2@secret", "se://cret", "se%2Fcret", "se&cret=1", "'secret", 'secret"', "sécrét"),
    r"se\cret",
]


def pieces(password: str) -> list[str]:
    """What must not be seen of it: every run of letters that is long enough to be told from other words."""
    return [word for word in re.findall(r"\w+", password) if len(word) > 3 and word != "2Fcret"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https", "RTSP", "s3"])
def test_no_part_of_a_password_is_shown(scheme, password):
    address = f"{scheme}://hikuser:{password}@10.0.0.7:554/cam?token=abcdef"
    for shown in (public(address), without_secrets(f"it said '{address}' and more")):
        for word in ("hikuser", "abcdef", *pieces(password)):
            assert word not in shown, shown
    if password not in ("1/2@secret", "s@e/c#r?e@t"):  # a host and a path are as likely there: neither is shown
        assert public(address) == f"{scheme}://10.0.0.7:554/cam?…"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://10.0.0.7/stream", "rtsp://10.0.0.7/stream"),
        ("http://[fe80::1]:80/a.mjpg", "http://[fe80::1]:80/a.mjpg"),
        ("http://u:p@[::1]:80/a", "http://[::1]:80/a"),
        ("http://host/list.m3u8?auth=1&x=2#t=3", "http://host/list.m3u8?…"),
        ("http://host/list.m3u8#token=3", "http://host/list.m3u8"),
        # cameras take user and password within the path
        ("rtsp://10.0.0.7:554/user=admin&password=secret&channel=1.sdp", "rtsp://10.0.0.7:554/user=…"),
        ("rtsp://10.0.0.7/a;token=secret/b", "rtsp://10.0.0.7/a;token=…/b"),
        # forgotten: the host, the scheme, a slash
        ("rtsp://admin:secret", "rtsp://…"),
        ("rtsp://admin:se/cret", "rtsp://…"),
        ("admin:secret@10.0.0.7/cam", "…@10.0.0.7/cam"),
        ("rtsp:/admin:secret@10.0.0.7/cam", "…@10.0.0.7/cam"),
        (" rtsp://admin:secret@10.0.0.7/cam", " rtsp://10.0.0.7/cam"),
        ("lobby=rtsp://admin:secret@10.0.0.7/cam", "lobby=rtsp://10.0.0.7/cam"),
        # it may be a path with an @ or a password with a slash: neither is shown
        ("http://secret/cret@10.0.0.7/cam", "http://…@10.0.0.7/cam"),
        ("http://host/cam?password=se@cret", "http://…"),
        ("simplecache::s3://key:secret@bucket/shards", "simplecache::s3://bucket/shards"),
        # what is no address stays as it is
        ("clips/jump@2x.mp4", "clips/jump@2x.mp4"),
        ("C:\\videos\\a@b.mp4", "C:\\videos\\a@b.mp4"),
        ("0", "0"),
    ],
)
def test_what_is_shown(address, shown):
    assert public(address) == shown


def test_secrets_in_a_text():
    text = "cannot open 'rtsp://a:b/c@h/x?token=1', https://u:p@i/y: 401\nsee http://host/z."
    assert without_secrets(text) == "cannot open 'rtsp://h/x?…', https://i/y: 401\nsee http://host/z."
    assert without_secrets("rtsp:/a:b/c@h/x is no file") == "rtsp://h/x is no file"  # as a path shows an address
    assert without_secrets("C:/a@b/c.mp4 and d:/e") == "C:/a@b/c.mp4 and d:/e"
    for plain in ("nas:/volume1/videos is no folder", "PATH=/opt/bin:/usr/bin:/bin", "rtsp:/10.0.0.7/stream"):
        assert without_secrets(plain) == plain  # nothing in it is a secret
    assert without_secrets("nothing to hide: a@b, 3://4") == "nothing to hide: a@b, 3://4"


# ---- where an address is given


@pytest.mark.parametrize(
    ("password", "sign"), [("pa/ss", "write %2F for /"), ("pa#ss", "write %23 for #"), ("pa?ss", "write %3F for ?"),
                           ("pa[ss", "write %5B for ["), ("pa]ss", "write %5D for ]"),
                           ("p/a?ss", "write %2F for /, %3F for ?")],
)  # fmt: skip
@pytest.mark.parametrize("give", [open_source, lambda address: name_sources([address])], ids=["stream", "serve"])
def test_signs_that_end_an_address_are_told_with_how_to_write_them(give, password, sign):
    with pytest.raises(SourceError) as error:
        give(f"rtsp://admin:{password}@127.0.0.1:9/cam")
    assert sign in str(error.value)
    assert "127.0.0.1:9/cam" in str(error.value)
    for word in ("admin", "pa", "ss@"):
        assert word not in str(error.value).replace("password", "")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["rtsp", "http", "ftp", "rtsp:/x", "rtsp "])
def test_no_error_holds_a_password(scheme, password, monkeypatch, caplog):
    """Whatever is wrong with a source: its scheme, its signs, its host, its port."""
    address = f"{scheme}://hikuser:{password}@127.0.0.1:9/cam"
    caplog.set_level(logging.DEBUG)
    for give in (
        lambda: open_source(address, timeout_s=2),
        lambda: open_source(address, fps=5),
        lambda: name_sources([address, address]),
        lambda: name_sources([f"door={address}", f"door={address}"]),
        lambda: cli.main(["stream", "--checkpoint", "none.ckpt", "--no-window", "--source", address]),
    ):
        with pytest.raises((ValueError, OSError, SystemExit)) as error:
            give()
        told = f"{error.value}{caplog.text}"
        for word in ("hikuser", *pieces(password)):
            assert word not in told


def test_an_address_without_a_host_is_told():
    with pytest.raises(SourceError, match=r"rtsp://… names no host: rtsp://user:password@host/path"):
        open_source("rtsp://admin:secret")


def test_names_on_the_page_hold_no_secrets():
    given = ["rtsp://a:p@ss@10.0.0.7:554/stream?token=1", "rtsp://10.0.0.8/user=admin_password=secret_channel=1"]
    assert list(name_sources(given)) == ["10.0.0.7/stream", "10.0.0.8/user=…"]


def test_user_and_password_from_the_environment(monkeypatch):
    monkeypatch.setenv("CAMERA_USER", "admin")
    monkeypatch.setenv("CAMERA_PASSWORD", "p@ss/w#r?d [1]%")
    given = "rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@10.0.0.7/stream"
    assert from_environment(given) == "rtsp://admin:p%40ss%2Fw%23r%3Fd%20%5B1%5D%25@10.0.0.7/stream"
    assert public(given) == "rtsp://10.0.0.7/stream"
    assert name_sources([f"lobby={given}"]) == {"lobby": given}  # which is read when it is opened
    assert from_environment("rtsp://10.0.0.7/${CAMERA_USER}") == "rtsp://10.0.0.7/${CAMERA_USER}"  # of users alone
    for give in (open_source, lambda address: name_sources([address])):
        with pytest.raises(
            SourceError, match=r"rtsp://10.0.0.7/stream asks for the variable NOT_SET, which is not set"
        ):
            give("rtsp://admin:${NOT_SET}@10.0.0.7/stream")


def test_a_password_of_the_environment_arrives_as_it_is(monkeypatch):
    """At a camera that asks for it, sign for sign."""
    heard = []

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.headers.get("Authorization"))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *said):
            pass

    monkeypatch.setenv("CAMERA_PASSWORD", "p@s/w#r?d:[1]%2F é")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}"
        with pytest.raises(SourceError, match=f"http://{place}/live cannot be opened: .*401"):
            open_source(f"http://admin:${{CAMERA_PASSWORD}}@{place}/live", timeout_s=5)
        server.shutdown()
    said = {base64.b64decode(word.removeprefix("Basic ")).decode() for word in heard if word}
    assert said == {"admin:p@s/w#r?d:[1]%2F é"}


def test_the_command_in_a_record_holds_no_secrets(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["vidact", "x", "--source", "rtsp://a:pa ss/w@h/c?t=1", "--out=s3://k:s@b/c", "d e"]
    )
    assert shlex.split(command_line()) == ["vidact", "x", "--source", "rtsp://h/c?…", "--out=s3://b/c", "d e"]
    assert shlex.split(run.command_line("test", ["--a", "rtsp://a:b@h/c"])) == ["vidact", "test", "--a", "rtsp://h/c"]


ADDRESS = "rtsp://hikuser:se/cret@10.0.0.7/cam?token=abcdef"


@pytest.mark.parametrize(
    "args",
    [
        ["predict", "--checkpoint", "none.ckpt", ADDRESS],
        ["predict", "--checkpoint", ADDRESS, "a.mp4"],
        ["predict", f"--address={ADDRESS}"],
        ["extract", "features", "--videos", ADDRESS, "--out", "out"],
        ["extract", "flow", "--videos", ADDRESS, "--out", "out"],
        ["extract", "features", "--videos", "a", "--out", "out", ADDRESS],
        ["train", "--data.root", ADDRESS],
        ["train", "--config", ADDRESS],
        ["report", ADDRESS],
        ["fuse", ADDRESS, ADDRESS],
        ["prepare", "check", "--data", ADDRESS],
        ["prepare", "pack", "--data", ".", "--out", "out", "--shards", ADDRESS],
        ["export", "--checkpoint", ADDRESS, "--out", "x.onnx"],
        ["convert", "--origin", "tsm", "--file", ADDRESS, "--out", "x.safetensors"],
        ["networks", ADDRESS],
        ["folds", "--config", ADDRESS],
        ["compare", "--config", ADDRESS],
        ["serve", ADDRESS],
        [ADDRESS],
    ],
    ids=lambda args: " ".join(args[:2]).replace(ADDRESS, "ADDRESS"),
)
def test_an_address_in_the_place_of_anything_else_does_not_tell_the_password(args, capsys, tmp_path, monkeypatch):
    """Where a path is asked for, its two slashes are read as one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    for piece in ("hikuser", "cret", "abcdef"):
        assert piece not in said.err + said.out


def test_an_option_that_is_none_does_not_tell_the_password(capsys):
    with pytest.raises(SystemExit):
        cli.main(["stream", "--checkpoint", "none.ckpt", "rtsp://hikuser:se/cret@10.0.0.7/cam"])
    said = capsys.readouterr()
    assert "hikuser" not in said.err + said.out
    assert "cret" not in said.err + said.out


@pytest.mark.parametrize(
    ("args", "misspelt", "meant"),
    [
        (["predict", "--checkpont", "x.ckpt", "a.mp4"], "--checkpont", "--checkpoint"),
        (["predict", "--checkpoint", "x.ckpt", "a.mp4", "--devise", "cpu"], "--devise", "--device"),
        (["predict", "--chekpoint=x.ckpt", "a.mp4"], "--chekpoint", "--checkpoint"),
        (["fuse", "a", "b", "--wieghts", "1", "1"], "--wieghts", "--weights"),
        (["compare", "--confg", "a", "--data.root", "b"], "--confg", "--config"),
        (["extract", "features", "--video", "a", "--outt", "b"], "--outt", "--out"),
        (["prepare", "check", "--dota", "a"], "--dota", "--data"),
        (["train", "--config", "clip/folder/tsm_mobilenetv2", "--devise", "cpu"], "--devise", "--device"),
    ],
)
def test_a_misspelt_option_is_named_with_the_one_that_is_meant(args, misspelt, meant, capsys):
    """Also where the option that it stands for has to be given, and is said to be missing."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().removesuffix("\n(VIDACT_TRACEBACK=1 shows where)")
    assert said.endswith(f"there is no {misspelt}; did you mean {meant}?")


@pytest.mark.parametrize("args", [["predict", "a.mp4"], ["predict", "--checkpoint", "x", "--", "--checkpont"]])
def test_what_is_no_misspelt_option_is_not_called_one(args, capsys):
    with pytest.raises(SystemExit):
        cli.main(args)
    assert "did you mean" not in capsys.readouterr().err
