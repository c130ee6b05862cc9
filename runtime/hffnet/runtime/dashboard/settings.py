"""``[view]``: whether, where and for whom the live view listens."""

import ipaddress
import secrets
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hffnet.runtime.dashboard import DEFAULT_HOST, DEFAULT_PORT
from hffnet.runtime.errors import ConfigError

_FEWEST_LETTERS = 16
_MOST_TOKEN_BYTES = 4096


class ViewChoice(BaseModel):
    """The table.

    Attributes:
        host: address to listen on; anything beyond loopback needs TLS or ``behind_proxy``.
        port: 0 takes a free one.
        hosts: further names this view is reached by (``lab-pc.example``); what is not known is refused (DNS rebinding).
        behind_proxy: a proxy on the way brings TLS; it must pass the ``Host`` header on.
        tls_cert, tls_key: PEM files.
        token_file: holds the token alone; absent: a new one with every start.
        max_clients: how many may follow the live events at once.
        max_upload_mb: largest body of ``POST /v1/classify``.
        max_classify_per_s: most frames a second that programs may have classified beside the run.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    host: str = DEFAULT_HOST
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    hosts: tuple[Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:\[\]-]+$")], ...] = ()
    behind_proxy: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    max_clients: Annotated[int, Field(ge=1, le=64)] = 16
    max_upload_mb: Annotated[float, Field(gt=0.0, le=512.0)] = 64.0
    max_classify_per_s: Annotated[float, Field(gt=0.0, le=10_000.0)] = 20.0

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both or none")
        try:
            is_local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            if self.host != "localhost":
                raise ValueError(
                    f"host {self.host!r} is no address; expected one such as 127.0.0.1, ::1 or 0.0.0.0"
                    " (names it is reached by go into hosts)"
                ) from None
            is_local = True
        if not is_local and self.tls_cert is None and not self.behind_proxy:
            raise ValueError(
                f"host {self.host} can be reached from other machines, where token and pictures would travel in the"
                " clear; give tls_cert and tls_key (--tls-cert, --tls-key), or say behind_proxy (--behind-proxy) where"
                " a proxy brings TLS"
            )
        return self


def token_from_choice(choice: ViewChoice) -> str:
    """The token of ``token_file``, or a new one.

    Raises:
        ConfigError: the file cannot be read, others may read it, or it holds too little.
    """
    path = choice.token_file
    if path is None:
        return secrets.token_urlsafe(24)
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()[:_MOST_TOKEN_BYTES].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read ({error}); expected one line of ASCII text") from error
    if mode & 0o007:
        raise ConfigError(f"anyone on this machine can use the token file {path}; make it private: chmod 600 {path}")
    if len(text) < _FEWEST_LETTERS or not text.isprintable() or " " in text:
        raise ConfigError(
            f"the token in {path} has {len(text)} letters; expected at least {_FEWEST_LETTERS} without spaces, such as"
            " those of `openssl rand -hex 24`"
        )
    return text
