"""Checks of `clipmill doctor`: proxies, certificates and the hub. No finding holds an address, password or token."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ..errors import ClipmillError
from ..media.uri import proxy_options
from ..models.downloads.copies import is_offline
from .check import Check, absent, first_line, ok, problem, shown_path, warning

_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
_OF_OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ONLINE_TIMEOUT_S = 10
_BUNDLE_HINT = "set SSL_CERT_FILE to a file of certificates in PEM, your company's among them, on workers too"


def network_checks(*, online: bool) -> Iterator[Check]:
    """Yield the checks of what the environment says about networks; ask the hub if `online`."""
    yield proxies()
    yield certificates()
    yield _hub()
    if online:
        yield ask_hub()


def proxies() -> Check:
    """Check the proxies in the environment, without naming them."""
    found = urllib.request.getproxies_environment()
    exceptions = [one for one in found.get("no", "").split(",") if one.strip()]
    ways = []
    for scheme in ("http", "https"):
        proxy = found.get(scheme) or found.get("all")
        if not proxy:
            continue
        try:
            has_user = "proxy_auth" in proxy_options(proxy)
        except (ClipmillError, ValueError):  # their messages have the proxy's address
            variable = f"{scheme.upper()}_PROXY" if found.get(scheme) else "ALL_PROXY"
            return problem("proxy", f"{variable} is not supported", "set it to http[s]://host:port")
        ways.append(f"{scheme}:// through a proxy" + (" with a user's name" if has_user else ""))
    if not ways:
        return ok("proxy", "none in the environment")
    return ok("proxy", ", ".join(ways) + f"; NO_PROXY has {len(exceptions)} entries")


def certificates() -> Check:
    """Check that the certificates that the environment names can be loaded, or else that Python has some."""
    given = {name: path for name in _BUNDLES if (path := os.environ.get(name))}
    for name, path in given.items():
        if reason := _unusable(path):
            return problem("certificates", f"{name} is {shown_path(path)}, {reason}", f"correct or unset {name}")
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not any(os.path.isdir(one) for one in folder.split(os.pathsep)):
        shown = os.pathsep.join(map(shown_path, folder.split(os.pathsep)))
        return problem("certificates", f"SSL_CERT_DIR is {shown}, which is no folder", "correct or unset SSL_CERT_DIR")
    others = [name for name in _OF_OTHERS if name in given]
    if others and not folder and "SSL_CERT_FILE" not in given:
        return warning(
            "certificates",
            f"{' and '.join(others)} set, which the libraries behind clipmill do not read, and SSL_CERT_FILE not",
            f'export SSL_CERT_FILE="${others[0]}"',
        )
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        return warning("certificates", "Python finds none", "install the package ca-certificates; or " + _BUNDLE_HINT)
    return ok("certificates", " and ".join(shown_path(path) for path in (paths.cafile, paths.capath) if path))


def _unusable(path: str) -> str | None:
    if Path(path).is_dir():
        return None
    try:
        ssl.create_default_context(cafile=path)
    except FileNotFoundError:
        return "which does not exist"
    except (OSError, ssl.SSLError) as err:
        return f"which cannot be loaded ({first_line(err)})"
    return None


def _hub() -> Check:
    from huggingface_hub import get_token

    token = "a token was found" if get_token() else "no token, which gated and private repositories need"
    mode = "HF_HUB_OFFLINE is set: nothing is downloaded" if is_offline() else "downloads are allowed"
    return ok("hub", f"{token}; {mode}")


def ask_hub() -> Check:
    """Send one request to the hub, without the token, the way that downloads go."""
    from huggingface_hub import constants

    name = "hub online"
    if is_offline():
        return absent(name, "not asked: HF_HUB_OFFLINE is set")
    try:
        with urllib.request.build_opener().open(constants.ENDPOINT, timeout=_ONLINE_TIMEOUT_S):
            return ok(name, "answers")
    except urllib.error.HTTPError as err:
        return _status(name, err.code)
    except (OSError, ValueError, http.client.HTTPException) as err:
        reason = err.reason if isinstance(err, urllib.error.URLError) else err
        if isinstance(reason, ssl.SSLCertVerificationError):
            return problem(name, f"its certificate is not trusted: {reason.verify_message}", _BUNDLE_HINT)
        if isinstance(reason, str | ValueError | http.client.InvalidURL):  # these messages have parts of an address
            return problem(
                name,
                "the address of the hub or of the proxy is invalid",
                "set HF_ENDPOINT and HTTPS_PROXY to addresses such as http://host:port, with / and @ of a password as "
                "%2F and %40",
            )
        if "Tunnel connection failed: 407" in str(reason):
            return _status(name, 407)
        return problem(
            name,
            f"not reached: {reason}",
            "behind a proxy, set HTTPS_PROXY; without a network, fill the cache elsewhere (docs/downloads.md)",
        )


def _status(name: str, status: int) -> Check:
    if status == 407:
        return problem(name, "the proxy wants a password", "set HTTPS_PROXY to http://user:password@host:port")
    if status == 429:
        return warning(
            name, "limits the rate of requests now (429)", "set HF_TOKEN: the limit is higher with an account"
        )
    if status >= 500:
        return warning(name, f"answers with status {status}", "try again later; downloads retry by themselves")
    return ok(name, f"answers (status {status})")
