# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check for ``minigpt4 doctor`` the CPU and the GPUs."""

import os
import shutil
import sys
from typing import Any

from .doctor_report import Report

GIB = 2**30


def check_devices(report: Report) -> None:
    """Add a line for the CPU and each GPU; torch was imported before."""
    try:
        n_cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        n_cores = os.cpu_count() or 1
    report.devices.append(f'CPU: {n_cores} cores, {_memory()}')
    torch: Any = sys.modules.get('torch')
    if torch is None or not hasattr(torch, 'cuda'):
        report.devices.append('GPU: unknown, torch does not import')
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            report.devices.append(_check_gpu(report, torch, index))
    elif torch.backends.mps.is_available():
        report.devices.append('GPU: Apple Metal (mps)')
    elif shutil.which('nvidia-smi'):
        report.devices.append('GPU: not usable')
        build = torch.version.cuda
        report.add_fault(
            'there is an NVIDIA driver, but torch '
            + (f'for CUDA {build} sees no GPU' if build else 'has no CUDA'),
            'nvidia-smi (the driver must support this CUDA and a GPU must be '
            'visible: see CUDA_VISIBLE_DEVICES)'
            if build
            else 'pip install --force-reinstall torch torchvision (a CUDA '
            'build: see pytorch.org)',
        )
    else:
        report.devices.append('GPU: none')


def _memory() -> str:
    """Describe the memory of the machine."""
    try:
        total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return 'memory unknown'
    return f'{total / GIB:.0f} GiB memory'


def _check_gpu(report: Report, torch: Any, index: int) -> str:
    """Multiply two matrices on a GPU; return a line on it."""
    try:
        properties = torch.cuda.get_device_properties(index)
        x = torch.ones(8, 8, device=f'cuda:{index}')
        (x @ x).sum().item()
        has_bf16 = properties.major >= 8
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        report.add_fault(
            f'GPU {index} does not compute: {text}',
            f'nvidia-smi -i {index} (is it in use, or too old or too new for '
            f'torch {torch.__version__}?)',
        )
        return f'GPU {index}: not usable'
    return (
        f'GPU {index}: {properties.name}, '
        f'{properties.total_memory / GIB:.0f} GiB, '
        + ('bf16' if has_bf16 else 'no bf16, so fp16')
    )
