"""The query parameters of each route, and the choice of an answer's type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from bundle.errors import InvalidInput
from bundle.masking import Masking, complementary_maskings, least_passes, masking_from_removed, random_masking
from service.errors import BadParameter, NotAcceptable
from service.filters import MAX_FILTERS
from service.programs import PoolingName

M = TypeVar("M", bound=BaseModel)

Q = TypeVar("Q", bound="Query")

_POOLINGS: tuple[PoolingName, ...] = ("cls", "mean", "patches")

_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)  # RFC 9110, section 12.4.2

JSON = "application/json"
OCTETS = "application/octet-stream"
NPY = "application/x-npy"
PNG = "image/png"
JPEG = "image/jpeg"


def _told_as_list(**item: Any) -> WithJsonSchema:
    """For OpenAPI: values of this kind, each once, separated by commas."""
    return WithJsonSchema({"type": "array", "items": item, "minItems": 1, "uniqueItems": True})


class Query(BaseModel):
    """The parameters of a route that takes none; the others add theirs. REPEATABLE: those that may come several times,
    and are tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    REPEATABLE: ClassVar[tuple[str, ...]] = ()


class EmbedQuery(Query):
    """`pooling`: in the order of the answer, whatever the order asked for; empty is the bundle's default."""

    pooling: Annotated[str | None, _told_as_list(enum=list(_POOLINGS))] = Field(
        None, description="cls, mean or patches, or several separated by commas; the bundle's own by default."
    )
    normalize: bool = Field(default=True, description="Whether every vector is scaled to length 1.")
    keep: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Part of the patches that the encoder sees: less is faster and less exact."
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="Type of the values sent back.")

    @field_validator("pooling")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            names = value.split(",")
            if not set(names) <= set(_POOLINGS) or len(set(names)) != len(names):
                raise ValueError(f"must be some of {', '.join(_POOLINGS)}, each once, got {value!r}")
        return value

    def poolings(self, default: PoolingName) -> tuple[PoolingName, ...]:
        return _in_order(default if self.pooling is None else self.pooling)


@lru_cache(maxsize=64)
def _in_order(names: str) -> tuple[PoolingName, ...]:
    chosen = set(names.split(","))
    return tuple(pooling for pooling in _POOLINGS if pooling in chosen)


class ClassifyQuery(Query):
    top_k: Annotated[int, Field(ge=1)] = Field(5, description="Most probable labels per image; at most all there are.")


class SearchQuery(Query):
    """`filter`: as given; what they mean depends on the index (service.filters)."""

    REPEATABLE = ("filter",)

    k: Annotated[int, Field(ge=1, le=100)] = Field(10, description="Rows per image; at most all that pass the filters.")
    filter: Annotated[tuple[str, ...], Field(max_length=MAX_FILTERS)] = Field(
        (), description="COLUMN=VALUE, also with !=, <, <=, >, >=; several values by comma; repeatable, all must hold."
    )


class ThumbnailQuery(Query):
    size: Annotated[int, Field(ge=32, le=512)] = Field(160, description="Pixels of the longer side, at most.")


class ReconstructQuery(Query):
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Part of the patches to remove at random; 0.75 by default. Not together with mask."
    )
    mask: Annotated[str | None, _told_as_list(type="integer", minimum=0)] = Field(
        None, description="Indices of the patches to remove, row by row from 0, separated by commas."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="Chooses the random patches.")
    passes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Reconstructions under as many masks, for an anomaly map of all patches. Not with mask."
    )
    scale_max: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Error at which the colours of the anomaly map end; its largest by default. Only with passes."
    )

    @field_validator("mask")
    @classmethod
    def _indices(cls, value: str | None) -> str | None:
        if value is not None and not all(
            part.isascii() and part.isdigit() and len(part) < 10 for part in value.split(",")
        ):
            raise ValueError("must be patch indices separated by commas, such as 0,5,17")
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> ReconstructQuery:
        if self.mask is not None and self.mask_ratio is not None:
            raise ValueError("give mask or mask_ratio, not both")
        if self.mask is not None and self.passes is not None:
            raise ValueError("give mask or passes, not both: passes hide every patch in turn")
        if self.scale_max is not None and self.passes is None:
            raise ValueError("scale_max goes with passes: it is for the colours of the anomaly map")
        return self

    @property
    def removed(self) -> list[int] | None:
        """Patch indices, None if they are to be drawn."""
        return None if self.mask is None else [int(part) for part in self.mask.split(",")]

    @property
    def ratio(self) -> float:
        return 0.75 if self.mask_ratio is None else self.mask_ratio

    def maskings(self, num_patches: int, *, max_passes: int) -> list[Masking]:
        """One, or one per pass, of an image of so many patches. BadParameter if the mask or the passes do not fit."""
        if self.passes is not None:
            self._check_passes(self.passes, num_patches, max_passes)
            return complementary_maskings(num_patches, self.ratio, self.seed, self.passes)
        if self.removed is None:
            return [random_masking(num_patches, self.ratio, self.seed)]
        try:
            return [masking_from_removed(num_patches, self.removed)]
        except InvalidInput as e:
            raise BadParameter(str(e), param="mask") from e

    def _check_passes(self, passes: int, num_patches: int, max_passes: int) -> None:
        try:
            least = least_passes(num_patches, self.ratio)
        except ValueError as e:
            raise BadParameter(f"passes: {e}", param="passes") from e
        if passes < least:
            raise BadParameter(
                f"passes: with mask_ratio {self.ratio:g} it takes at least {least} to hide every patch, got {passes}",
                param="passes",
            )
        if passes > max_passes:
            raise BadParameter(
                f"passes: at most {max_passes} in one request (MAEVE_MAX_IMAGES, and half of a worker's share of "
                f"MAEVE_MAX_QUEUE), got {passes}",
                param="passes",
            )


def validate(model: type[M], data: Any) -> M:
    """`data` as the model reads it. BadParameter for the first of the complaints."""
    try:
        return model.model_validate(data)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        unknown = first["type"] == "extra_forbidden"
        message = "unknown parameter" if unknown else first["msg"].removeprefix("Value error, ")
        raise BadParameter(f"{param}: {message}" if param else message, param=param) from e


def embed_type(accept: str | None, poolings: Sequence[PoolingName]) -> str:
    """The type to answer /embed in. BadParameter for several poolings in a type that holds one tensor."""
    media_type = negotiate(accept, (JSON, OCTETS, NPY))
    if media_type != JSON and len(poolings) > 1:
        raise BadParameter(f"{media_type} holds one pooling, got {','.join(poolings)}", param="pooling")
    return media_type


@lru_cache(maxsize=256)
def negotiate(accept: str | None, offers: tuple[str, ...]) -> str:
    """The offer that an Accept header likes best, the first of `offers` among equals (RFC 9110, section 12.5.1).

    NotAcceptable if it likes none.
    """
    ranges = [_media_range(part) for part in (accept or "*/*").split(",")]
    quality = {offer: _quality(offer, ranges) for offer in offers}
    best = max(offers, key=lambda offer: quality[offer])
    if quality[best] <= 0:
        raise NotAcceptable(f"cannot answer in {accept}; there are {', '.join(offers)}")
    return best


def _media_range(text: str) -> tuple[str, float]:
    """The name, and its weight: 0 where that is none, as of `q=nan`."""
    name, *parameters = [part.strip().lower() for part in text.split(";")]
    for parameter in parameters:
        if parameter.startswith("q="):
            return name, float(parameter[2:]) if _WEIGHT.fullmatch(parameter, 2) else 0.0
    return name, 1.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """That of the most specific range that covers the offer."""
    kind = offer.split("/")[0]
    for name in (offer, f"{kind}/*", "*/*"):
        for candidate, quality in ranges:
            if candidate == name:
                return quality
    return 0.0
