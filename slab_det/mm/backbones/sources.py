"""Where pretrained weights come from: files, web addresses, timm and the Hugging Face hub."""

import hashlib
import os
from typing import Any
from urllib.parse import urlparse

import mmengine
import timm
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.runner import CheckpointLoader

from slab_det.checkpoints import CheckpointError, is_address, read_checkpoint
from slab_det.errors import one_line


def open_checkpoint(source: str) -> dict[str, Any]:
    """Read the checkpoint ``source`` on the CPU; no code from it runs.

    Args:
        source: a path; ``timm://MODEL``, a model of timm with its pretrained weights;
            ``hf-hub:OWNER/NAME``, weights on the Hugging Face hub as timm stores them; an
            ``http(s)://`` address, which is downloaded once into torch's hub folder; or an
            address of another of mmengine's file backends.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`slab_det.checkpoints.read_checkpoint`; timm
            or the hub has no such model, no weights of it, or cannot be reached.
    """
    source = str(source)
    scheme, _, rest = source.partition('://')
    if not is_address(source):
        return read_checkpoint(source)
    if source.startswith(('hf-hub:', 'hf_hub:')):
        return _from_hub(source, source.partition(':')[2].removeprefix('//'))
    if scheme == 'timm':
        return _from_timm(source, rest)
    if scheme in ('http', 'https'):
        return read_checkpoint(_download(source))
    try:
        backend = mmengine.fileio.get_file_backend(source)
    except KeyError:
        raise CheckpointError(
            f'checkpoint {source} has a scheme that is not known; give a path, '
            'timm://MODEL, hf-hub:OWNER/NAME, or an http(s):// address.'
        ) from None
    with backend.get_local_path(source) as path:
        return read_checkpoint(str(path))


@CheckpointLoader.register_scheme(prefixes=r'(?!.*://).*\.safetensors$')
def load_safetensors(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a safetensors file for mmengine's runner, which knows torch's format alone."""
    return read_checkpoint(filename)


def _from_hub(source: str, name: str) -> dict[str, Any]:
    try:
        return timm.models.load_state_dict_from_hf(name, weights_only=True)
    except Exception as error:  # whatever the hub's client raises about names and the network
        raise CheckpointError(
            f'checkpoint {source} cannot be loaded: {_first_line(error)}; check the name, and that '
            'the hub can be reached, or download the file elsewhere and give its path.'
        ) from error


def _from_timm(source: str, name: str) -> dict[str, Any]:
    described = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if described is not None and described.custom_load:
        raise CheckpointError(
            f'checkpoint {source} is in a format that timm reads with code of its own; save '
            'the state_dict() of the model in a file and give its path.'
        )
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # whatever timm and the hub's client raise
        raise CheckpointError(
            f'checkpoint {source} cannot be loaded: {_first_line(error)}; check the name with '
            'timm.list_models(pretrained=True), and that the hub can be reached.'
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip('.') if lines else type(error).__name__


def _download(url: str) -> str:
    """Return the path of the file behind ``url``, which one process of each machine downloads."""
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    # Files of many addresses have the same name.
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    path = os.path.join(folder, f'{digest}-{os.path.basename(urlparse(url).path)}')
    fault = None
    if int(os.environ.get('LOCAL_RANK', get_rank())) == 0 and not os.path.exists(path):
        try:
            os.makedirs(folder, exist_ok=True)
            # Written whole or not at all by torch.
            torch.hub.download_url_to_file(url, path, progress=False)
        except Exception as error:  # the others wait for the outcome, whatever it is
            fault = one_line(error)
    # Other machines may have no file; and no process goes on while another fails.
    if faults := [fault for fault in all_gather_object(fault) if fault]:
        raise CheckpointError(
            f'checkpoint {url} cannot be downloaded: {faults[0]}; check the address, or download '
            'it elsewhere and give its path.'
        )
    return path
