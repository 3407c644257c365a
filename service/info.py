"""GET /info: what is served."""

from __future__ import annotations

from typing import Any

from bundle.cli.version import maeve_version
from service.device import DeviceInfo
from service.engine import Engine
from service.search import Search
from service.settings import Settings


def describe(engine: Engine, settings: Settings, search: Search | None) -> dict[str, Any]:
    manifest, model = engine.manifest, engine.manifest.model
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "created_at": manifest.created_at,
        "version": maeve_version(),
        "runtime": _device(engine.device.infos[0]),
        "devices": [_device(info) for info in engine.device.infos],
        "model": {
            "image_size": model.image_size,
            "patch_size": model.patch_size,
            "grid": model.grid,
            "num_patches": model.num_patches,
            "channels": model.channels,
            "dim": model.dim,
            "depth": model.depth,
        },
        "preprocess": {"resize": manifest.preprocess.resize, "crop": manifest.preprocess.crop},
        "pooling": manifest.pooling,
        "pixel_target": manifest.pixel_target,
        "operations": {
            "embed": True,
            "reconstruct": manifest.can_reconstruct,
            "classify": manifest.can_classify,
        },
        "num_classes": manifest.num_classes,
        "provenance": manifest.provenance.model_dump(mode="json"),
        "limits": {
            **{
                name: getattr(settings, name)
                for name in ("max_images", "max_body_bytes", "max_pixels", "max_queue", "timeout_ms")
            },
            "max_passes": engine.max_passes,
        },
        "formats": settings.allowed_formats,
        "image_urls": settings.image_urls,
        "search": _search(search, settings),
        "cache": {"memory": settings.cache_bytes > 0, "redis": None if engine.remote is None else engine.remote.up},
    }


def _search(search: Search | None, settings: Settings) -> dict[str, Any] | None:
    described = None if search is None else search.describe()
    return None if described is None else described | {"thumbnails": settings.thumbnails is not None}


def _device(info: DeviceInfo) -> dict[str, Any]:
    return {
        "name": info.runtime,
        "device": info.device,
        "precision": info.precision,
        "lanes": info.lanes,
        "max_batch": info.max_batch,
        **info.details,
    }
