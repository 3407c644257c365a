"""The Open Inference Protocol's JSON: what is read, held against these models; what is answered, for /openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.programs import FeatureName

INPUTS = {"images": "BYTES", "pixels": "UINT8", "ids_keep": "INT64"}  # name -> datatype
FEATURES: tuple[FeatureName, ...] = ("cls", "mean", "tokens")
LOGITS = "logits"

_MAX_AXES = 8
_Size = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputParameters(_Strict):
    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Bytes of the tensor, which follow the JSON in the order of the inputs."
    )


class InferInput(_Strict):
    name: str
    shape: Annotated[list[_Size], Field(max_length=_MAX_AXES)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_Strict):
    binary_data: bool | None = None


class InferOutput(_Strict):
    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Strict):
    binary_data_output: bool = False


class InferRequest(_Strict):
    id: str | None = None
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=len(INPUTS))]
    outputs: Annotated[list[InferOutput], Field(max_length=len(FEATURES) + 1)] | None = None


class AnswerParameters(BaseModel):
    binary_data_size: int


class AnswerTensor(BaseModel):
    name: str
    datatype: Literal["FP32"]
    shape: list[int]
    parameters: AnswerParameters | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[AnswerTensor]


class TensorMetadata(BaseModel):
    name: str
    datatype: Literal["BYTES", "UINT8", "INT64", "FP32"]
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: Literal["maeve"]
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: Literal["maeve"]
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool
