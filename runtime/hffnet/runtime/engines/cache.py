"""Where built engines are kept between runs: this user's folder on this machine, sealed, capped in size.

Deserialising an engine is running native code, so a file counts only if this very installation wrote it: each is sealed
with an HMAC under a secret that never leaves the folder, mixed with the machine's identity. Anything else, whether
damaged, stale or brought from elsewhere, is rebuilt with one line of explanation and never handed to a library.
"""

import errno
import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from hffnet.runtime.engines.builder import BuildOptions, BuiltEngine
from hffnet.runtime.engines.flavour import FlavourName
from hffnet.runtime.engines.sidecar import Sidecar

FOLDER_VARIABLE = "HFFNET_CACHE_DIR"
FOLDER_SUFFIX = ".files"
"""Of folders that a library fills itself; see ``sealed_folder``."""

MAX_BYTES = 8 << 30
"""Least recently used files go first once the folder holds more."""

_MAGIC = b"hffnet sealed 1\n"
_SEAL = hashlib.sha256().digest_size
_MAX_FILE_BYTES = 8 << 30
_SUFFIX = ".sealed"
_MAX_HEADER = 1 << 20
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/proc/device-tree/serial-number"))
_log = logging.getLogger(__name__)


class NotSealedHereError(Exception):
    """A file that this installation did not write, or not as it is now; carries the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """What an engine depends on: if any of it changes, the engine is another one.

    Attributes:
        gpu: name and architecture, e.g. ``NVIDIA RTX A4000 sm86``.
    """

    onnx_sha256: str
    library: FlavourName
    library_version: str
    gpu: str
    options: BuildOptions

    @property
    def stem(self) -> str:
        """File name: everything but the library's version, so that an old engine is found, explained and replaced."""
        parts = {**asdict(self), "library_version": ""}
        return f"{self.library}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]}"


def cache_folder() -> Path:
    """The folder: ``HFFNET_CACHE_DIR`` where set, else the user's own cache of this system."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else user_cache_path("hffnet")


class EngineCache:
    """Sealed files in one folder; safe for several processes at once.

    Every failure of the folder itself (read-only, full, open to others) is said once as a warning and costs only time.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self._max_bytes = max_bytes

    def engine(self, key: EngineKey, build: Callable[[], BuiltEngine]) -> tuple[memoryview, Sidecar]:
        """The stored engine, or a new one that is stored.

        Raises:
            HffnetError: whatever ``build`` raises.
        """
        with ExitStack() as held:
            usable = self._enter_lock(key.stem, held)
            # A folder that can only be read, as of a system image, still serves what it holds.
            if usable or self._is_trusted():
                stored = self._load(key, lambda built_by: built_by == key.library_version)
                if stored is not None:
                    return stored
            built = build()
            if usable:
                content = _header(key, built.sidecar) + built.engine
                self._store_or_warn(key.stem, content)
            return memoryview(built.engine), built.sidecar

    def stored(self, key: EngineKey, runs: Callable[[str], bool]) -> tuple[memoryview, Sidecar] | None:
        """An engine that another library of this machine built and this one may run; None where there is none.

        Args:
            key: as the builder's, whatever its version.
            runs: whether an engine built by that version can be run.
        """
        return self._load(key, runs)

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Whether the folder can be used; while the block runs no other process holds ``name``."""
        with ExitStack() as held:
            yield self._enter_lock(name, held)

    def read(self, name: str) -> bytes | None:
        """A sealed blob (timing cache, runtime cache, choice of engine); None where there is none that is sound."""
        try:
            return bytes(self._unsealed(name))
        except FileNotFoundError:
            return None
        except (NotSealedHereError, OSError) as error:
            _log.warning("%s is not used and will be made anew: %s", self._path(name), error)
            return None

    def write(self, name: str, content: bytes) -> None:
        """Seal and store a blob; a warning where the folder does not allow it."""
        with ExitStack() as held:
            if self._enter_lock(name, held):
                self._store_or_warn(name, content)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _enter_lock(self, name: str, held: ExitStack) -> bool:
        """Whether the folder can be used; then its lock for ``name`` is held until ``held`` ends."""
        try:
            self._prepare()
            lock = FileLock(self.folder / f"{name}.lock")
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                _log.warning("another process is building %s; waiting for it", name)
                held.enter_context(lock.acquire())
        except (OSError, NotSealedHereError) as error:
            _log.warning(
                "the engine cache %s cannot be %s: %s; what it cannot serve is built anew at each start (set %s to a"
                " folder that only you can write)",
                self.folder,
                "written" if isinstance(error, OSError) else "used",
                getattr(error, "strerror", None) or error,
                FOLDER_VARIABLE,
            )
            return False
        return True

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner()
        if not os.access(self.folder, os.W_OK):
            raise OSError(errno.EROFS, "it is read-only")

    def _is_trusted(self) -> bool:
        try:
            self._check_owner()
        except (OSError, NotSealedHereError):
            return False
        return self.folder.is_dir()

    def _check_owner(self) -> None:
        """Who may write here could replace the secret, and seal what this process would then run."""
        found = self.folder.stat()
        if found.st_uid != os.getuid():
            raise NotSealedHereError(f"its folder belongs to user {found.st_uid}")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotSealedHereError(f"others can write to its folder (mode {stat.S_IMODE(found.st_mode):o})")

    def _load(self, key: EngineKey, runs: Callable[[str], bool]) -> tuple[memoryview, Sidecar] | None:
        path = self._path(key.stem)
        try:
            stored = _engine_from_content(self._unsealed(key.stem), key, runs)
        except FileNotFoundError:
            return None
        except (NotSealedHereError, OSError, ValueError, KeyError) as error:
            _log.warning("the stored engine %s is not used and is built anew: %s", path, error)
            return None
        return stored

    def _unsealed(self, name: str) -> memoryview:
        self._check_owner()
        path = self._path(name)
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or not len(_MAGIC) + _SEAL <= found.st_size <= _MAX_FILE_BYTES:
                raise NotSealedHereError("it is damaged")
            content = memoryview(file.read())
        if content[: len(_MAGIC)] != _MAGIC:
            raise NotSealedHereError("it is not a file of this cache")
        seal, content = content[len(_MAGIC) : len(_MAGIC) + _SEAL], content[len(_MAGIC) + _SEAL :]
        if not hmac.compare_digest(seal, self._seal(name, content)):
            raise NotSealedHereError("it is damaged, or was not written by this user on this machine")
        with suppress(OSError):  # a folder that can only be read
            os.utime(path)  # most recently used
        return content

    def _seal(self, name: str, content: bytes | memoryview) -> bytes:
        digest = hmac.new(self._secret(), name.encode() + b"\0", hashlib.sha256)
        digest.update(content)
        return digest.digest()

    def _secret(self) -> bytes:
        path = self.folder / "secret"
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            secret = b""
        if len(secret) != _SEAL:
            # Several processes may get here at once: the first link wins and all read it.
            temporary = self.folder / f".secret.{os.getpid()}.{secrets.token_hex(4)}"
            _write_durably(temporary, secrets.token_bytes(_SEAL))
            try:
                if secret:
                    temporary.replace(path)
                else:
                    os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink(missing_ok=True)
            secret = path.read_bytes()
        machine = b"".join(place.read_bytes() for place in _MACHINE_IDS if place.is_file())
        return hashlib.sha256(secret + machine).digest()

    def _store_or_warn(self, name: str, content: bytes) -> None:
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.part")
        try:
            _write_durably(temporary, _MAGIC, self._seal(name, content), content)
            temporary.replace(path)
            self._evict(keep=path)
        except OSError as error:
            _log.warning(
                "%s could not be stored (%s); it is made anew at the next start", path, error.strerror or error
            )
        finally:
            temporary.unlink(missing_ok=True)

    def _evict(self, keep: Path) -> None:
        entries = [(path, path.stat().st_mtime, _size_of(path)) for path in self.folder.glob(f"*{_SUFFIX}")]
        entries += [(path, path.stat().st_mtime, _size_of(path)) for path in self.folder.glob(f"*{FOLDER_SUFFIX}")]
        total = sum(size for _, _, size in entries)
        for path, _, size in sorted(entries, key=lambda entry: entry[1]):
            if total <= self._max_bytes:
                return
            if path != keep and path.stem != keep.stem.removesuffix("-files"):
                _log.info("removing %s: the cache holds more than %d MB", path, self._max_bytes // 1_000_000)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                total -= size


def _size_of(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def _engine_from_content(
    content: memoryview, key: EngineKey, runs: Callable[[str], bool]
) -> tuple[memoryview, Sidecar]:
    end = bytes(content[:_MAX_HEADER]).index(b"\n")
    header = json.loads(bytes(content[:end]))
    sidecar = Sidecar.model_validate_json(json.dumps(header["sidecar"]))
    if not runs(sidecar.library_version):
        raise NotSealedHereError(
            f"it is stale: built by {sidecar.library} {sidecar.library_version}, this is {key.library_version}"
        )
    wanted = {**asdict(key), "library_version": sidecar.library_version}
    if header["key"] != json.loads(json.dumps(wanted)):
        raise NotSealedHereError("it was built for another graph, GPU or option")
    return content[end + 1 :], sidecar


def _header(key: EngineKey, sidecar: Sidecar) -> bytes:
    return json.dumps({"key": asdict(key), "sidecar": sidecar.model_dump(mode="json")}).encode() + b"\n"


def _write_durably(path: Path, *parts: bytes) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
