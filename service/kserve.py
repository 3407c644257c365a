"""The Open Inference Protocol v2 with binary tensors: requests read, answers written.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol. Letters: N images, H x W pixels, C
channels, L patches, K patches kept, D width.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.masking import keep_ids
from service import encode
from service.body import parse_json
from service.cache import CachePolicy
from service.engine import Engine
from service.errors import BadParameter, UnknownModel
from service.images import check_count, from_base64, most_keys
from service.kserve_shapes import FEATURES, INPUTS, LOGITS, InferInput, InferRequest
from service.options import OCTETS, validate
from service.outcome import Answer
from service.programs import FeatureName, Item
from service.sent import Sent

HEADER_LENGTH = "inference-header-content-length"

# Numbers in JSON take ten times the memory and a hundred times the time of binary ones.
_MAX_JSON_VALUES = 2**21

_LENGTH = struct.Struct("<I")
_DTYPES: dict[str, np.dtype[np.integer[Any]]] = {"UINT8": np.dtype("u1"), "INT64": np.dtype("<i8")}

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Inference:
    """What is asked for. `outputs`: name -> whether it is sent as binary, in the order of the answer."""

    id: str | None
    images: Sequence[Sent]
    num_keep: int
    outputs: Mapping[str, bool]

    @property
    def features(self) -> tuple[FeatureName, ...]:
        return tuple(name for name in FEATURES if name in self.outputs)

    @property
    def wants_logits(self) -> bool:
        return LOGITS in self.outputs


def version(manifest: Manifest) -> str:
    """Another bundle is another version, whatever its name."""
    return manifest.digest[:12]


def check_model(path_params: Mapping[str, str], manifest: Manifest) -> None:
    """UnknownModel if the path's `model`, or its `version` if it has one, is not the bundle's."""
    if path_params["model"] != manifest.name:
        raise UnknownModel(f"there is no model {path_params['model']!r}; this service has {manifest.name!r}")
    if path_params.get("version", version(manifest)) != version(manifest):
        raise UnknownModel(f"there is no version {path_params['version']!r}; this service has {version(manifest)!r}")


def describe(manifest: Manifest) -> dict[str, Any]:
    """The metadata of the bundle as a model: every tensor that it takes and gives."""
    model = manifest.model
    inputs = [
        _tensor("images", "BYTES", -1),
        _tensor("pixels", "UINT8", -1, *model.image_size, model.channels),
        _tensor("ids_keep", "INT64", -1, -1),
    ]
    shapes: dict[str, tuple[int, ...]] = {"cls": (model.dim,), "mean": (model.dim,), "tokens": (-1, model.dim)}
    if manifest.num_classes is not None:
        shapes[LOGITS] = (manifest.num_classes,)
    outputs = [_tensor(name, "FP32", -1, *shape) for name, shape in shapes.items()]
    return {
        "name": manifest.name, "versions": [version(manifest)], "platform": "maeve",
        "inputs": inputs, "outputs": outputs,
    }  # fmt: skip


def read_request(body: bytes, header_length: str | None, manifest: Manifest, max_images: int) -> Inference:
    """A body of JSON, with tensors behind it where `header_length` says how much of it is JSON.

    Errors: BadParameter naming the tensor or field, TooLarge, and InvalidInput for an image in broken base64.
    """
    head, rest = _split(body, header_length)
    document = parse_json(head, max_values=_MAX_JSON_VALUES, max_keys=most_keys(max_images))
    request = validate(InferRequest, document)
    tensors = _read_tensors(request.inputs, rest, max_images)
    images = _images(tensors, manifest)
    ids, num_keep = tensors.get("ids_keep"), manifest.model.num_patches
    if ids is not None:
        _check_ids(ids, len(images), num_keep)
        num_keep = ids.shape[1]
        encoded = [image.image if isinstance(image, Item) else image for image in images]
        images = [Item(image, row) for image, row in zip(encoded, ids, strict=True)]
    return Inference(request.id, images, num_keep, _outputs(request, manifest, masked=ids is not None))


async def compute(asked: Inference, engine: Engine, deadline: float, policy: CachePolicy) -> tuple[Answer, Tensors]:
    """What the model gave in all, and the tensor of every output. Raises as the methods of Engine."""
    answers: list[Answer] = []
    tensors: Tensors = {}
    if asked.features:
        answers.append(await engine.encode(asked.images, asked.features, deadline, policy))
        tensors |= _split_features(answers[0], asked, engine.manifest.model.dim)
    if asked.wants_logits:
        answers.append(await engine.classify(asked.images, deadline, policy))
        tensors[LOGITS] = np.stack(answers[-1].values)  # [N, classes]
    return _joined(answers), tensors


def write_answer(asked: Inference, answer: Answer, tensors: Tensors, manifest: Manifest) -> Response:
    """The outputs that were asked for, in their order; those in binary behind the JSON."""
    outputs: list[dict[str, Any]] = []
    buffers: list[bytes] = []
    for name, binary in asked.outputs.items():
        tensor = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": tensor.shape}
        if binary:
            buffers.append(tensor.astype("<f4", copy=False).tobytes())
            output["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            output["data"] = tensor.ravel()
        outputs.append(output)
    head = {"model_name": manifest.name, "model_version": version(manifest)}
    head |= {} if asked.id is None else {"id": asked.id}
    response = encode.json({**head, "outputs": outputs}, answer)
    if not buffers:
        return response
    headers = dict(response.headers) | {HEADER_LENGTH: str(len(response.body)), "content-type": OCTETS}
    del headers["content-length"]
    return Response(b"".join([response.body, *buffers]), 200, headers)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON, and what follows it."""
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isascii() or not header_length.isdigit() or not 0 < int(header_length[:20]) <= len(body):
        raise BadParameter(
            f"{HEADER_LENGTH} must be the length of the JSON that begins the body of {len(body)} bytes, "
            f"got {header_length!r}", param=HEADER_LENGTH,
        )  # fmt: skip
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def _read_tensors(inputs: Sequence[InferInput], rest: memoryview, max_images: int) -> dict[str, Any]:
    """By name: for BYTES a list of bytes, else an array of the tensor's shape."""
    tensors: dict[str, Any] = {}
    for tensor in inputs:
        name = tensor.name
        if name not in INPUTS:
            raise BadParameter(f"inputs: no tensor is called {name!r}; there are {', '.join(INPUTS)}", param="inputs")
        if name in tensors:
            raise BadParameter(f"inputs: {name} is there twice", param=name)
        if tensor.datatype != INPUTS[name]:
            raise BadParameter(f"{name} must be {INPUTS[name]}, got {tensor.datatype!r}", param=name)
        if not tensor.shape or tensor.shape[0] == 0:
            raise BadParameter(f"{name} must have a shape that begins with the number of images", param=name)
        check_count(tensor.shape[0], max_images)
        raw, rest = _binary(tensor, rest)
        read = _elements if tensor.datatype == "BYTES" else _numbers
        tensors[name] = read(tensor, raw)
    if len(rest):
        raise BadParameter(f"the body has {len(rest)} bytes behind the tensors that its JSON names", param="body")
    return tensors


def _binary(tensor: InferInput, rest: memoryview) -> tuple[memoryview | None, memoryview]:
    """The tensor's own bytes, None if its values are in the JSON, and what follows them."""
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise BadParameter(f"{tensor.name} must have either data or binary_data_size", param=tensor.name)
    if size is None:
        return None, rest
    if size > len(rest):
        raise BadParameter(
            f"{tensor.name}: binary_data_size is {size}, and {len(rest)} bytes are left behind the JSON, whose length "
            f"{HEADER_LENGTH} must tell", param=tensor.name,
        )  # fmt: skip
    return rest[:size], rest[size:]


def _elements(tensor: InferInput, raw: memoryview | None) -> list[bytes]:
    """Encoded images: in the JSON as base64, in binary each behind its length in four bytes."""
    num_images = tensor.shape[0]
    if tensor.shape not in ([num_images], [num_images, 1]):
        raise BadParameter(f"{tensor.name} must be BYTES [N], got {tensor.shape}", param=tensor.name)
    if raw is None:
        texts = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in tensor.data or ()]
        _check_size(tensor, len(texts))
        return [from_base64(text, index) for index, text in enumerate(texts)]
    elements: list[bytes] = []
    while len(raw) >= _LENGTH.size and len(elements) < num_images:
        [length] = _LENGTH.unpack_from(raw)
        end = _LENGTH.size + length
        if end > len(raw):
            break
        elements.append(bytes(raw[_LENGTH.size : end]))
        raw = raw[end:]
    if len(raw) or len(elements) < num_images:
        raise BadParameter(
            f"{tensor.name} must hold {num_images} images, each behind its length in four bytes, little-endian",
            param=tensor.name,
        )
    return elements


def _numbers(tensor: InferInput, raw: memoryview | None) -> NDArray[Any]:
    dtype = _DTYPES[tensor.datatype]
    if raw is not None:
        if len(raw) != math.prod(tensor.shape) * dtype.itemsize:
            raise BadParameter(
                f"{tensor.name} of {tensor.datatype} {tensor.shape} has {math.prod(tensor.shape) * dtype.itemsize} "
                f"bytes, got {len(raw)}", param=tensor.name,
            )  # fmt: skip
        return np.frombuffer(raw, dtype).reshape(tensor.shape)
    try:
        array = np.asarray(tensor.data)
    except ValueError as e:  # lists of several lengths, or too deep
        raise _not_numbers(tensor) from e
    _check_size(tensor, array.size)
    info = np.iinfo(dtype)
    fits = not array.size or (array.dtype.kind in "iu" and info.min <= array.min() and array.max() <= info.max)
    if not fits or list(array.shape) not in ([array.size], tensor.shape):
        raise _not_numbers(tensor)
    return array.astype(dtype).reshape(tensor.shape)


def _check_size(tensor: InferInput, size: int) -> None:
    if size != math.prod(tensor.shape):
        raise BadParameter(
            f"{tensor.name} of shape {tensor.shape} must have {math.prod(tensor.shape)} values, got {size}",
            param=tensor.name,
        )


def _not_numbers(tensor: InferInput) -> BadParameter:
    info = np.iinfo(_DTYPES[tensor.datatype])
    return BadParameter(
        f"{tensor.name} must be whole numbers from {info.min} to {info.max}, in one list or nested as its shape",
        param=tensor.name,
    )


def _images(tensors: Mapping[str, Any], manifest: Manifest) -> Sequence[Sent]:
    """Encoded, or with pixels of the network's size."""
    if ("images" in tensors) == ("pixels" in tensors):
        raise BadParameter("inputs must hold either images or pixels", param="inputs")
    if "images" in tensors:
        images: list[bytes] = tensors["images"]
        return images
    pixels, model = tensors["pixels"], manifest.model
    if pixels.shape[1:] != (*model.image_size, model.channels):
        axes = ", ".join(map(str, (*model.image_size, model.channels)))
        raise BadParameter(f"pixels must be UINT8 [N, {axes}], got {list(pixels.shape)}", param="pixels")
    ids = keep_ids(model.num_patches, 1)
    return [Item(image, ids) for image in pixels]


def _check_ids(ids: NDArray[np.int64], num_images: int, num_patches: int) -> None:
    """Engines do not agree on what an id out of range or a second of a kind gives, so none of them is asked."""
    if ids.ndim != 2 or len(ids) != num_images or not 1 <= ids.shape[1] <= num_patches:
        raise BadParameter(
            f"ids_keep must be INT64 [{num_images}, K] with K from 1 to {num_patches}, got {list(ids.shape)}",
            param="ids_keep",
        )
    if ids.min() < 0 or ids.max() >= num_patches:
        raise BadParameter(f"ids_keep must name patches from 0 to {num_patches - 1}", param="ids_keep")
    if not np.diff(np.sort(ids, axis=1), axis=1).all():
        raise BadParameter("ids_keep names a patch of an image twice", param="ids_keep")


def _outputs(request: InferRequest, manifest: Manifest, *, masked: bool) -> dict[str, bool]:
    """Name -> whether as binary; without a list, all that these inputs give."""
    classifies = manifest.can_classify and not masked
    offered = (*FEATURES, LOGITS) if classifies else FEATURES
    default = request.parameters.binary_data_output
    if not request.outputs:
        return dict.fromkeys(offered, default)
    outputs: dict[str, bool] = {}
    for output in request.outputs:
        if output.name == LOGITS and masked and manifest.can_classify:
            raise BadParameter("logits are made of all patches: leave out ids_keep", param=LOGITS)
        if output.name not in offered:
            raise BadParameter(
                f"outputs: no tensor is called {output.name!r}; there are {', '.join(offered)}", param="outputs"
            )
        if output.name in outputs:
            raise BadParameter(f"outputs: {output.name} is there twice", param="outputs")
        binary = output.parameters.binary_data
        outputs[output.name] = default if binary is None else binary
    return outputs


def _split_features(answer: Answer, asked: Inference, dim: int) -> Tensors:
    """cls and mean [N, D], tokens [N, 1+K, D]."""
    rows = np.stack(answer.values).reshape(len(answer.values), -1, dim)  # [N, rows of all features, D]
    tensors: Tensors = {}
    start = 0
    for name in asked.features:
        size = 1 + asked.num_keep if name == "tokens" else 1
        part = rows[:, start : start + size]  # [N, 1 or 1+K, D]
        tensors[name] = part if name == "tokens" else part[:, 0]
        start += size
    return tensors


def _joined(answers: Sequence[Answer]) -> Answer:
    """Of the same images, one after the other: their times add up, and what is cached is so in all."""
    names = {name for answer in answers for name in answer.stages}
    stages = {name: sum(answer.stages.get(name, 0.0) for answer in answers) for name in names}
    return Answer(
        values=[value for answer in answers for value in answer.values],
        cached=[all(each) for each in zip(*(answer.cached for answer in answers), strict=True)],
        stages=stages,
        stored=all(answer.stored for answer in answers),
    )


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
