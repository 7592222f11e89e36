"""Verifying DKIM signatures (RFC 6376 3, 6; RFC 8301; RFC 8463)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from smtpmail.auth.canonical import BodyHash, relaxed_field, simple_field
from smtpmail.auth.fields import Field
from smtpmail.auth.lookup import Lookup, a_labels, is_or_below, texts
from smtpmail.auth.tags import TagError, colon_list, parse_tags, printable, without_blanks
from smtpmail.dns.errors import DNSError

MAX_SIGNATURES = 10
"""Signatures of one message that are looked at; those of its author's domain come first."""

MAX_HASHES = 3
"""Hashes of one body: in both forms, and in parts (`l=`). More are somebody's way to burn our time."""

MIN_RSA_BITS, MAX_RSA_BITS = 1024, 4096
"""RFC 8301 3.2. A larger key costs time that a stranger would choose."""

_MAX_EXPONENT_BITS = 64
_MAX_SIGNATURE_FIELD = 16 * 1024
_MAX_KEY_RECORD = 8 * 1024
_MAX_KEYS = 4
_REQUIRED = ("v", "a", "b", "bh", "d", "h", "s")
_ALGORITHMS = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}
_SELECTOR = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]{1,76}")
_D_VALUE = re.compile(rb"(?:^[^:]*:|;)[ \t\n]*d[ \t\n]*=[ \t\n]*([^; \t\n]*)")
_B_VALUE = re.compile(rb"((?:^[^:]*:|;)[ \t\n]*b[ \t\n]*=)[^;]*")


@dataclass(frozen=True, slots=True)
class DkimResult:
    """What came of one signature, in the words of RFC 8601 2.7.1; `domain` and `selector` are "" if unreadable."""

    result: str
    """pass, fail, policy, neutral, temperror or permerror."""
    domain: str = ""
    selector: str = ""
    reason: str = ""
    """Why it is no pass, in plain words; a remark on a pass."""
    signature: str = ""
    """The first characters of `b=`, which tell signatures of one domain apart (RFC 6008)."""


class _Rejected(Exception):
    """The signature is not valid: the result and its reason."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


@dataclass(frozen=True, slots=True)
class Signature:
    """A DKIM-Signature field that can be verified."""

    field: Field
    domain: str
    """`d=`, in A-labels."""
    selector: str
    algorithm: str
    """rsa or ed25519."""
    relaxed_header: bool
    relaxed_body: bool
    names: tuple[str, ...]
    """`h=`, in lower case."""
    body_length: int | None
    """`l=`."""
    body_digest: bytes
    value: bytes
    identity_domain: str
    """That of `i=`."""

    def header_digest(self, header: Sequence[Field]) -> bytes:
        """The hash of the signed fields and of the signature's own (RFC 6376 3.7)."""
        own = Field(self.field.name, _B_VALUE.sub(rb"\1", self.field.raw, count=1))
        return header_digest(header, self.names, own, relaxed=self.relaxed_header)


def header_digest(header: Sequence[Field], names: Iterable[str], own: Field, *, relaxed: bool) -> bytes:
    """SHA-256 over the fields of these names, each name's from the bottom up, and `own`, whose b= is empty."""
    canonical = relaxed_field if relaxed else simple_field
    left: defaultdict[str, list[Field]] = defaultdict(list)
    for field in header:
        left[field.name.decode("ascii")].append(field)
    signed = [canonical(left[name].pop()) for name in names if left.get(name)]
    signed.append(canonical(own).removesuffix(b"\r\n"))
    return hashlib.sha256(b"".join(signed)).digest()


class Verification:
    """All signatures of one message: made of its header, then fed with its body.

    `checks` gives one function for each signature, to be called side by side or one after the other.
    """

    def __init__(self, header: Sequence[Field], now: float, author_domains: Sequence[str] = ()) -> None:
        """`now`: seconds since 1970. `author_domains`: those of From, whose signatures are looked at first."""
        self._header = header
        self._hashes: dict[tuple[bool, int | None], BodyHash] = {}
        self._digests: dict[tuple[bool, int | None], bytes] = {}
        self._found: list[Signature | DkimResult] = []
        fields = [field for field in header if field.name == b"dkim-signature"]
        if len(fields) > MAX_SIGNATURES:
            fields.sort(key=lambda field: not _is_of_author(field, author_domains))
        for field in fields[:MAX_SIGNATURES]:
            found = read_signature(field, now)
            if isinstance(found, Signature):
                key = (found.relaxed_body, found.body_length)
                if key not in self._hashes and len(self._hashes) >= MAX_HASHES:
                    why = "the signatures cover too many different parts of the body (l=)"
                    found = DkimResult("policy", found.domain, found.selector, why)
                elif key not in self._hashes:
                    self._hashes[key] = BodyHash(relaxed=found.relaxed_body, limit=found.body_length)
            self._found.append(found)

    def update(self, data: bytes) -> None:
        """Takes the next piece of the body."""
        for body in self._hashes.values():
            body.update(data)

    def checks(self) -> list[Callable[[Lookup], DkimResult]]:
        """What is left to do when the body is whole; to be called once."""
        self._digests = {key: body.digest() for key, body in self._hashes.items()}
        return [self._check(found) for found in self._found]

    def names(self) -> list[tuple[str, str]]:
        """Domain and selector of each, in the order of `checks`."""
        return [(found.domain, found.selector) for found in self._found]

    def _check(self, found: Signature | DkimResult) -> Callable[[Lookup], DkimResult]:
        if isinstance(found, DkimResult):
            return lambda _: found
        return lambda lookup: self._verify(found, lookup)

    def _verify(self, signature: Signature, lookup: Lookup) -> DkimResult:
        remark = ""
        try:
            self._compare_body(signature)
            remark = _verify_header(signature, signature.header_digest(self._header), lookup)
            result = "pass"
        except _Rejected as rejected:
            result, remark = rejected.result, str(rejected)
        except DNSError as error:
            result, remark = "temperror", str(error)
        except ImportError as error:
            result, remark = "temperror", f"the Python package cryptography can't be loaded here ({error})"
        start = base64.b64encode(signature.value).decode()[:8]
        return DkimResult(result, signature.domain, signature.selector, remark, start)

    def _compare_body(self, signature: Signature) -> None:
        key = (signature.relaxed_body, signature.body_length)
        size = self._hashes[key].size
        if signature.body_length is not None:
            if signature.body_length > size:
                raise _Rejected("permerror", f"l={signature.body_length} is more than the {size} octets of the body")
            if self._digests[key] == signature.body_digest and signature.body_length < size:
                # RFC 6376 8.2: anybody can write more behind what was signed.
                raise _Rejected("policy", f"only {signature.body_length} of the body's {size} octets are signed (l=)")
        if self._digests[key] != signature.body_digest:
            raise _Rejected("fail", "the body was changed after it was signed")


def _is_of_author(field: Field, author_domains: Sequence[str]) -> bool:
    match = _D_VALUE.search(field.raw)
    domain = a_labels(match[1].decode("utf-8", "replace")) if match else None
    return domain is not None and any(is_or_below(a, domain) or is_or_below(domain, a) for a in author_domains)


def read_signature(field: Field, now: float) -> Signature | DkimResult:
    """The signature of a DKIM-Signature field, or what is wrong with it (RFC 6376 3.5, 6.1.1)."""
    tags: dict[str, str] = {}
    try:
        if len(field.raw) > _MAX_SIGNATURE_FIELD:
            raise _Rejected("permerror", "the signature's field is too long")
        tags = parse_tags(field.value.decode())
        return _signature(field, tags, now)
    except _Rejected as rejected:
        result, reason = rejected.result, str(rejected)
    except UnicodeDecodeError:
        result, reason = "permerror", "the signature is not UTF-8"
    except TagError as error:
        result, reason = "permerror", f"the signature is malformed: {error}"
    selector = tags.get("s", "").lower()
    return DkimResult(
        result,
        a_labels(tags.get("d", "")) or "",
        selector if _SELECTOR.fullmatch(selector) else "",
        reason,
        printable(without_blanks(tags.get("b", "")), 8).removesuffix("..."),
    )


def _signature(field: Field, tags: dict[str, str], now: float) -> Signature:
    """Raises _Rejected."""
    missing = [f"{name}=" for name in _REQUIRED if not tags.get(name)]
    if missing:
        raise _Rejected("permerror", f"the signature has no {', '.join(missing)}")
    if tags["v"] != "1":
        raise _Rejected("permerror", f"v={printable(tags['v'])} is not known")
    algorithm = tags["a"].lower()
    if algorithm == "rsa-sha1":
        raise _Rejected("policy", "rsa-sha1 is no longer accepted (RFC 8301)")
    if algorithm not in _ALGORITHMS:
        raise _Rejected("permerror", f"a={printable(algorithm)} is not known")
    header_form, _, body_form = tags.get("c", "simple").lower().partition("/")
    body_form = body_form or "simple"
    if {header_form, body_form} - {"simple", "relaxed"}:
        raise _Rejected("permerror", f"c={printable(tags['c'])} is not known")
    if "dns/txt" not in colon_list(tags.get("q", "dns/txt")):
        raise _Rejected("permerror", f"q={printable(tags['q'])} is not known")
    domain = a_labels(tags["d"])
    selector = tags["s"].lower()
    if domain is None or "." not in domain:
        raise _Rejected("permerror", f"d={printable(tags['d'])} is no domain")
    if not _SELECTOR.fullmatch(selector) or len(selector) + len(domain) > 200:
        raise _Rejected("permerror", f"s={printable(tags['s'])} is no selector")
    identity = tags.get("i", "@" + domain).rpartition("@")[2]
    identity_domain = a_labels(identity)
    if identity_domain is None or not is_or_below(identity_domain, domain):
        raise _Rejected("permerror", f"i={printable(tags['i'])} is not in {domain}")
    names = tuple(colon_list(tags["h"]))
    if "from" not in names:
        raise _Rejected("permerror", "the From field is not signed")
    _check_times(tags, now)
    return Signature(
        field,
        domain,
        selector,
        _ALGORITHMS[algorithm],
        header_form == "relaxed",
        body_form == "relaxed",
        names,
        _number(tags, "l"),
        _octets(tags, "bh"),
        _octets(tags, "b"),
        identity_domain,
    )


def _check_times(tags: dict[str, str], now: float) -> None:
    """RFC 6376 3.5: `t=` and `x=`. A clock that is ahead is no reason to reject."""
    signed, expires = _number(tags, "t"), _number(tags, "x")
    if expires is not None:
        if signed is not None and expires <= signed:
            raise _Rejected("permerror", "it expired before it was made (x=)")
        if expires < now:
            raise _Rejected("fail", "the signature has expired (x=)")


def _number(tags: dict[str, str], name: str) -> int | None:
    if name not in tags:
        return None
    if not _NUMBER.fullmatch(tags[name]):
        raise _Rejected("permerror", f"{name}={printable(tags[name])} is no number")
    return int(tags[name])


def _octets(tags: dict[str, str], name: str) -> bytes:
    try:
        return base64.b64decode(without_blanks(tags[name]), validate=True)
    except (binascii.Error, ValueError):
        raise _Rejected("permerror", f"{name}= is no base64") from None


# -- the key


def _verify_header(signature: Signature, digest: bytes, lookup: Lookup) -> str:
    """Returns a remark, mostly none. Raises _Rejected, DNSError."""
    name = f"{signature.selector}._domainkey.{signature.domain}"
    records = [text for text in texts(name, lookup) if _is_key(text)][:_MAX_KEYS]
    if not records:
        raise _Rejected("permerror", f"there is no key at {name}")
    rejected: _Rejected | None = None
    for record in records:
        try:
            return _verify_with(signature, digest, record)
        except _Rejected as error:
            rejected = error
    assert rejected
    raise rejected


def _is_key(text: str) -> bool:
    """Whether a TXT record is meant as a key: wildcards bring others to the name."""
    return re.search(r"(?:^|;)\s*p\s*=", text) is not None


def _verify_with(signature: Signature, digest: bytes, record: str) -> str:
    """RFC 6376 3.6.1, 6.1.2, 6.1.3."""
    if len(record) > _MAX_KEY_RECORD:
        raise _Rejected("permerror", "the key's record is too long")
    try:
        tags = parse_tags(record)
    except TagError as error:
        raise _Rejected("permerror", f"the key's record is malformed: {error}") from None
    if tags.get("v", "DKIM1") != "DKIM1":
        raise _Rejected("permerror", f"the key's v={printable(tags['v'])} is not known")
    if tags.get("k", "rsa").lower() != signature.algorithm:
        raise _Rejected("permerror", f"the key is not for {signature.algorithm}")
    if "sha256" not in colon_list(tags.get("h", "sha256")):
        raise _Rejected("permerror", "the key is not for sha256")
    if not {"*", "email"} & set(colon_list(tags.get("s", "*"))):
        raise _Rejected("permerror", "the key is not for mail")
    flags = colon_list(tags.get("t", ""))
    if "s" in flags and signature.identity_domain != signature.domain:
        raise _Rejected("permerror", "the key is not for names below its domain")
    if not tags["p"]:
        raise _Rejected("permerror", "the key was revoked")
    try:
        octets = base64.b64decode(without_blanks(tags["p"]), validate=True)
    except (binascii.Error, ValueError):
        raise _Rejected("permerror", "the key is no base64") from None
    if signature.algorithm == "rsa":
        _verify_rsa(octets, signature.value, digest)
    else:
        _verify_ed25519(octets, signature.value, digest)
    return "the key is being tested (t=y)" if "y" in flags else ""


_CHANGED = "the signature does not match: a signed field was changed, or the key is another"


def _verify_rsa(key: bytes, value: bytes, digest: bytes) -> None:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415

    # The size of the record bounds that of the key before anything is computed with it.
    if len(key) > MAX_RSA_BITS // 8 + 128:
        raise _Rejected("policy", f"the RSA key is larger than {MAX_RSA_BITS} bits")
    try:
        public = load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        if len(key) < MIN_RSA_BITS // 8:
            raise _Rejected("policy", f"the RSA key is smaller than {MIN_RSA_BITS} bits (RFC 8301)") from None
        raise _Rejected("permerror", f"the key can't be read: {printable(str(error))}") from None
    if not isinstance(public, rsa.RSAPublicKey):
        raise _Rejected("permerror", "the key is not RSA")
    if public.key_size < MIN_RSA_BITS:
        raise _Rejected("policy", f"the RSA key has {public.key_size} bits, less than {MIN_RSA_BITS} (RFC 8301)")
    if public.key_size > MAX_RSA_BITS:
        raise _Rejected("policy", f"the RSA key is larger than {MAX_RSA_BITS} bits")
    if public.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise _Rejected("policy", "the RSA key's exponent is too large")
    try:
        public.verify(value, digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    except InvalidSignature:
        raise _Rejected("fail", _CHANGED) from None


def _verify_ed25519(key: bytes, value: bytes, digest: bytes) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        public = Ed25519PublicKey.from_public_bytes(key)
    except ValueError:
        raise _Rejected("permerror", "the key is no Ed25519 key") from None
    try:
        public.verify(value, digest)
    except InvalidSignature:
        raise _Rejected("fail", _CHANGED) from None
