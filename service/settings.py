"""Every knob of the service: `MAEVE_*` variables, and a command-line flag for each. docs/settings.md explains them.

Units stand in the names: `_bytes`, `_ms`, `_s`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from bundle.cli.command import Interface
from bundle.cli.flags import Flag, UsageError, read
from bundle.decode import MAX_PIXELS
from bundle.formats import DEFAULT, default_formats, parse_formats
from bundle.store import Bundle
from runtime import DEVICE_PATTERN, PrecisionName, Runtime, RuntimeName, open_runtime
from service.keys import SHORT_FORM, Key, hashed, parse_keys
from service.origins import parse_origins
from service.redis_url import parse_redis_url

PREFIX = "MAEVE_"
EXAMPLES: Final = (
    "python -m service --bundle models/default",
    "python -m service --bundle bundles/photos --host 0.0.0.0 --port 9000",
    "python -m service --bundle bundles/photos --device cuda:0 --redis-url redis://localhost:6379/0",
    "python -m service --bundle bundles/photos --check",
)

_DEVICES = r"(cpu|cuda(:\d+)?)(,(cpu|cuda(:\d+)?))*"

_Count = Annotated[int, Field(ge=1)]
_Size = Annotated[int, Field(ge=0)]
_Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_LIMITS = {"ge": "at least", "le": "at most", "gt": "above"}  # by pydantic's names


def _device(name: str) -> str:
    if not re.fullmatch(DEVICE_PATTERN, name):
        raise ValueError(f"must be auto, cpu, cuda or one such as cuda:1, got {name!r}")
    return name


def _device_list(names: str) -> str:
    if not re.fullmatch(_DEVICES, names):
        raise ValueError(f"must be cpu, cuda, cuda:1 or several such separated by commas, got {names!r}")
    return names


def _redis_prefix(text: str) -> str:
    if not re.fullmatch(r"[\w.:/{}-]{1,64}", text):
        raise ValueError(f"takes up to 64 letters, digits and any of _ . : / {{ }} -, got {text!r}")
    return text


def _redis_url(url: str) -> str:
    parse_redis_url(url)
    return url


def _index_location(text: str) -> str:
    if re.match(r"(db|https?)://", text, re.IGNORECASE):
        raise ValueError(f"must be a folder, or a URL such as s3://bucket/index, got {text!r}")
    return text


_DEFAULT_FORMATS = f"{', '.join(DEFAULT[:-1])}, and {DEFAULT[-1]}"


def _check_formats(text: str) -> str:
    parse_formats(text)
    return text


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message names it and says what would be right."""


class _StrictEnv(EnvSettingsSource):
    """The environment, where a `MAEVE_` name that is no setting is an error: a typo must not pass for a default."""

    def __call__(self) -> dict[str, Any]:
        known = [PREFIX + name.upper() for name in self.settings_cls.model_fields]
        for name in sorted(os.environ):
            if name.upper().startswith(PREFIX) and name.upper() not in known:
                closest = get_close_matches(name.upper(), known, n=1, cutoff=0)[0]
                raise SettingsError(f"unknown setting {name}; did you mean {closest}?")
        return super().__call__()


class Settings(BaseSettings):
    """Read from arguments first, then the environment, then the defaults. SettingsError for an unknown variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    bundle: Path = Field(Path("models/default"), description="Folder of the bundle to serve.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 is every address of the machine.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on; 0 takes a free one.")
    runtime: RuntimeName = Field(
        "auto",
        description="Engine: auto, onnxruntime, onnxruntime-tensorrt, openvino, tensorrt, or fake for tests; "
        "auto is the fastest one installed.",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        "auto",
        description="Where it runs: cpu, cuda, cuda:1; auto is a GPU if an installed engine can use one. "
        "A GPU asked for by name is never replaced by the CPU.",
    )
    devices: Annotated[str, AfterValidator(_device_list)] | None = Field(
        None,
        description="Several, separated by commas, each with a process of its own: cuda:0,cuda:1; empty is device.",
    )
    precision: PrecisionName = Field(
        "auto",
        description="What is computed in: fp32, bf16 (OpenVINO), fp16, int8; auto is the fastest of those in the "
        "bundle and on the device.",
    )
    workers: _Count = Field(
        1, description="HTTP processes; more than one, or several devices, gives every device a process of its own."
    )
    stall_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        30, description="A model call, a decoding, or a silence of a process, that lasts longer counts as hung."
    )
    engine_cache: Path | None = Field(
        None, description="Folder where TensorRT keeps its engines; empty is maeve/engines in the user's cache folder."
    )
    lanes: _Count | None = Field(
        None, description="Model calls at once; empty lets the runtime choose, one per usable core on a CPU."
    )
    max_batch: _Count | None = Field(None, description="Most images per model call; empty lets the runtime choose.")
    decode_threads: _Size | None = Field(
        None,
        description="Images decoded beside the model; 0 decodes on its lanes; empty is 0 on a CPU, else one per core. "
        "Several workers decode beside it in any case, and share this number.",
    )
    max_queue: _Count = Field(
        256, description="Images waiting or being worked on before further requests get 429; at least max_images."
    )
    max_images: _Count = Field(64, description="Images per request; more are refused with 413.")
    max_body_bytes: _Count = Field(32 * 2**20, description="Bytes per request body; more are refused with 413.")
    max_pixels: _Count = Field(MAX_PIXELS, description="Pixels per image, by its header; more are refused with 413.")
    timeout_ms: _Duration = Field(
        30_000,
        description="Time a request may take, its upload included; then 504. X-Request-Timeout-Ms asks for less.",
    )
    io_timeout_s: _Duration = Field(
        20, description="Time for a client to send a request's headers, or to take the next part of an answer."
    )
    drain_s: _Duration = Field(30, description="After SIGTERM, time for requests in flight; what is left gets 503.")
    keep_alive_s: _Count = Field(65, description="Time an idle connection is kept; above that of a proxy in front.")
    formats: Annotated[str, AfterValidator(_check_formats)] | None = Field(
        None,
        description="Image formats that are read, separated by commas; all is whatever Pillow decodes by itself; empty "
        f"is {_DEFAULT_FORMATS} where pillow-heif is installed.",
    )
    cache_bytes: _Size = Field(
        64 * 2**20, description="Memory for results, shared out among the workers; 0 is no such cache."
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None,
        description="Redis that shares results between services: redis://host:6379/0, rediss:// for TLS, "
        "redis+sentinel://host:26379,host2:26379/master, redis+cluster://host:6379,host2:6379; empty is none.",
    )
    redis_timeout_ms: _Duration = Field(50, description="Time one call to Redis may take; then it counts as a miss.")
    redis_ttl_s: _Count = Field(7 * 24 * 3600, description="How long Redis keeps a result.")
    redis_prefix: Annotated[str, AfterValidator(_redis_prefix)] = Field(
        "maeve", description="What every key in Redis begins with, before a colon."
    )
    image_urls: bool = Field(
        default=False, description="Whether images may be named by https URLs on public addresses, which are fetched."
    )
    image_url_timeout_ms: _Duration = Field(5000, description="Time to fetch an image from its URL.")
    search_index: Annotated[str, AfterValidator(_index_location)] | None = Field(
        None,
        description="Index that POST /search asks: a folder, or the URL of one in an object store, as python -m "
        "bulk.index makes it; empty is none.",
    )
    thumbnails: Path | None = Field(
        None, description="Folder in which the images of the index lie by their paths, for small pictures of them."
    )
    api_keys: str | None = Field(
        None,
        description="Several keys, hashed: name:sha256, or name:sha256:rate with a limit of its own, separated by "
        "commas; python -m service.keys NAME makes one.",
    )
    rate_limit: _Duration | None = Field(
        None, description="Requests per second for each API key, in bursts of twice as many; empty is no limit."
    )
    cors_origins: str | None = Field(
        None, description="Origins whose pages may call the service, separated by commas, or *; empty is none."
    )
    api_key: SecretStr | None = Field(
        None, min_length=1, description="Key that requests must carry; empty asks for none. Environment only."
    )
    metrics_api_key: bool = Field(default=False, description="Whether /metrics asks for the API key too.")
    access_log: bool = Field(default=False, description="Whether to log a line for every request.")
    log_format: Literal["text", "json"] = Field("text", description="One line of text, or of JSON, per record.")
    traces: bool = Field(
        default=False, description="Whether to send OpenTelemetry traces; the OTEL_* variables say where to."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")

    @field_validator("api_keys")
    @classmethod
    def _keys_parse(cls, value: str | None) -> str | None:
        if value is not None:
            parse_keys(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_parse(cls, value: str | None) -> str | None:
        if value is not None:
            parse_origins(value)
        return value

    @model_validator(mode="after")
    def _limits_have_keys(self) -> Settings:
        if self.rate_limit is not None and not self.keys():
            raise ValueError("rate_limit is per API key: set api_keys or MAEVE_API_KEY too")
        if [key.name for key in self.keys()].count(SHORT_FORM) > 1:
            raise ValueError(f"api_keys: {SHORT_FORM} is the name of MAEVE_API_KEY")
        return self

    def keys(self) -> tuple[Key, ...]:
        """All API keys; none if the service asks for none."""
        short = () if self.api_key is None else (hashed(SHORT_FORM, self.api_key.get_secret_value()),)
        return (*short, *(() if self.api_keys is None else parse_keys(self.api_keys)))

    @field_validator("api_key")
    @classmethod
    def _key_is_not_blank(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().strip() != value.get_secret_value():
            raise ValueError("must not begin or end with a blank, which no header can carry")
        return value

    @model_validator(mode="after")
    def _metrics_have_a_key(self) -> Settings:
        if self.metrics_api_key and not self.keys():
            raise ValueError("metrics_api_key asks for a key, and there is none: set MAEVE_API_KEYS or MAEVE_API_KEY")
        return self

    @model_validator(mode="after")
    def _one_way_to_name_devices(self) -> Settings:
        if self.devices is not None and self.device != "auto":
            raise ValueError(f"devices ({self.devices}) and device ({self.device}) exclude each other")
        return self

    @model_validator(mode="after")
    def _queue_fits_a_request(self) -> Settings:
        if self.max_queue < self.max_images:
            raise ValueError(f"max_queue ({self.max_queue}) must be at least max_images ({self.max_images})")
        return self

    @property
    def device_names(self) -> tuple[str, ...]:
        return (self.device,) if self.devices is None else tuple(self.devices.split(","))

    @property
    def has_device_processes(self) -> bool:
        """Whether devices run in processes of their own."""
        return self.workers > 1 or len(self.device_names) > 1

    @property
    def allowed_formats(self) -> tuple[str, ...]:
        """The image formats that are read."""
        return default_formats() if self.formats is None else parse_formats(self.formats)

    def bundle_folder(self) -> Path:
        """Where the bundle's path leads now, settled once: a link that is turned to another folder meanwhile must not
        mix two bundles. Unchanged if nothing is there: an error should name what was asked for.
        """
        return self.bundle.resolve() if self.bundle.exists() else self.bundle

    def on_device(self, name: str) -> Settings:
        """For the process of one device."""
        return self.model_copy(update={"device": name, "devices": None})

    def open_runtime(self, bundle: Bundle) -> Runtime:
        """As runtime.open_runtime, for these settings; of several devices the first."""
        return open_runtime(
            bundle, self.runtime, device=self.device_names[0], precision=self.precision, lanes=self.lanes,
            engine_cache=self.engine_cache,
        )  # fmt: skip

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; no .env and no files of secrets."""
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, _StrictEnv(settings_cls)


def read_settings(argv: Sequence[str] | None = None) -> Settings:
    """The settings of a command line, by default this process's, over those of the environment.

    SettingsError naming the setting that is unknown or out of range, UsageError for an unknown flag; SystemExit for
    --help and --version.
    """
    return read_command(argv)[0]


def read_command(argv: Sequence[str] | None = None) -> tuple[Settings, bool]:
    """As `read_settings`, and whether --check was given."""
    texts = interface().read(argv)
    only_check = bool(texts.pop("check", False))
    flags: dict[str, Any] = {name: text[0] for name, text in texts.items() if not isinstance(text, bool)}
    try:
        return Settings(**flags), only_check
    except ValidationError as e:
        raise SettingsError("; ".join(_complaint(error, flags) for error in e.errors(include_url=False))) from e


def interface() -> Interface:
    """The command line: a flag for every setting but the key, since the list of processes shows flags to everybody."""
    check = Flag(
        name="check", spelling="--check", takes=bool, default=None,
        help="Open the bundle, prove it, say what would be served, and end.",
    )  # fmt: skip
    settings = [_setting(name, field) for name, field in Settings.model_fields.items() if name != "api_key"]
    return Interface(
        module="service",
        sentence="Serve a bundle over HTTP.",
        about="Every setting is a variable too: --max-queue is MAEVE_MAX_QUEUE, and a flag overrides it. "
        "MAEVE_API_KEY has no flag.",
        flags=(check, *settings),
        examples=EXAMPLES,
        page="docs/settings.md",
        statuses={
            0: "done: told to stop by SIGTERM or Ctrl-C, it finished what was in flight; or the check passed",
            130: "stopped by Ctrl-C before it served",
        },
    )


def _setting(name: str, field: FieldInfo) -> Flag:
    """What pydantic checks is no matter of the command line, whose types only show what to write."""
    return Flag(
        name=name, spelling=_flag(name), takes=_shown_as(field.annotation), help=field.description or "",
        default=show_default(field), group="settings",
    )  # fmt: skip


def _shown_as(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if NoneType in get_args(annotation):
        annotation = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
    return Literal["true", "false"] if annotation is bool else annotation


def _complaint(error: ErrorDetails, flags: Container[str]) -> str:
    """In the words that every command has for a type and a range, and the setting's own for the rest."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    spelling = _flag(name) if name in flags else PREFIX + name.upper()
    flag = replace(_setting(name, Settings.model_fields[name]), spelling=spelling)
    if flag.takes in (int, float) or flag.choices:
        try:
            read(flag, [str(error["input"])])
        except UsageError as e:
            return str(e)
    for limit, words in _LIMITS.items():
        if limit in error.get("ctx", {}):
            return f"{spelling} must be {words} {error['ctx'][limit]:g}, got {error['input']}"
    return f"{spelling}: {message}"


def show_default(field: FieldInfo) -> str:
    """The default as one would write it into the environment; "empty" for none."""
    default = field.default
    return "empty" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
