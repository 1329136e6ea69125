"""Where pretrained weights come from: files, web addresses, timm."""

import os
from typing import Any
from urllib.parse import urlparse

import mmengine
import timm
import torch
from mmengine.dist import barrier, is_main_process

from slab_det.checkpoints import CheckpointError, read_checkpoint


def open_checkpoint(source: str) -> dict[str, Any]:
    """Read the checkpoint ``source`` on the CPU; no code from it runs.

    Args:
        source: a path; ``timm://MODEL``, a model of timm with its pretrained weights; an
            ``http(s)://`` address, which is downloaded once into torch's hub folder; or an
            address of another of mmengine's file backends.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`slab_det.checkpoints.read_checkpoint`; timm
            has no such model or no weights of it.
    """
    scheme, separator, rest = source.partition('://')
    if not separator:
        return read_checkpoint(source)
    if scheme == 'timm':
        return _from_timm(rest)
    if scheme in ('http', 'https'):
        return read_checkpoint(_download(source))
    try:
        backend = mmengine.fileio.get_file_backend(source)
    except KeyError:
        raise CheckpointError(
            f'checkpoint {source} has a scheme that is not known; give a path, '
            'timm://MODEL, or an http(s):// address.'
        ) from None
    with backend.get_local_path(source) as path:
        return read_checkpoint(str(path))


def _from_timm(name: str) -> dict[str, Any]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f'checkpoint timm://{name} cannot be had: {reason}; check the name with '
            'timm.list_models(pretrained=True), and that the hub can be reached.'
        ) from error


def _download(url: str) -> str:
    """Return the path of the file behind ``url``; the first process downloads it."""
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(urlparse(url).path))
    if is_main_process() and not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        # Written whole or not at all by torch.
        try:
            torch.hub.download_url_to_file(url, path, progress=False)
        except OSError as error:
            raise CheckpointError(
                f'checkpoint {url} cannot be downloaded: {error}; check the '
                'address, or download it elsewhere and give its path.'
            ) from error
    barrier()
    return path
