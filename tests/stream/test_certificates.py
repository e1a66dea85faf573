"""Cameras over TLS: their certificates are looked at, those of what a playlist names too, unless that is not wanted."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.streaming import Playlist, playlist, transport_streams
from test_source_faults import number, serve_rtsp, watch

from vidact.commands import stream as command
from vidact.commands.serve import main as serve
from vidact.stream.grabs import SourceError
from vidact.stream.sources import open_source, without_certificates

x509 = pytest.importorskip("cryptography.x509")
QUICK = {"timeout_s": 3.0, "retry_s": 0.05}


def certificate(folder: Path, name: str, host: str = "127.0.0.1", days: float = 1.0) -> ssl.SSLContext:
    """A server's context, with a self-signed certificate in ``name.pem``."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ssl.SSLContext]]:
    """Servers' certificates: one that this machine trusts meanwhile, and three that it should not."""
    folder = tmp_path_factory.mktemp("tls")
    made = {
        "good": certificate(folder, "good"),
        "unknown": certificate(folder, "unknown"),
        "of another": certificate(folder, "of another", host="camera.example"),
        "expired": certificate(folder, "expired", days=-1.0),
    }
    trusted = [(folder / f"{name}.pem").read_text() for name in ("good", "of another", "expired")]
    (folder / "trusted.pem").write_text("".join(trusted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "trusted.pem"))
        yield made


@pytest.fixture
def served(contexts: dict[str, ssl.SSLContext]) -> Iterator[dict[str, Playlist]]:
    """A server for each certificate, of a playlist with an end and of its segments."""
    with playlist() as good, playlist() as unknown, playlist() as other, playlist() as expired:
        servers = dict(zip(contexts, (good, unknown, other, expired), strict=True))
        segments = transport_streams(range(20))
        for name, server in servers.items():
            server.show(segments)
            server.text += "#EXT-X-ENDLIST\n"
            server.socket = contexts[name].wrap_socket(server.socket, server_side=True)
        yield servers


def address(server: Playlist, name: str) -> str:
    return f"https://127.0.0.1:{server.server_port}/{name}"


WRONG = {
    "unknown": "self-signed certificate",
    "of another": "IP address mismatch, certificate is not valid for '127.0.0.1'",
    "expired": "certificate has expired",
}


@pytest.mark.parametrize("name", ["s0.ts", "live.m3u8"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_certificate_is_not_accepted(name: str, wrong: str, served: dict[str, Playlist]) -> None:
    with open_source(address(served["good"], name), **QUICK) as source:
        assert [number(grab) for grab in source][:5] == [0, 1, 2, 3, 4]
    url = address(served[wrong], name)
    with pytest.raises(SourceError) as error:
        open_source(url, **QUICK)
    assert str(error.value).startswith(f"{url} cannot be opened: its certificate is not trusted: {WRONG[wrong]}")
    assert f"SSL_CERT_FILE names; --insecure_source {url} takes whoever" in str(error.value)
    assert not served[wrong].fetched
    with open_source(url, verify=False, **QUICK) as source:
        watch(source, lambda grab: number(grab) >= 5)


def test_a_machine_that_trusts_nobody_still_reads_what_has_no_certificate(
    served: dict[str, Playlist], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may come without authorities, and SSL_CERT_FILE may be mistyped."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with playlist() as plain:
        plain.show(transport_streams(range(20)))
        plain.text += "#EXT-X-ENDLIST\n"
        with open_source(plain.url, **QUICK) as source:
            assert [number(grab) for grab in source][:5] == [0, 1, 2, 3, 4]
    with pytest.raises(SourceError, match=r"s0\.ts cannot be opened: SSL_CERT_FILE names .*nowhere\.pem, which is no "):
        open_source(address(served["good"], "s0.ts"), **QUICK)


def test_what_a_playlist_names_is_looked_at_too(served: dict[str, Playlist]) -> None:
    good, unknown = served["good"], served["unknown"]
    there = f"https://127.0.0.1:{unknown.server_port}/"
    own = good.text
    good.text = own.replace("\ns", f"\n{there}s")
    with pytest.raises(SourceError, match=r"opened: the certificate of 127\.0\.0\.1 is not trusted: self-signed"):
        open_source(address(good, "live.m3u8"), **QUICK)
    assert not unknown.fetched
    good.text = own.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="s0.ts"\n#EXTINF', 1)
    with pytest.raises(SourceError, match="cannot be opened: its playlist is encrypted"):
        open_source(address(good, "live.m3u8"), **QUICK)


@pytest.mark.parametrize("how", ["playlist", "redirected playlist", "segment", "redirected segment"])
def test_what_is_https_behind_http_is_looked_at_too(how: str, served: dict[str, Playlist]) -> None:
    """A playlist over HTTP may name parts over HTTPS, or send there; --insecure_source takes them as they are."""
    for name in ("good", "unknown"):
        there = f"https://127.0.0.1:{served[name].server_port}/"
        with playlist() as plain:
            plain.text, url = served[name].text.replace("\ns", f"\n{there}s"), plain.url
            if how == "redirected segment":
                plain.text = served[name].text
                plain.moved |= {f"s{i}.ts": f"{there}s{i}.ts" for i in range(20)}
            elif how != "segment":
                plain.text = f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{there}live.m3u8\n"
                if how == "redirected playlist":
                    plain.moved["live.m3u8"] = f"{there}live.m3u8"
            if name == "unknown":
                with pytest.raises(SourceError, match="is not trusted: self-signed certificate"):
                    open_source(url, **QUICK)
                assert not served[name].fetched
            with open_source(url, verify=name == "good", **QUICK) as source:
                watch(source, lambda grab: number(grab) >= 5)


@pytest.mark.parametrize("authorities", ["those of the machine", "none"])
def test_a_playlist_over_http_alone(
    authorities: str, contexts: dict[str, ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for no authorities, may be encrypted, and may be sent on to where its parts are."""
    from cryptography.hazmat.primitives import ciphers, padding

    if authorities == "none":
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    segments = transport_streams(range(20))
    key, begin = bytes(range(16)), bytes(16)

    def encrypted(data: bytes) -> bytes:
        pad = padding.PKCS7(128).padder()
        locked = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CBC(begin)).encryptor()
        return locked.update(pad.update(data) + pad.finalize()) + locked.finalize()

    with playlist() as plain, playlist() as entrance:
        plain.show([encrypted(segment) for segment in segments])
        plain.files["key.bin"] = key
        how = f'#EXT-X-KEY:METHOD=AES-128,URI="key.bin",IV=0x{begin.hex()}\n#EXTINF'
        plain.text = plain.text.replace("#EXTINF", how, 1) + "#EXT-X-ENDLIST\n"
        with open_source(plain.url, **QUICK) as source:
            assert [number(grab) for grab in source] == list(range(20))
        plain.show(segments)
        plain.text += "#EXT-X-ENDLIST\n"
        entrance.moved["live.m3u8"] = plain.url
        with open_source(entrance.url, **QUICK) as source:
            assert [number(grab) for grab in source] == list(range(20))


@pytest.mark.parametrize("name", ["good", "unknown"])
def test_an_rtsps_camera(name: str, contexts: dict[str, ssl.SSLContext]) -> None:
    stopping = threading.Event()

    def serves() -> None:
        while not stopping.is_set():  # whoever does not trust it leaves in the middle
            serve_rtsp(listener, [[]], stopping)

    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        contexts[name].wrap_socket(plain, server_side=True) as listener,
    ):
        url = f"rtsps://127.0.0.1:{listener.getsockname()[1]}/live"
        threading.Thread(target=serves, daemon=True).start()
        options = {**QUICK, "on_event": lambda text: None}
        if name == "unknown":
            with pytest.raises(SourceError, match="its certificate is not trusted: self-signed certificate"):
                open_source(url, **options)
        open_source(url, verify=name == "good", **options).close()
        stopping.set()


def test_which_sources_are_insecure() -> None:
    named = {
        "lobby": "https://me:secret@10.0.0.7/a?b=1",
        "yard": "rtsps://10.0.0.8/",
        "door": "rtsp://10.0.0.9/",
        "c": "0",
    }
    assert without_certificates(["lobby"], named) == without_certificates(["https://10.0.0.7/a?…"], named)
    assert without_certificates(["lobby", "rtsps://10.0.0.8/"], named) == {named["lobby"], named["yard"]}
    with pytest.raises(
        ValueError, match="--insecure_source is hall, and the sources are lobby, yard, door, c; name one"
    ):
        without_certificates(["hall"], named)
    assert without_certificates(["http://h/live.m3u8"], {"a": "http://h/live.m3u8"}) == {"http://h/live.m3u8"}
    for without in ("door", "c"):
        with pytest.raises(ValueError, match=f"--insecure_source is {without}, which has no certificate; leave it out"):
            without_certificates([without], named)


def test_the_commands_refuse_names_of_no_source() -> None:
    with pytest.raises(ValueError, match=r"--insecure_source is https://h/, and the sources are rtsps://h/x; name one"):
        command.parse(["--checkpoint", "x", "--source", "rtsps://h/x", "--insecure-source", "https://h/"])
    asked = command.parse(["--checkpoint", "x", "--source", "rtsps://u:p@h/x", "--insecure-source", "rtsps://h/x"])
    assert asked.insecure == {"rtsps://u:p@h/x"}
    with pytest.raises(ValueError, match="--insecure_source is hall, and the sources are lobby; name one"):
        serve(["--source", "lobby=https://h/x", "--insecure-source", "hall"])
