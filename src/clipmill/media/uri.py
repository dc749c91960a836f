"""Parse URIs: schemes, data:, file: and http(s): URIs, and how messages show them."""

from __future__ import annotations

import binascii
import dataclasses
import ipaddress
import os
import re
import socket
from typing import Any, Self
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit

from ..errors import ClipmillError, require
from ..failures import Code, RowError, Stage
from ..messages import setting

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CREDENTIALS = re.compile(r"//[^/?#]*@")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
# A query parameter whose name contains one of these is likely a password or a signature.
_SECRET_NAMES = ("auth", "credential", "key", "password", "secret", "sig", "token")
_URL_SAFE_BASE64 = bytes.maketrans(b"-_", b"+/")
# Characters that RFC 3986 allows in a path; and "%", since what is encoded already must not be encoded again.
_PATH_CHARACTERS = "%/:@!$&'()*+,;=~"
_MAX_SHOWN = 200
_PRIVATE_DOMAINS = (
    ".localhost",
    ".local",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
)

_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# Networks that `is_global` accepts in some releases of Python, though they are not on the public internet.
_NOT_PUBLIC = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT
        "168.63.129.16/32",  # the host of every Azure virtual machine
        "192.0.0.0/24",  # IETF protocols; includes a cloud's metadata server
        "192.88.99.0/24",  # relays from IPv4 to IPv6
    )
)
_UNICAST = ipaddress.IPv6Network("2000::/3")  # the only IPv6 addresses allocated so far
# Its blocks in IANA's registry of special-purpose addresses; releases of Python know only some of them.
_NOT_PUBLIC_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols: Teredo, benchmarks, ORCHID and others
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_EMBEDDING = (  # networks whose addresses contain an IPv4 address, and the bits to the right of it
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)


def fetch_error(code: Code, message: str, *, transient: bool = False) -> RowError:
    """Return the error of a row whose content could not be fetched."""
    return RowError(Stage.FETCH, code, message, transient=transient)


def scheme_of(uri: str) -> str | None:
    """Return the scheme in lower case, or None for a plain path.

    Unknown schemes count too: `photo:1.jpg` has the scheme `photo`.
    """
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def shown(uri: str) -> str:
    """Return a URI as messages quote it: shortened, without passwords and signatures."""
    return repr(readable_uri(uri)) + (f" ({len(uri)} characters)" if scheme_of(uri) == "data" else "")


def readable_uri(uri: str) -> str:
    """Return a URI shortened, without passwords and signatures."""
    if scheme_of(uri) == "data":
        head, comma, _ = uri[:80].partition(",")
        return head + comma + "…"
    text = _CREDENTIALS.sub("//…@", uri, count=1)
    path, mark, query = text.partition("?")
    if mark:
        text = path + mark + "&".join(_without_secret(part) for part in query.split("&"))
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN - 60]}…{text[-59:]}"
    return text


def _without_secret(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    secret = equals and any(part in name.lower() for part in _SECRET_NAMES)
    return f"{name}=…" if secret else parameter


def check_characters(uri: str) -> None:
    """Refuse control characters, which are invalid in a URI and could end a line of a request or a log.

    Raises:
        RowError: `malformed`.
    """
    control = _CONTROL.search(uri)
    if control:
        raise fetch_error(
            Code.MALFORMED,
            f"{shown(uri)}: character {control[0]!r} at position {control.start()} is not allowed in a URI; "
            "remove it or percent-encode it",
        )


def decode_data(uri: str, max_bytes: int) -> tuple[bytes, str | None]:
    """Decode a data: URI (RFC 2397), as leniently as browsers do.

    Base64 may be URL-safe, lack its padding, contain white space and be percent-encoded.

    Args:
        uri: The whole URI.
        max_bytes: The most bytes of content, checked before anything is decoded.

    Returns:
        The content, and its media type in lower case without parameters: `text/plain` if there is none, as the RFC
        says; None if it is invalid.

    Raises:
        RowError: `malformed`, `undecodable` or `too_large`.
    """
    head, comma, payload = uri[len("data:") :].partition(",")
    if not comma:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: no comma between the media type and the content")
    # Percent-encoded base64 is four times as long as its content; only added white space makes it longer.
    if len(payload) > 4 * max_bytes + 64:
        raise _data_too_large(uri, max_bytes)
    first, *parameters = (part.strip().lower() for part in head.split(";"))
    media_type = first or "text/plain"
    try:
        content = payload.encode()
    except UnicodeEncodeError as err:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: the content is not valid Unicode: {err.reason}") from err
    if parameters[-1:] == ["base64"]:
        data = _decode_base64(uri, content, max_bytes)
    else:
        # "%41" becomes one byte and a stray "%" stays, so the unquoted content is never shorter than this.
        if len(content) - 2 * content.count(b"%") > max_bytes:
            raise _data_too_large(uri, max_bytes)
        data = unquote_to_bytes(content)
        if len(data) > max_bytes:
            raise _data_too_large(uri, max_bytes)
    return data, media_type if _MEDIA_TYPE.fullmatch(media_type) else None


def _data_too_large(uri: str, max_bytes: int) -> RowError:
    return fetch_error(Code.TOO_LARGE, f"{shown(uri)}: holds more than " + setting("max_fetch_bytes", max_bytes))


def _decode_base64(uri: str, content: bytes, max_bytes: int) -> bytes:
    digits = unquote_to_bytes(content).translate(_URL_SAFE_BASE64, b" \t\r\n\f")
    for _ in range(2):
        digits = digits.removesuffix(b"=")
    if len(digits) * 3 // 4 > max_bytes:
        raise _data_too_large(uri, max_bytes)
    try:
        # Padding left here is superfluous or in the middle; adding ours must not make it valid.
        padding = b"" if b"=" in digits else b"=" * (-len(digits) % 4)
        return binascii.a2b_base64(digits + padding, strict_mode=True)
    except binascii.Error as err:
        raise fetch_error(Code.UNDECODABLE, f"{shown(uri)}: the content is not valid base64: {err}") from err


def file_path(uri: str) -> str:
    """Return the path of a file: URI (RFC 8089); a plain path is returned as it is.

    Nothing follows the path in such a URI, so `?` and `#` belong to it, encoded or not.

    Raises:
        RowError: `forbidden_uri` for a file on another host, `malformed` if the path is not absolute.
    """
    scheme = scheme_of(uri)
    if scheme is None:
        return uri
    rest = uri[len(scheme) + 1 :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise fetch_error(
                Code.FORBIDDEN_URI,
                f"{shown(uri)}: a file on the host {host!r}; only local files are read: file:///path",
            )
        rest = slash + rest
    try:
        path = os.fsdecode(unquote_to_bytes(os.fsencode(rest)))
    except UnicodeError as err:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: the path is not valid Unicode") from err
    if not path.startswith("/") or "\0" in path:
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: the path is not absolute; write file:///path/to/file")
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class WebAddress:
    """The parts of an http(s) URI. It is parsed once, so that the checked address is the one that is fetched.

    Attributes:
        uri: The whole URI, as given.
        scheme: `http` or `https`.
        host: In lower case and ASCII; an IPv6 address without its brackets.
        port: As given, else the default of the scheme.
        target: Path and query, percent-encoded.
    """

    uri: str
    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parse a URI; spaces and non-ASCII characters are encoded (UTF-8 in the path, IDNA in the host).

        Raises:
            RowError: `malformed`, or `forbidden_uri` for a user name or password.
        """
        check_characters(uri)
        try:
            parts = urlsplit(uri)
            port = parts.port
            path = _encode(parts.path or "/", _PATH_CHARACTERS)
            query = _encode(parts.query, _PATH_CHARACTERS + "?")
        except ValueError as err:
            raise fetch_error(Code.MALFORMED, f"{shown(uri)}: not a valid URL: {err}") from err
        if "@" in parts.netloc:
            raise fetch_error(
                Code.FORBIDDEN_URI, f"{shown(uri)}: user names and passwords in a URL are not sent; remove them"
            )
        host = _ascii_host(parts.hostname or "", uri)
        if port == 0 or not (path.startswith("/")):
            raise fetch_error(Code.MALFORMED, f"{shown(uri)}: not a valid URL; write {parts.scheme}://host[:port]/path")
        default_port = 443 if parts.scheme == "https" else 80
        return cls(uri, parts.scheme, host, port or default_port, path + ("?" + query if query else ""))

    def join(self, location: str) -> str:
        """Return the target of a redirect from this address.

        Raises:
            RowError: `malformed`.
        """
        try:
            return urljoin(self.uri, location)
        except ValueError as err:
            message = f"{shown(self.uri)}: redirects to {shown(location)}, which is not a valid URL: {err}"
            raise fetch_error(Code.MALFORMED, message) from err

    @property
    def bracketed_host(self) -> str:
        """The host as it is written before a colon and a port: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """Host and port for the Host header; without the port if it is the default of the scheme."""
        is_default = self.port == (443 if self.scheme == "https" else 80)
        return self.bracketed_host if is_default else f"{self.bracketed_host}:{self.port}"


def _encode(text: str, safe: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)


def _ascii_host(host: str, uri: str) -> str:
    if not host.isascii():
        idna = require("idna", "remote", "a non-ASCII host name")
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError as err:
            raise fetch_error(Code.MALFORMED, f"{shown(uri)}: {host!r} is not a valid host name: {err}") from err
    if not _HOST.fullmatch(f"[{host}]" if ":" in host else host):
        raise fetch_error(Code.MALFORMED, f"{shown(uri)}: {host!r} is not a valid host name")
    return host


def is_public(address: str) -> bool:
    """Return whether a numeric address is on the public internet.

    Loopback, private, link-local, carrier-grade NAT, multicast, documentation and reserved addresses are not, nor are
    IPv6 addresses that contain such an IPv4 address.
    """
    ip: _IpAddress = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        for network, shift in _EMBEDDING:
            if ip in network:
                return is_public(str(ipaddress.IPv4Address(int(ip) >> shift & 0xFFFFFFFF)))
        if ip not in _UNICAST or any(ip in network for network in _NOT_PUBLIC_IPV6):
            return False
        return ip.is_global and not ip.is_reserved
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC))


def is_private_name(host: str) -> bool:
    """Return whether a host's name exists in private networks only: one without a dot, or below a reserved domain."""
    name = host.rstrip(".")
    return "." not in name or name.endswith(_PRIVATE_DOMAINS)


def literal_address(host: str) -> _IpAddress | None:
    """Return the address if a host is a literal one (`127.0.0.1`, `2130706433`, `0x7f.1`, `::1`); None for a name."""
    try:
        return ipaddress.IPv6Address(host) if ":" in host else ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def proxy_options(proxy: str) -> dict[str, Any]:
    """Return the arguments of `httpcore.HTTPProxy` for a proxy's URL, with user and password separate from it."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        is_supported = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        is_supported = False
    if not is_supported:
        raise ClipmillError(f"the proxy {shown(proxy)} in the environment is not supported; use http[s]://host:port")
    options: dict[str, Any] = {"proxy_url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"}
    if parts.username is not None:
        options["proxy_auth"] = (unquote(parts.username), unquote(parts.password or ""))
    return options
